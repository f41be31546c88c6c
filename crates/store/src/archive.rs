//! All of a store in one file, to move it to a store of another kind, and a check of what a store holds.
//!
//! ```text
//!   file    = header frame* trailer
//!   header  = "bowline-archive\n" format:u32
//!   frame   = 'B' digest:[32] length:u32 bytes          a blob; blobs come first, by digest
//!           | 'C' digest:[32] length:u32 bytes          a cold part of a stream; they come next, by digest
//!           | 'P' digest:[32] flags:u8 length:u32 bytes    a piece of a blob, of a cold part if `flags & 2`; the
//!                                                       last one if `flags & 1`; they follow one another
//!           | 'R' length:u32 length:u32 key value       a record, by key
//!   trailer = 'E' blobs:u64 records:u64 digest:[32]
//! ```
//! Numbers are big-endian. The trailer's digest chains over the file: it is the SHA-256 of the header; then,
//! for each frame, of the digest so far and the frame's own SHA-256; last, in the same way, of the trailer
//! before its digest. Versions are not in the file: the store that imports gives its own. The format is 3 if
//! a blob is in pieces, 2 if there are cold parts, else 1: older builds read what they know.
//!
//! An import reads the file twice: once to find it whole before anything is written, once to write. It
//! leaves a mark in the store until it is through; cut off, it goes on when the same file is imported
//! again, because putting the same records again changes nothing. Nobody else may write to either store
//! meanwhile. These functions are for the command line: they compute digests on the calling thread.

mod check;
mod export;
mod frame;
mod import;
mod pieces;

use bowline_foundation::digest::Digest;

pub use self::check::{CheckError, CheckReport, check};
pub use self::export::{ExportError, export};
pub use self::frame::{ArchiveError, parse};
pub use self::import::{Existing, ImportError, Target, import, unfinished, verify};
use crate::Key;

/// How far an operation has come; told after every page of records and every blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub blobs: u64,
    pub records: u64,
    /// Of keys, values and blobs.
    pub bytes: u64,
    /// What there will be in the end, where it is known.
    pub total: Option<Summary>,
}

/// Hears of progress.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub blobs: u64,
    pub records: u64,
    /// Of keys, values and blobs.
    pub bytes: u64,
    /// The trailer's digest, which names the archive.
    pub digest: Digest,
}

/// Records of one page of a scan, and of one commit of an import.
const PAGE: usize = 256;

/// The mark of an import that is not through; its value is the digest of the archive, as text. Missing: none.
fn unfinished_key() -> Key {
    Key::from_static(b"import/unfinished")
}
