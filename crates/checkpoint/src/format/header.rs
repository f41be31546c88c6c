//! The first 68 bytes: what the checkpoint is of. They are not compressed, so that any tool can tell.

use bowline_foundation::digest::Digest;

use super::decode::Bytes;
use super::{FORMAT_VERSION, ReadError};
use crate::{Checkpoint, Identity, Options, Poll};

const MAGIC: &[u8; 8] = b"BWLNCKPT";

pub(super) struct Header {
    pub identity: Identity,
    pub body_bytes: u64,
}

impl Header {
    pub(super) fn of(checkpoint: &Checkpoint, body: &[u8]) -> Self {
        Self {
            identity: checkpoint.identity,
            body_bytes: body.len() as u64,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Identity { module, pass, options } = self.identity;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&pass.to_le_bytes());
        bytes.extend_from_slice(module.as_bytes());
        bytes.extend_from_slice(&options.stack_bytes.to_le_bytes());
        let poll: u32 = match options.poll {
            Poll::Word => 0,
            Poll::Countdown => 1,
        };
        bytes.extend_from_slice(&poll.to_le_bytes());
        bytes.extend_from_slice(&self.body_bytes.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    /// Looks at what comes before anything that a version may change.
    pub(super) fn check_version(bytes: &[u8]) -> Result<(), ReadError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ReadError::NotACheckpoint)?;
        match Bytes(rest).u32()? {
            FORMAT_VERSION => Ok(()),
            other => Err(ReadError::Version(other)),
        }
    }

    /// Reads the header; the rest of the bytes comes back.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), ReadError> {
        let mut bytes = Bytes(&bytes[MAGIC.len()..]);
        bytes.u32()?;
        let pass = bytes.u32()?;
        let module = Digest::from_bytes(bytes.array()?);
        let stack_bytes = bytes.u32()?;
        let poll = match bytes.u32()? {
            0 => Poll::Word,
            1 => Poll::Countdown,
            _ => return Err(ReadError::Malformed("its header names no kind of poll")),
        };
        let body_bytes = bytes.u64()?;
        if bytes.array()? != [0; 4] {
            return Err(ReadError::Malformed("its header has bits that mean nothing"));
        }
        let identity = Identity {
            module,
            pass,
            options: Options { stack_bytes, poll },
        };
        Ok((Self { identity, body_bytes }, bytes.0))
    }
}
