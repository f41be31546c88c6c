//! The records behind the keys of objects, apart from what callers see.
//!
//! Numeric tags never change their meaning. A newer format is refused, never guessed at.

use bytes::Bytes;

use super::codec::{Decoder, Encoder, RecordError};
use super::id::{StoreName, Unique};
use super::model::EventKind;

const ITEM: u8 = b'I';
const NODE: u8 = b'N';
const BEACON: u8 = b'B';
const CLAIM: u8 = b'C';
const SWEEP: u8 = b'S';
const APPLIED: u8 = b'A';

/// What the item of an identifier stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// The object was deleted; its events remain.
    Deleted,
    /// The create that would have used this identifier may never apply any more.
    Barred,
}

/// One index key that an object has, with the version of the object at which it got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexRef {
    pub index: String,
    pub key: Bytes,
    pub since: u64,
}

/// Another item of the same request, in another store, that must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loser {
    pub store: StoreName,
    pub by: LoserBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoserBy {
    /// The item with this unique part, if it is there.
    Unique(Unique),
    /// The item that the claim of the same request names, if there is one or may still come.
    Claim,
}

/// One event. `body` is none in the newest event of a live item: it is the item's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRecord {
    pub event_id: u128,
    pub kind: EventKind,
    pub version: u64,
    pub at_micros: u64,
    pub by: String,
    pub request: String,
    /// Whether the identifier was made from a client's token, so that it must be found again later.
    pub origin: Origin,
    pub body: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Random,
    Token,
}

/// The one value of an object: the object, its newest events, and what its index entries still need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub state: State,
    pub version: u64,
    pub created_at_micros: u64,
    pub request_id: u128,
    pub supersedes: Vec<Loser>,
    pub body: Bytes,
    pub indexes: Vec<IndexRef>,
    /// None once the index agrees with the object. Otherwise the entries of `indexes` that are as old as
    /// `version` are still to be written and these are still to be removed.
    pub pending_removes: Option<Vec<IndexRef>>,
    /// The newest events, oldest first; earlier ones lie in nodes.
    pub events: Vec<EventRecord>,
}

impl Item {
    /// The index entries that are still to be written.
    pub fn pending_adds(&self) -> impl Iterator<Item = &IndexRef> {
        let pending = self.pending_removes.is_some();
        self.indexes
            .iter()
            .filter(move |each| pending && each.since == self.version)
    }

    /// The newest events with all their bodies.
    pub fn events_in_full(&self) -> Vec<EventRecord> {
        let mut events = self.events.clone();
        if let Some(newest) = events.last_mut() {
            newest.body.get_or_insert_with(|| self.body.clone());
        }
        events
    }

    pub fn encode(&self) -> Bytes {
        let mut to = Encoder::new(ITEM);
        to.tag(match self.state {
            State::Live => 0,
            State::Deleted => 1,
            State::Barred => 2,
        });
        to.number(self.version);
        to.number(self.created_at_micros);
        to.wide(self.request_id);
        to.list(&self.supersedes, put_loser);
        to.bytes(&self.body);
        to.list(&self.indexes, put_index);
        match &self.pending_removes {
            None => to.tag(0),
            Some(removes) => {
                to.tag(1);
                to.list(removes, put_index);
            }
        }
        to.list(&self.events, put_event);
        to.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let mut from = Decoder::new(bytes, ITEM)?;
        let state = match from.tag()? {
            0 => State::Live,
            1 => State::Deleted,
            2 => State::Barred,
            _ => return Err(RecordError::Damaged("state")),
        };
        let item = Self {
            state,
            version: from.number()?,
            created_at_micros: from.number()?,
            request_id: from.wide()?,
            supersedes: from.list(take_loser)?,
            body: from.bytes()?,
            indexes: from.list(take_index)?,
            pending_removes: match from.tag()? {
                0 => None,
                1 => Some(from.list(take_index)?),
                _ => return Err(RecordError::Damaged("pending")),
            },
            events: from.list(take_event)?,
        };
        from.finish()?;
        Ok(item)
    }
}

/// Events that no longer fit into the item. What a node says never changes.
pub(super) fn encode_node(events: &[EventRecord]) -> Bytes {
    let mut to = Encoder::new(NODE);
    to.list(events, put_event);
    to.finish()
}

pub(super) fn decode_node(bytes: Bytes) -> Result<Vec<EventRecord>, RecordError> {
    let mut from = Decoder::new(bytes, NODE)?;
    let events = from.list(take_event)?;
    from.finish()?;
    Ok(events)
}

/// The index entries that wait in the item of the same name.
pub(super) fn encode_beacon(adds: &[IndexRef]) -> Bytes {
    let mut to = Encoder::new(BEACON);
    to.list(adds, put_index);
    to.finish()
}

pub(super) fn decode_beacon(bytes: Bytes) -> Result<Vec<IndexRef>, RecordError> {
    let mut from = Decoder::new(bytes, BEACON)?;
    let adds = from.list(take_index)?;
    from.finish()?;
    Ok(adds)
}

/// Which item a client's token made here; none: the token may make none here any more.
pub(super) fn encode_claim(claim: Option<Unique>) -> Bytes {
    let mut to = Encoder::new(CLAIM);
    match claim {
        None => to.tag(0),
        Some(unique) => {
            to.tag(1);
            to.wide(unique.number());
        }
    }
    to.finish()
}

pub(super) fn decode_claim(bytes: Bytes) -> Result<Option<Unique>, RecordError> {
    let mut from = Decoder::new(bytes, CLAIM)?;
    let claim = match from.tag()? {
        0 => None,
        1 => Some(Unique::from_number(from.wide()?)),
        _ => return Err(RecordError::Damaged("claim")),
    };
    from.finish()?;
    Ok(claim)
}

/// A note that the losers of the item of the same name are not yet known to be gone: nothing but its head.
pub(super) fn encode_sweep() -> Bytes {
    Encoder::new(SWEEP).finish()
}

/// The version that a client's token made.
pub(super) fn encode_applied(version: u64) -> Bytes {
    let mut to = Encoder::new(APPLIED);
    to.number(version);
    to.finish()
}

pub(super) fn decode_applied(bytes: Bytes) -> Result<u64, RecordError> {
    let mut from = Decoder::new(bytes, APPLIED)?;
    let version = from.number()?;
    from.finish()?;
    Ok(version)
}

fn put_index(to: &mut Encoder, index: &IndexRef) {
    to.bytes(index.index.as_bytes());
    to.bytes(&index.key);
    to.number(index.since);
}

fn take_index(from: &mut Decoder) -> Result<IndexRef, RecordError> {
    Ok(IndexRef {
        index: from.text()?,
        key: from.bytes()?,
        since: from.number()?,
    })
}

fn put_loser(to: &mut Encoder, loser: &Loser) {
    to.bytes(loser.store.as_str().as_bytes());
    match loser.by {
        LoserBy::Unique(unique) => {
            to.tag(0);
            to.wide(unique.number());
        }
        LoserBy::Claim => to.tag(1),
    }
}

fn take_loser(from: &mut Decoder) -> Result<Loser, RecordError> {
    Ok(Loser {
        store: from.text()?.parse().map_err(|_| RecordError::Damaged("store"))?,
        by: match from.tag()? {
            0 => LoserBy::Unique(Unique::from_number(from.wide()?)),
            1 => LoserBy::Claim,
            _ => return Err(RecordError::Damaged("loser")),
        },
    })
}

fn put_event(to: &mut Encoder, event: &EventRecord) {
    to.wide(event.event_id);
    to.tag(match event.kind {
        EventKind::Create => 0,
        EventKind::Update => 1,
        EventKind::Delete => 2,
    });
    to.number(event.version);
    to.number(event.at_micros);
    to.bytes(event.by.as_bytes());
    to.bytes(event.request.as_bytes());
    to.tag(u8::from(event.origin == Origin::Token));
    match &event.body {
        None => to.tag(0),
        Some(body) => {
            to.tag(1);
            to.bytes(body);
        }
    }
}

fn take_event(from: &mut Decoder) -> Result<EventRecord, RecordError> {
    Ok(EventRecord {
        event_id: from.wide()?,
        kind: match from.tag()? {
            0 => EventKind::Create,
            1 => EventKind::Update,
            2 => EventKind::Delete,
            _ => return Err(RecordError::Damaged("kind")),
        },
        version: from.number()?,
        at_micros: from.number()?,
        by: from.text()?,
        request: from.text()?,
        origin: match from.tag()? {
            0 => Origin::Random,
            1 => Origin::Token,
            _ => return Err(RecordError::Damaged("origin")),
        },
        body: match from.tag()? {
            0 => None,
            1 => Some(from.bytes()?),
            _ => return Err(RecordError::Damaged("body")),
        },
    })
}

#[cfg(test)]
mod tests;
