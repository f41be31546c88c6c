//! What changed since another checkpoint of the same run: checkpoints that are taken again and again write only
//! this.
//!
//! A delta names the bytes it follows, a checkpoint or another delta, by their *mark*. Whoever puts a chain together
//! again reads the checkpoint, then applies each delta to what came of those before.

use std::cmp::Ordering;

use crate::format::SIGNATURE_BYTES;
use crate::{Checkpoint, Frame, Identity, MemoryImage, Page, TableImage, Value};

/// The name of a checkpoint's or delta's bytes: their signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(pub(crate) [u8; SIGNATURE_BYTES]);

impl Mark {
    /// The mark of bytes that were written or read as a checkpoint or delta; `None` if they are too short to be any.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.last_chunk().copied().map(Self)
    }
}

/// A checkpoint without the memory that its base has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Of which module, and by which pass.
    pub identity: Identity,
    /// What it is to be applied to.
    pub base: Mark,
    /// Each linear memory, in the order of the module.
    pub memories: Vec<MemoryChanges>,
    /// As in [`Checkpoint`], whole.
    pub globals: Vec<Value>,
    /// As in [`Checkpoint`], whole.
    pub tables: Vec<TableImage>,
    /// As in [`Checkpoint`], whole.
    pub frames: Vec<Frame>,
    /// As in [`Checkpoint`], whole.
    pub host: Vec<u8>,
}

/// What changed of a linear memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryChanges {
    /// Its size, in WebAssembly pages of 64 KiB; never smaller than the base's.
    pub size_pages: u64,
    /// Pages that are all zero now, in units of [`Page::BYTES`], by rising index.
    pub zeroed: Vec<u64>,
    /// Pages with another content, by rising index.
    pub pages: Vec<Page>,
}

/// Why a delta was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It follows other bytes.
    #[error("the delta does not follow this checkpoint but another one")]
    OtherBase,
    /// It is of another module or pass.
    #[error("the delta is of another module than its base, or of another version of the pass")]
    OtherModule,
    /// It has another number of memories, shrinks one, or has pages out of order.
    #[error("memory {0} of the delta does not fit its base")]
    Memory(usize),
}

impl Delta {
    /// The checkpoint that `base`, whose bytes bear `mark`, becomes.
    pub fn apply(self, base: Checkpoint, mark: Mark) -> Result<Checkpoint, DeltaError> {
        if self.base != mark {
            return Err(DeltaError::OtherBase);
        }
        if self.identity != base.identity {
            return Err(DeltaError::OtherModule);
        }
        if self.memories.len() != base.memories.len() {
            return Err(DeltaError::Memory(self.memories.len().min(base.memories.len())));
        }
        let memories = base.memories.into_iter().zip(self.memories).enumerate();
        let memories = memories.map(|(index, (base, changes))| changes.apply(base).ok_or(DeltaError::Memory(index)));
        Ok(Checkpoint {
            identity: self.identity,
            memories: memories.collect::<Result<_, _>>()?,
            globals: self.globals,
            tables: self.tables,
            frames: self.frames,
            host: self.host,
        })
    }
}

impl MemoryChanges {
    fn apply(self, base: MemoryImage) -> Option<MemoryImage> {
        let zeroed_rise = self.zeroed.is_sorted_by(|left, right| left < right);
        let pages_rise = self.pages.is_sorted_by(|left, right| left.index < right.index);
        if self.size_pages < base.size_pages || !zeroed_rise || !pages_rise {
            return None;
        }
        let kept = base.pages.into_iter();
        let kept = kept.filter(|page| self.zeroed.binary_search(&page.index).is_err());
        Some(MemoryImage {
            size_pages: self.size_pages,
            pages: merged(kept, self.pages.into_iter()),
        })
    }
}

/// Pages of both by rising index; where both have one, the newer.
fn merged(older: impl Iterator<Item = Page>, newer: impl Iterator<Item = Page>) -> Vec<Page> {
    let (mut older, mut newer) = (older.peekable(), newer.peekable());
    let mut merged = Vec::new();
    while let (Some(old), Some(new)) = (older.peek(), newer.peek()) {
        match old.index.cmp(&new.index) {
            Ordering::Less => merged.extend(older.next()),
            Ordering::Greater => merged.extend(newer.next()),
            Ordering::Equal => {
                older.next();
            }
        }
    }
    merged.extend(older);
    merged.extend(newer);
    merged
}

#[cfg(test)]
mod tests;
