//! Hosts: that one exists and was not fenced, and its latest heartbeat.
//!
//! ```text
//! member = 1 u8 | fenced u8 | address (length u32, text)
//! beat   = 1 u8 | promise u64 | limit u64 | wall clock u64
//! ```
//! A host writes its beat, and takes or gives chains, only on the condition that its member record is
//! still the one it wrote. Fencing a host is writing its member record: from then on its beat is final.

use bowline_foundation::clock::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};

use super::Damaged;
use super::wire::{Fields, put_text};
use crate::Stamp;

const FORMAT: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberState {
    Live,
    Fenced,
}

/// A host's right to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub state: MemberState,
    /// Where other hosts reach it; empty if they cannot.
    pub address: String,
}

/// A host's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The host stores nothing at or under it any more, in any chain.
    pub promise: Stamp,
    /// The host gives no promise beyond it, not in memory either, before the next beat is durable.
    pub limit: Stamp,
    /// The host's wall clock when it wrote.
    pub wall: Timestamp,
}

impl Member {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u8(u8::from(self.state == MemberState::Fenced));
        put_text(&self.address, &mut out);
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a member", FORMAT, bytes)?;
        let state = match fields.u8()? {
            0 => MemberState::Live,
            1 => MemberState::Fenced,
            _ => return Err(fields.malformed()),
        };
        let address = fields.text()?;
        fields.end()?;
        Ok(Self { state, address })
    }
}

impl Beat {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(25);
        out.put_u8(FORMAT);
        out.put_u64(self.promise.0);
        out.put_u64(self.limit.0);
        out.put_u64(self.wall.as_micros());
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, Damaged> {
        let mut fields = Fields::new("a beat", FORMAT, bytes)?;
        let beat = Self {
            promise: Stamp(fields.u64()?),
            limit: Stamp(fields.u64()?),
            wall: Timestamp::from_micros(fields.u64()?),
        };
        fields.end()?;
        Ok(beat)
    }
}
