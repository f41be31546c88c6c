//! The first 72 bytes: what the checkpoint or delta is of. They are not compressed, so that any tool can tell.

use bowline_foundation::digest::Digest;

use super::decode::Bytes;
use super::{DELTA_VERSION, FORMAT_VERSION, ReadError};
use crate::{Identity, Options, Poll};

/// What the bytes are.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Checkpoint,
    Delta,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Checkpoint => b"BWLNCKPT",
            Self::Delta => b"BWLNDLTA",
        }
    }

    fn version(self) -> u32 {
        match self {
            Self::Checkpoint => FORMAT_VERSION,
            Self::Delta => DELTA_VERSION,
        }
    }

    /// Looks at what comes before anything that a version may change.
    pub(super) fn check(self, bytes: &[u8]) -> Result<(), ReadError> {
        let rest = bytes.strip_prefix(self.magic()).ok_or(match self {
            Self::Checkpoint => ReadError::NotACheckpoint,
            Self::Delta => ReadError::NotADelta,
        })?;
        let found = Bytes(rest).u32()?;
        if found != self.version() {
            let read = self.version();
            return Err(ReadError::Version { found, read });
        }
        Ok(())
    }
}

pub(super) struct Header {
    pub identity: Identity,
    /// Of the state, before it was packed.
    pub state_bytes: u64,
    /// How many pages come behind it.
    pub pages: u64,
}

impl Header {
    pub(super) fn encode(&self, kind: Kind) -> Vec<u8> {
        let Identity { module, pass, options } = self.identity;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(kind.magic());
        bytes.extend_from_slice(&kind.version().to_le_bytes());
        bytes.extend_from_slice(&pass.to_le_bytes());
        bytes.extend_from_slice(module.as_bytes());
        bytes.extend_from_slice(&options.stack_bytes.to_le_bytes());
        let poll: u32 = match options.poll {
            Poll::Word => 0,
            Poll::Countdown => 1,
        };
        bytes.extend_from_slice(&poll.to_le_bytes());
        bytes.extend_from_slice(&self.state_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes
    }

    /// Reads the header, whose kind was looked at; the rest of the bytes comes back.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), ReadError> {
        let mut bytes = Bytes(bytes);
        bytes.u64()?;
        bytes.u32()?;
        let pass = bytes.u32()?;
        let module = Digest::from_bytes(bytes.array()?);
        let stack_bytes = bytes.u32()?;
        let poll = match bytes.u32()? {
            0 => Poll::Word,
            1 => Poll::Countdown,
            _ => return Err(ReadError::Malformed("its header names no kind of poll")),
        };
        let (state_bytes, pages) = (bytes.u64()?, bytes.u64()?);
        let identity = Identity {
            module,
            pass,
            options: Options { stack_bytes, poll },
        };
        let header = Self {
            identity,
            state_bytes,
            pages,
        };
        Ok((header, bytes.0))
    }
}
