//! Nodes: the older events of a chain, numbered and never changed; and packs, which replace many of them.
//!
//! ```text
//! node = 1 u8 | kind 0 u8 | first stamp u64 | last stamp u64 | first index u64 | runs...
//! pack = 1 u8 | kind 1 u8 | first number u64 | blob digest 32 | count u32 | (offset u32 | length u32)...
//!        | first stamp u64 | last stamp u64 | first index u64
//! ```
//! A pack stands under the number of the last node that it replaces. So whoever scans from a number on
//! finds the node itself or the pack that holds it.

use bowline_foundation::digest::Digest;
use bytes::{BufMut, Bytes, BytesMut};

use super::wire::Fields;
use super::{Damaged, Run};
use crate::Stamp;

const FORMAT: u8 = 1;
const NODE: u8 = 0;
const PACK: u8 = 1;
const NODE_HEADER_BYTES: usize = 26;

/// A run of older events, moved out of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub first_stamp: Stamp,
    pub last_stamp: Stamp,
    pub first_index: u64,
    pub runs: Vec<Run>,
}

/// Nodes whose bytes lie in a blob, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pack {
    pub first_number: u64,
    pub digest: Digest,
    pub nodes: Vec<Packed>,
    pub first_stamp: Stamp,
    pub last_stamp: Stamp,
    pub first_index: u64,
}

/// Where a node lies in its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub offset: u32,
    pub length: u32,
}

/// What stands under the key of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Node(Node),
    Pack(Pack),
}

impl Node {
    /// A node of these runs, at least one.
    pub fn of(runs: Vec<Run>) -> Self {
        let (first, last) = (&runs[0], &runs[runs.len() - 1]);
        Self {
            first_stamp: first.first_stamp,
            last_stamp: last.last_stamp(),
            first_index: first.first_index,
            runs,
        }
    }

    /// Bytes of the encoded node.
    pub fn bytes(&self) -> u64 {
        let runs: usize = self.runs.iter().map(|run| run.bytes.len()).sum();
        (NODE_HEADER_BYTES + runs) as u64
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes() as usize);
        out.put_u8(FORMAT);
        out.put_u8(NODE);
        out.put_u64(self.first_stamp.0);
        out.put_u64(self.last_stamp.0);
        out.put_u64(self.first_index);
        self.runs.iter().for_each(|run| out.put_slice(&run.bytes));
        out.freeze()
    }
}

impl Pack {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(70 + self.nodes.len() * 8);
        out.put_u8(FORMAT);
        out.put_u8(PACK);
        out.put_u64(self.first_number);
        out.put_slice(self.digest.as_bytes());
        out.put_u32(u32::try_from(self.nodes.len()).expect("packs are bounded"));
        for node in &self.nodes {
            out.put_u32(node.offset);
            out.put_u32(node.length);
        }
        out.put_u64(self.first_stamp.0);
        out.put_u64(self.last_stamp.0);
        out.put_u64(self.first_index);
        out.freeze()
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Damaged> {
        let first_number = fields.u64()?;
        let digest = Digest::from_bytes(fields.array()?);
        let count = fields.u32()?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Packed {
                offset: fields.u32()?,
                length: fields.u32()?,
            });
        }
        Ok(Self {
            first_number,
            digest,
            nodes,
            first_stamp: Stamp(fields.u64()?),
            last_stamp: Stamp(fields.u64()?),
            first_index: fields.u64()?,
        })
    }
}

impl Stored {
    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a node", FORMAT, bytes)?;
        match fields.u8()? {
            NODE => Ok(Self::Node(Node {
                first_stamp: Stamp(fields.u64()?),
                last_stamp: Stamp(fields.u64()?),
                first_index: fields.u64()?,
                runs: Run::split(fields.rest())?,
            })),
            PACK => {
                let pack = Pack::decode(&mut fields)?;
                fields.end()?;
                Ok(Self::Pack(pack))
            }
            _ => Err(fields.malformed()),
        }
    }

    /// Bytes of the encoded nodes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Node(node) => node.bytes(),
            Self::Pack(pack) => pack.nodes.iter().map(|node| u64::from(node.length)).sum(),
        }
    }

    pub fn last_stamp(&self) -> Stamp {
        match self {
            Self::Node(node) => node.last_stamp,
            Self::Pack(pack) => pack.last_stamp,
        }
    }
}
