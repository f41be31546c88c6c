//! A checkpoint in memory: all that a run needs to go on elsewhere.

use bowline_foundation::digest::Digest;
use bytes::Bytes;

use crate::{Options, Site, Value};

/// The state of a stopped run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which module, and by which pass.
    pub identity: Identity,
    /// Each linear memory, in the order of the module.
    pub memories: Vec<MemoryImage>,
    /// Each global that may change, in the order of the module; markers of dropped segments follow.
    pub globals: Vec<Value>,
    /// Each table that may change, in the order of the module.
    pub tables: Vec<TableImage>,
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
    /// What the host keeps for the guest (descriptors, clocks); opaque here.
    pub host: Vec<u8>,
}

/// What a checkpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the original module, so that a new engine or another processor may resume it.
    pub module: Digest,
    /// [`crate::PASS_VERSION`] of the pass that instrumented it.
    pub pass: u32,
    /// The options of that pass.
    pub options: Options,
}

/// A linear memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryImage {
    /// Its size, in WebAssembly pages of 64 KiB.
    pub size_pages: u64,
    /// The pages that are not all zero, by rising index.
    pub pages: Vec<Page>,
}

/// A part of a linear memory that is not all zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its place, in units of [`Page::BYTES`].
    pub index: u64,
    /// Its content.
    pub bytes: Bytes,
}

impl Page {
    /// The size of every page.
    pub const BYTES: usize = 4096;
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableImage {
    /// Its elements: functions or external references.
    pub elements: Vec<Value>,
}

/// A frame of the guest's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it stopped.
    pub site: Site,
    /// What lived there, as the plan's layout says.
    pub values: Vec<Value>,
}
