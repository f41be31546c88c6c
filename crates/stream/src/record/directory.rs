//! The directory of a stream: its chains, their states and owners, and the stream's settings.
//!
//! ```text
//! directory = 1 u8 | chains at first u32 | created u64 | trimmed 28 | age max u64 | bytes max u64
//!             | tier after u64 | chains max u32 | next chain u32 | count u32 | chain...
//! chain     = id u32 | state u8 | owner u64 | created u64 | floor u64
//! ```
//! Times are microseconds; an age or a size of 0 means without limit. Whatever changes a chain's state or
//! owner writes the directory and the chain's head in one commit.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};

use super::Damaged;
use super::wire::Fields;
use crate::{ChainId, HostId, Position, Stamp};

const FORMAT: u8 = 1;

/// What a chain is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainState {
    /// Announced; stores nothing yet. While there is one, no reader advances.
    Pending,
    /// Takes events and takes part in the safe time.
    Active,
    /// Takes no more events; readable; takes no part in the safe time.
    Sealed,
}

/// A chain as the directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainInfo {
    pub id: ChainId,
    pub state: ChainState,
    pub owner: HostId,
    pub created: Timestamp,
    pub floor: Stamp,
}

/// How long and how much a stream keeps, and how far it may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Events older than this are trimmed; none: never.
    pub age_max: Option<Duration>,
    /// Once the stream's nodes exceed this, the oldest are trimmed; none: never.
    pub bytes_max: Option<u64>,
    /// Nodes older than this move to blobs; none: never.
    pub tier_after: Option<Duration>,
    /// Most chains that are not sealed at the same time.
    pub chains_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            age_max: None,
            bytes_max: None,
            tier_after: None,
            chains_max: 16,
        }
    }
}

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub chains_at_first: u32,
    pub created: Timestamp,
    /// Everything at or under it has been given up by retention.
    pub trimmed: Position,
    pub settings: Settings,
    pub next_chain: ChainId,
    pub chains: Vec<ChainInfo>,
}

impl Directory {
    pub fn chain(&self, id: ChainId) -> Option<&ChainInfo> {
        self.chains.iter().find(|chain| chain.id == id)
    }

    pub fn chain_mut(&mut self, id: ChainId) -> Option<&mut ChainInfo> {
        self.chains.iter_mut().find(|chain| chain.id == id)
    }

    pub fn active(&self) -> impl Iterator<Item = &ChainInfo> {
        self.chains.iter().filter(|chain| chain.state == ChainState::Active)
    }

    pub fn has_pending(&self) -> bool {
        self.chains.iter().any(|chain| chain.state == ChainState::Pending)
    }

    /// Whether the chain is one of those that the stream's identifier speaks of; they are never sealed.
    pub fn is_addressable(&self, chain: ChainId) -> bool {
        chain.0 <= self.chains_at_first
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128 + self.chains.len() * 29);
        out.put_u8(FORMAT);
        out.put_u32(self.chains_at_first);
        out.put_u64(self.created.as_micros());
        out.put_slice(&self.trimmed.to_bytes());
        out.put_u64(micros(self.settings.age_max));
        out.put_u64(self.settings.bytes_max.unwrap_or(0));
        out.put_u64(micros(self.settings.tier_after));
        out.put_u32(self.settings.chains_max);
        out.put_u32(self.next_chain.0);
        out.put_u32(u32::try_from(self.chains.len()).expect("chains are counted in 32 bits"));
        for chain in &self.chains {
            out.put_u32(chain.id.0);
            out.put_u8(match chain.state {
                ChainState::Pending => 0,
                ChainState::Active => 1,
                ChainState::Sealed => 2,
            });
            out.put_u64(chain.owner.0);
            out.put_u64(chain.created.as_micros());
            out.put_u64(chain.floor.0);
        }
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a directory", FORMAT, bytes)?;
        let mut directory = Self {
            chains_at_first: fields.u32()?,
            created: Timestamp::from_micros(fields.u64()?),
            trimmed: Position::from_bytes(&fields.array()?),
            settings: Settings {
                age_max: duration(fields.u64()?),
                bytes_max: Some(fields.u64()?).filter(|&bytes| bytes > 0),
                tier_after: duration(fields.u64()?),
                chains_max: fields.u32()?,
            },
            next_chain: ChainId(fields.u32()?),
            chains: Vec::new(),
        };
        for _ in 0..fields.u32()? {
            directory.chains.push(chain(&mut fields)?);
        }
        fields.end()?;
        Ok(directory)
    }
}

fn chain(fields: &mut Fields<'_>) -> Result<ChainInfo, Damaged> {
    Ok(ChainInfo {
        id: ChainId(fields.u32()?),
        state: match fields.u8()? {
            0 => ChainState::Pending,
            1 => ChainState::Active,
            2 => ChainState::Sealed,
            _ => return Err(fields.malformed()),
        },
        owner: HostId(fields.u64()?),
        created: Timestamp::from_micros(fields.u64()?),
        floor: Stamp(fields.u64()?),
    })
}

fn micros(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1))
}

fn duration(micros: u64) -> Option<Duration> {
    (micros > 0).then(|| Duration::from_micros(micros))
}
