//! Large memories in pieces, which are worked on side by side, by the threads that the engine compiles on.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::Page;

pub(crate) const PIECE_BYTES: usize = 1 << 20;
pub(crate) const PIECE_PAGES: usize = PIECE_BYTES / Page::BYTES;

/// The index of the first page of a piece of a memory.
pub(crate) fn first_page(piece: usize) -> u64 {
    (piece * PIECE_PAGES) as u64
}

/// What `work` makes of each piece and its number, in their order. One piece or two are not worth a second thread.
pub(crate) fn map<P: Send, R: Send>(pieces: Vec<P>, work: impl Fn(usize, P) -> R + Send + Sync) -> Vec<R> {
    let numbered = |(number, piece)| work(number, piece);
    if pieces.len() < 3 {
        return pieces.into_iter().enumerate().map(numbered).collect();
    }
    pieces.into_par_iter().enumerate().map(numbered).collect()
}
