//! Shared state: resources of an account that its functions read and write, whichever sandbox and node they run
//! on.
//!
//! ```text
//!   owner ── create, attach ──▶ resource ◀── named by ── what is attached to a function
//!   guest ── its loopback ──▶ StateAccess ──▶ head { version, epoch, lease } + entries      one commit a write
//! ```
//! A resource is the only hole in a sandbox's isolation: a function has none unless its owner attaches one, and
//! only resources of its own account can be attached. Every write is one commit on condition of the head's
//! version, so that it is there whole or not at all, and writes of one resource come one after the other. With
//! a lease, the default, only its holder writes; each lease has an epoch of its own, and one who lost it writes
//! nothing more, whatever clocks say.
//!
//! A resource may be a folder instead, in memory or on a disk ([`folder`]): it lies on one node, which mounts it into the
//! sandboxes of the functions that have it, and runs these.

mod error;
mod folder;
mod guest;
mod keys;
mod owner;
mod record;
mod shelf;
mod vault;
mod whereabouts;

pub use error::StateError;
pub use folder::{AttachedFolder, FolderKind, FolderStatus, FolderView, MEMORY_MIB, NewFolder, VOLUME_MIB};
pub use guest::{GuestCall, InvalidCall};

pub(crate) use guest::StateAccess;
pub(crate) use owner::{attach, create, delete, detach, list, read, show};
pub(crate) use shelf::Shelf;
pub(crate) use whereabouts::Whereabouts;

use std::fmt;
use std::str::FromStr;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest name of a resource.
const NAME_CHARS_MAX: usize = 64;
/// Longest key of an entry.
pub const KEY_BYTES_MAX: usize = 128;
/// Largest value of an entry.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Most entries of a resource, so that it goes with one commit.
pub const ENTRIES_MAX: u32 = 800;
/// Most bytes of all keys and values of a resource.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most resources of an account.
pub const RESOURCES_MAX: usize = 100;
/// Most resources attached to a function.
pub const ATTACHED_MAX: usize = 8;

/// A resource's name: 1 to 64 of `[a-z0-9-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateName(Box<str>);

/// Text that is no name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no shared state; expected 1 to {NAME_CHARS_MAX} of `a-z`, `0-9` and `-`")]
pub struct InvalidStateName(String);

impl StateName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StateName {
    type Err = InvalidStateName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.bytes().all(allowed) {
            return Err(InvalidStateName(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for StateName {
    type Error = InvalidStateName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StateName> for String {
    fn from(name: StateName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who may write a resource at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// The holder of its lease.
    #[default]
    One,
    /// Everybody; the last one wins.
    Any,
}

/// What a function may do with a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    #[default]
    Write,
}

/// A resource as it is attached to a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The resource's identifier: another one of the name is not meant.
    pub id: String,
    pub access: Access,
    /// How it is mounted, if it is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<AttachedFolder>,
}

/// How a resource is to be attached.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    pub access: Access,
    /// Where sandboxes are to have a folder; `/mnt/NAME` if nothing is said.
    pub at: Option<String>,
}

/// A resource to be made.
#[derive(Clone, Debug)]
pub struct NewState {
    pub name: StateName,
    pub writers: Writers,
    /// A folder, and no set of keys.
    pub folder: Option<NewFolder>,
    /// The same token again gives the first answer.
    pub token: Option<String>,
}

/// A function that a resource is attached to.
#[derive(Clone, Debug)]
pub struct Use {
    pub function: String,
    pub access: Access,
    /// Where its sandboxes have it, if it is a folder.
    pub at: Option<String>,
    /// Whether what was attached is gone, and the owner must attach it again.
    pub is_lost: bool,
}

/// A resource as it is shown.
#[derive(Clone, Debug)]
pub struct StateView {
    pub name: StateName,
    pub id: String,
    pub writers: Writers,
    pub created: Timestamp,
    /// Grows by one with every write.
    pub version: u64,
    pub entries: u32,
    pub bytes: u64,
    /// How often the lease has been given.
    pub epoch: u64,
    /// The invocation that holds the lease.
    pub holder: Option<String>,
    pub attached: Vec<Use>,
    /// If it is a folder; it has no entries, and no version then.
    pub folder: Option<FolderView>,
}

/// An entry of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The version of the resource with which it was written.
    pub version: u64,
    /// JSON.
    pub value: String,
}

/// Whether a text may be the key of an entry: 1 to 128 of `[A-Za-z0-9._-]`.
pub(crate) fn is_key(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= KEY_BYTES_MAX && text.bytes().all(allowed)
}
