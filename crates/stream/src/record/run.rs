//! A run: events of one chain that were stored together, with consecutive stamps and indices.
//!
//! ```text
//! run   = host u64 | first stamp u64 | first index u64 | events u32 | bytes of the events u32 | event...
//! event = flags u8 | id 16 | [origin u64] | key length u16 | body length u32 | key | body
//! flags: 1 = has a key, 2 = has an origin, 4 = the identifier was given, not drawn here
//! ```
//! The event number `n` of a run has the stamp `first stamp + n` and the index `first index + n`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Damaged;
use crate::{ChainId, Event, EventId, HostId, Position, Stamp};

const HEADER_BYTES: usize = 32;
const HAS_KEY: u8 = 1;
const HAS_ORIGIN: u8 = 2;
const IS_GIVEN: u8 = 4;
const MALFORMED: Damaged = Damaged::Malformed {
    what: "a run of events",
};

/// An event on its way into a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub id: EventId,
    /// Whether the client gave the identifier, so that it may come again.
    pub is_given: bool,
    /// Set if copies may lie in other chains; all of them have stamps after this one.
    pub origin: Option<Stamp>,
    pub key: Option<Bytes>,
    pub body: Bytes,
}

impl Draft {
    /// Bytes of the encoded event.
    pub fn encoded_bytes(&self) -> usize {
        let origin = if self.origin.is_some() { 8 } else { 0 };
        23 + origin + self.key.as_ref().map_or(0, Bytes::len) + self.body.len()
    }

    fn encode(&self, out: &mut BytesMut) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let has_key = flag(self.key.is_some(), HAS_KEY);
        let has_origin = flag(self.origin.is_some(), HAS_ORIGIN);
        out.put_u8(has_key | has_origin | flag(self.is_given, IS_GIVEN));
        out.put_slice(&self.id.0);
        if let Some(origin) = self.origin {
            out.put_u64(origin.0);
        }
        let key = self.key.as_deref().unwrap_or_default();
        out.put_u16(u16::try_from(key.len()).expect("keys are checked when they come in"));
        out.put_u32(u32::try_from(self.body.len()).expect("bodies are checked when they come in"));
        out.put_slice(key);
        out.put_slice(&self.body);
    }
}

/// Encoded events with what one needs to know without decoding them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub host: HostId,
    pub first_stamp: Stamp,
    pub first_index: u64,
    pub events: u32,
    /// The whole run, header included.
    pub bytes: Bytes,
}

impl Run {
    /// Encodes `drafts`, at least one, the first with the stamp and index given.
    pub fn encode<'a>(
        (host, first_stamp, first_index): (HostId, Stamp, u64),
        drafts: impl Iterator<Item = &'a Draft> + Clone,
    ) -> Self {
        let bytes: usize = drafts.clone().map(Draft::encoded_bytes).sum();
        let events = u32::try_from(drafts.clone().count()).expect("requests are bounded");
        let mut out = BytesMut::with_capacity(HEADER_BYTES + bytes);
        out.put_u64(host.0);
        out.put_u64(first_stamp.0);
        out.put_u64(first_index);
        out.put_u32(events);
        out.put_u32(u32::try_from(bytes).expect("requests are bounded"));
        drafts.for_each(|draft| draft.encode(&mut out));
        Self {
            host,
            first_stamp,
            first_index,
            events,
            bytes: out.freeze(),
        }
    }

    /// Splits encoded runs that follow each other.
    pub fn split(mut bytes: Bytes) -> Result<Vec<Self>, Damaged> {
        let mut runs = Vec::new();
        while !bytes.is_empty() {
            if bytes.len() < HEADER_BYTES {
                return Err(MALFORMED);
            }
            let mut header = &bytes[..HEADER_BYTES];
            let (host, stamp, index) = (header.get_u64(), header.get_u64(), header.get_u64());
            let (events, length) = (header.get_u32(), header.get_u32() as usize);
            if events == 0 || bytes.len() - HEADER_BYTES < length {
                return Err(MALFORMED);
            }
            runs.push(Self {
                host: HostId(host),
                first_stamp: Stamp(stamp),
                first_index: index,
                events,
                bytes: bytes.split_to(HEADER_BYTES + length),
            });
        }
        Ok(runs)
    }

    pub fn last_stamp(&self) -> Stamp {
        Stamp(self.first_stamp.0 + u64::from(self.events) - 1)
    }

    /// The position of the event number `offset` of the run.
    pub fn position(&self, chain: ChainId, offset: u32) -> Position {
        Position {
            stamp: Stamp(self.first_stamp.0 + u64::from(offset)),
            host: self.host,
            chain,
            index: self.first_index + u64::from(offset),
        }
    }

    pub fn last_position(&self, chain: ChainId) -> Position {
        self.position(chain, self.events - 1)
    }
}

/// A stored event with what only the platform needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub event: Event,
    pub is_given: bool,
    pub origin: Option<Stamp>,
}

/// Reads the events of one run in their order.
#[derive(Debug)]
pub(crate) struct RunReader {
    run: Run,
    chain: ChainId,
    offset: u32,
    at: usize,
}

impl RunReader {
    pub fn new(run: Run, chain: ChainId) -> Self {
        Self {
            run,
            chain,
            offset: 0,
            at: HEADER_BYTES,
        }
    }

    /// The position of the next event, none at the end.
    pub fn peek(&self) -> Option<Position> {
        (self.offset < self.run.events).then(|| self.run.position(self.chain, self.offset))
    }

    /// The position of the run's last event.
    pub fn last(&self) -> Position {
        self.run.last_position(self.chain)
    }

    /// Reads the next event; only if [`RunReader::peek`] found one.
    pub fn next(&mut self) -> Result<Item, Damaged> {
        let position = self.run.position(self.chain, self.offset);
        let entry = EntryHeader::read(&self.run.bytes, self.at)?;
        let key = (entry.flags & HAS_KEY != 0).then(|| self.run.bytes.slice(entry.body - entry.key_bytes..entry.body));
        let body = self.run.bytes.slice(entry.body..entry.end);
        self.at = entry.end;
        self.offset += 1;
        Ok(Item {
            event: Event {
                position,
                id: entry.id,
                key,
                body,
            },
            is_given: entry.flags & IS_GIVEN != 0,
            origin: entry.origin,
        })
    }

    /// Passes over the next event.
    pub fn skip(&mut self) -> Result<(), Damaged> {
        self.at = EntryHeader::read(&self.run.bytes, self.at)?.end;
        self.offset += 1;
        Ok(())
    }
}

struct EntryHeader {
    flags: u8,
    id: EventId,
    origin: Option<Stamp>,
    key_bytes: usize,
    /// Where the body begins and ends.
    body: usize,
    end: usize,
}

impl EntryHeader {
    fn read(bytes: &Bytes, at: usize) -> Result<Self, Damaged> {
        let mut rest = bytes.get(at..).ok_or(MALFORMED)?;
        let before = rest.len();
        if rest.len() < 23 {
            return Err(MALFORMED);
        }
        let flags = rest.get_u8();
        let mut id = [0; 16];
        rest.copy_to_slice(&mut id);
        let mut origin = None;
        if flags & HAS_ORIGIN != 0 {
            if rest.len() < 14 {
                return Err(MALFORMED);
            }
            origin = Some(Stamp(rest.get_u64()));
        }
        let (key_bytes, body_bytes) = (usize::from(rest.get_u16()), rest.get_u32() as usize);
        let body = at + (before - rest.len()) + key_bytes;
        let end = body + body_bytes;
        if end > bytes.len() {
            return Err(MALFORMED);
        }
        Ok(Self {
            flags,
            id: EventId(id),
            origin,
            key_bytes,
            body,
            end,
        })
    }
}
