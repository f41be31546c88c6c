//! Finds the pages of a guest's memories that changed, by hashes of their content.
//!
//! No help of the kernel is asked for: what it offers either looks at the whole process or needs unsafe code. A page that
//! changed and has the same hash of 64 bits, whose seed the guest does not know, would be missed; that is as likely as
//! guessing the seed.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use foldhash::quality::RandomState;

use crate::pieces::{self, PIECE_BYTES, PIECE_PAGES};
use crate::{Checkpoint, Mark, Page};

/// What the memories of one guest held when it was last captured.
pub struct Tracker {
    /// The mark of what was written of that capture; the next delta follows it.
    pub base: Mark,
    hashes: RandomState,
    zero: u64,
    /// Of each memory, of each page.
    memories: Vec<Vec<u64>>,
}

impl Tracker {
    /// Knows the memories that a checkpoint holds whose bytes bear this mark.
    pub fn of(checkpoint: &Checkpoint, base: Mark) -> Self {
        let hashes = RandomState::default();
        let zero = hash(&hashes, &[0; Page::BYTES]);
        let of_memory = |pages: &Vec<Page>| {
            let known = pages.last().map_or(0, |last| last.index as usize + 1);
            let mut known = vec![zero; known];
            for page in pages {
                known[page.index as usize] = hash(&hashes, &page.bytes);
            }
            known
        };
        let memories = checkpoint.memories.iter();
        Self {
            base,
            memories: memories.map(|image| of_memory(&image.pages)).collect(),
            hashes,
            zero,
        }
    }

    /// The pages of a memory that are zero now, and those with another content than before.
    pub(super) fn changes(&mut self, memory: usize, data: &[u8]) -> (Vec<u64>, Vec<Page>) {
        let known = &mut self.memories[memory];
        known.resize(data.len() / Page::BYTES, self.zero);
        let (hashes, zero) = (&self.hashes, self.zero);
        let of_piece = |number: usize, (data, known): (&[u8], &mut [u64])| {
            let (mut zeroed, mut changed) = (Vec::new(), Vec::new());
            let pages = (pieces::first_page(number)..).zip(data.chunks(Page::BYTES));
            for ((index, bytes), known) in pages.zip(known) {
                let found = hash(hashes, bytes);
                if std::mem::replace(known, found) == found {
                    continue;
                }
                if found == zero {
                    zeroed.push(index);
                } else {
                    changed.push(Page {
                        index,
                        bytes: Bytes::copy_from_slice(bytes),
                    });
                }
            }
            (zeroed, changed)
        };
        let pieces = data.chunks(PIECE_BYTES).zip(known.chunks_mut(PIECE_PAGES)).collect();
        let (zeroed, changed): (Vec<_>, Vec<_>) = pieces::map(pieces, of_piece).into_iter().unzip();
        (zeroed.concat(), changed.concat())
    }
}

fn hash(hashes: &RandomState, bytes: &[u8]) -> u64 {
    let mut hasher = hashes.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}
