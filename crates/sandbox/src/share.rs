//! Folders that several sandboxes of one node see at the same time: shared memory and volumes.
//!
//! A [`Backend`](crate::Backend) that offers them keeps a share from [`Backend::share`](crate::Backend::share) until
//! [`Backend::unshare`](crate::Backend::unshare); meanwhile each version whose specification names it in
//! [`VersionSpec::mounts`](crate::VersionSpec::mounts) has it in its sandboxes. A sandbox that was made before keeps it
//! until it is gone.

use std::io;
use std::path::PathBuf;

/// A folder to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// `[a-z0-9.-]`, not beginning with a dot; no two shares of a node have the same.
    pub name: String,
    /// What all files in it together may have, the file system's own needs included.
    pub bytes: u64,
    pub content: Content,
}

/// Where a share's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In memory; they are gone when the share ends.
    Memory,
    /// In a file system in this file, which is made.
    NewVolume(PathBuf),
    /// In the file system that was made in this file.
    Volume(PathBuf),
}

/// A share as a version's sandboxes see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The share's name.
    pub share: String,
    /// Where it is in the sandbox: a folder right below [`MOUNTS_DIR`].
    pub at: String,
    pub access: MountAccess,
}

/// What a sandbox may do in a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MountAccess {
    Read,
    /// It writes, and others may at the same time.
    Write,
    /// It writes while it runs an invocation, and nobody else does.
    WriteAlone,
}

/// Where sandboxes have what they share.
pub const MOUNTS_DIR: &str = "/mnt";
/// Most shares of a sandbox.
pub const MOUNTS_MAX: usize = 8;

/// Why a folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// This machine, or this kind of sandbox, offers no such thing; the text says what is missing.
    #[error("{0}")]
    Unsupported(String),
    /// It can be made here, but was not.
    #[error("the folder cannot be shared: {0}")]
    Failed(#[source] io::Error),
}
