//! Reads the state. Every length is compared with what is left before anything is reserved for it.

use bytes::Bytes as Shared;

use super::ReadError;
use super::chunks::Unpacked;
use crate::{
    Checkpoint, Delta, Frame, Identity, Mark, MemoryChanges, MemoryImage, Page, Site, Stop, TableImage, Value,
};

pub(super) fn checkpoint(unpacked: &Unpacked, identity: Identity) -> Result<Checkpoint, ReadError> {
    let (mut bytes, mut contents) = (Bytes(&unpacked.state), unpacked.pages());
    let checkpoint = Checkpoint {
        identity,
        memories: bytes.list(|bytes| memory(bytes, &mut contents))?,
        globals: bytes.list(value)?,
        tables: bytes.list(table)?,
        frames: bytes.list(frame)?,
        host: bytes.bytes()?,
    };
    end(&bytes, contents)?;
    Ok(checkpoint)
}

pub(super) fn delta(unpacked: &Unpacked, identity: Identity, base: Mark) -> Result<Delta, ReadError> {
    let (mut bytes, mut contents) = (Bytes(&unpacked.state), unpacked.pages());
    let delta = Delta {
        identity,
        base,
        memories: bytes.list(|bytes| changes(bytes, &mut contents))?,
        globals: bytes.list(value)?,
        tables: bytes.list(table)?,
        frames: bytes.list(frame)?,
        host: bytes.bytes()?,
    };
    end(&bytes, contents)?;
    Ok(delta)
}

fn end(bytes: &Bytes<'_>, mut contents: impl Iterator<Item = Shared>) -> Result<(), ReadError> {
    bytes.end()?;
    match contents.next() {
        None => Ok(()),
        Some(_) => Err(ReadError::Malformed("it has more pages than it lists")),
    }
}

fn memory(bytes: &mut Bytes<'_>, contents: &mut impl Iterator<Item = Shared>) -> Result<MemoryImage, ReadError> {
    Ok(MemoryImage {
        size_pages: bytes.u64()?,
        pages: bytes.list(|bytes| page(bytes, contents))?,
    })
}

fn changes(bytes: &mut Bytes<'_>, contents: &mut impl Iterator<Item = Shared>) -> Result<MemoryChanges, ReadError> {
    Ok(MemoryChanges {
        size_pages: bytes.u64()?,
        zeroed: bytes.list(Bytes::u64)?,
        pages: bytes.list(|bytes| page(bytes, contents))?,
    })
}

fn page(bytes: &mut Bytes<'_>, contents: &mut impl Iterator<Item = Shared>) -> Result<Page, ReadError> {
    Ok(Page {
        index: bytes.u64()?,
        bytes: contents
            .next()
            .ok_or(ReadError::Malformed("it lists more pages than it has"))?,
    })
}

fn table(bytes: &mut Bytes<'_>) -> Result<TableImage, ReadError> {
    let elements = bytes.list(value)?;
    Ok(TableImage { elements })
}

fn frame(bytes: &mut Bytes<'_>) -> Result<Frame, ReadError> {
    let site = Site {
        function: bytes.u32()?,
        place: bytes.u32()?,
        stop: match bytes.u8()? {
            0 => Stop::Here,
            1 => Stop::Inside,
            _ => return Err(ReadError::Malformed("a frame does not say how it stopped")),
        },
    };
    let values = bytes.list(value)?;
    Ok(Frame { site, values })
}

fn value(bytes: &mut Bytes<'_>) -> Result<Value, ReadError> {
    Ok(match bytes.u8()? {
        0 => Value::I32(bytes.u32()?),
        1 => Value::I64(bytes.u64()?),
        2 => Value::F32(bytes.u32()?),
        3 => Value::F64(bytes.u64()?),
        4 => Value::V128(u128::from_le_bytes(bytes.array()?)),
        5 => Value::Function(None),
        6 => Value::Function(Some(bytes.u32()?)),
        7 => Value::Extern(None),
        8 => Value::Extern(Some(bytes.u64()?)),
        _ => return Err(ReadError::Malformed("a value has an unknown type")),
    })
}

/// Bytes that are read from their beginning.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ReadError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("so many bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, ReadError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least a byte each.
    fn length(&mut self) -> Result<usize, ReadError> {
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if length > self.0.len() {
            return Err(ReadError::Malformed("a list is longer than the rest"));
        }
        Ok(length)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, ReadError> {
        let length = self.length()?;
        Ok(self.take(length)?.to_vec())
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, ReadError>) -> Result<Vec<T>, ReadError> {
        let length = self.length()?;
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(read(self)?);
        }
        Ok(items)
    }

    pub(super) fn end(&self) -> Result<(), ReadError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(ReadError::Malformed("bytes are left over"))
    }
}
