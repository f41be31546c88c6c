//! The head of a chain: its newest events, its owner, and how far its nodes reach.
//!
//! ```text
//! head = 1 u8 | sealed u8 | epoch u64 | owner u64 | floor u64 | first node u64 | next node u64
//!        | next index u64 | bytes of nodes u64 | last stamp u64 | runs...
//! ```
//! Every append and every change of ownership writes this key on the condition of its version: that
//! condition is the fence. Nodes `first node .. next node` and then the runs are the chain's events.

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::Fields;
use super::{Damaged, Run};
use crate::{ChainId, HostId, Position, Stamp};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 66;

/// See the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub is_sealed: bool,
    /// Grows by one at each change of owner.
    pub epoch: u64,
    pub owner: HostId,
    /// This epoch stores nothing at or under it.
    pub floor: Stamp,
    pub first_node: u64,
    pub next_node: u64,
    pub next_index: u64,
    /// Sum of the values of the nodes that are left.
    pub node_bytes: u64,
    /// Of the newest event, trimmed or not; 0 if there was none.
    pub last_stamp: Stamp,
    pub runs: Vec<Run>,
}

impl Head {
    /// The head of a chain without events.
    pub fn empty(owner: HostId, floor: Stamp) -> Self {
        Self {
            is_sealed: false,
            epoch: 1,
            owner,
            floor,
            first_node: 0,
            next_node: 0,
            next_index: 0,
            node_bytes: 0,
            last_stamp: Stamp(0),
            runs: Vec::new(),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.run_bytes());
        out.put_u8(FORMAT);
        out.put_u8(u8::from(self.is_sealed));
        for number in [
            self.epoch,
            self.owner.0,
            self.floor.0,
            self.first_node,
            self.next_node,
            self.next_index,
            self.node_bytes,
            self.last_stamp.0,
        ] {
            out.put_u64(number);
        }
        self.runs.iter().for_each(|run| out.put_slice(&run.bytes));
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a head", FORMAT, bytes)?;
        let is_sealed = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return Err(fields.malformed()),
        };
        Ok(Self {
            is_sealed,
            epoch: fields.u64()?,
            owner: HostId(fields.u64()?),
            floor: Stamp(fields.u64()?),
            first_node: fields.u64()?,
            next_node: fields.u64()?,
            next_index: fields.u64()?,
            node_bytes: fields.u64()?,
            last_stamp: Stamp(fields.u64()?),
            runs: Run::split(fields.rest())?,
        })
    }

    pub fn run_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes.len()).sum()
    }

    pub fn events(&self) -> usize {
        self.runs.iter().map(|run| run.events as usize).sum()
    }

    /// Nothing at or under it will ever be added to the chain.
    pub fn bound(&self) -> Stamp {
        self.last_stamp.max(self.floor)
    }

    /// The newest event in the head.
    pub fn last_position(&self, chain: ChainId) -> Option<Position> {
        self.runs.last().map(|run| run.last_position(chain))
    }
}
