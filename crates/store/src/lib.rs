//! The storage contract of everything that lasts, and its implementations.
//!
//! ```text
//!              Store (get, scan, commit)                Blobs (put, get, delete, list)
//!   MemoryStore │ SqliteStore │ PostgresStore │ FaultyStore(any)    object_store: folder, memory
//! ```
//!
//! Small records that change live behind [`Store`]; large values that never change live in
//! [`blob::Blobs`] under the digest of their content. Whoever needs both writes the blob first and
//! then commits the record that names it: a crash in between leaves an orphan, never a dangling name.

pub mod archive;
pub mod blob;
pub mod conformance;
mod faulty;
mod folder;
pub mod limits;
mod memory;
pub mod objects;
mod postgres;
mod range;
pub mod record;
mod sqlite;

pub use faulty::{Fault, FaultRates, FaultyStore};
pub use memory::MemoryStore;
pub use postgres::{InvalidPostgresUrl, OpenPostgresError, PostgresOptions, PostgresStore, PostgresUrl};
pub use sqlite::{OpenError, SqliteStore, WriterStats};

use async_trait::async_trait;
use bytes::Bytes;

/// A key: any bytes (none included), ordered bytewise; at most [`limits::KEY_BYTES_MAX`] long.
pub type Key = Bytes;

/// The version of one key's value: unequal for any two values the key ever had.
///
/// Versions come from one counter a store: of two commits the later one has the greater version, where
/// later means that it began after the other had returned, or that it judges or writes a key that the other
/// wrote. Of two commits that ran at the same time on different keys, as several nodes of a shared store
/// do, either may have the greater version. A key that is deleted and made again, even by another process,
/// never sees an old version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Bytes,
    pub version: Version,
}

/// What must hold for a commit to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key has no value.
    Absent(Key),
    /// The key's value has exactly this version.
    AtVersion(Key, Version),
}

impl Condition {
    /// The key the condition speaks of.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::AtVersion(key, _) => key,
        }
    }

    /// Whether the condition holds for a key whose value has `version`, or has no value.
    pub fn holds(&self, version: Option<Version>) -> bool {
        match self {
            Self::Absent(_) => version.is_none(),
            Self::AtVersion(_, expected) => version == Some(*expected),
        }
    }
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Gives the key this value, whether it had one or not.
    Put(Key, Bytes),
    /// Takes the key's value away; nothing happens if it had none.
    Delete(Key),
}

/// Who may use a store, and the blobs beside it, at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This process alone.
    Exclusive,
    /// Any number of processes.
    Shared,
}

/// A key-value store with ordered scans and atomic conditional commits.
///
/// **Order.** Commits take effect one after the other, each wholly or not at all. A read that starts
/// after a commit returned sees it; a scan sees one moment, never a part of a commit.
///
/// **Durability.** What a commit that returned `Ok` wrote survives the death of the process and of the
/// machine, as far as the implementation keeps anything ([`MemoryStore`] lives as long as its process).
///
/// **Idempotence.** `get` and `scan` change nothing. A commit is repeated safely only if its conditions
/// exclude its own effect (`Absent`, `AtVersion` of a key that it writes): the repetition then ends in
/// [`CommitError::Conflict`].
///
/// **Cancellation.** Dropping a future of a read has no effect. Dropping that of a commit leaves open
/// whether the commit applies; it applies wholly or not at all, possibly after the drop.
///
/// **Callers.** Any number of tasks at once, inside a tokio runtime; no call blocks its thread on input
/// or output. A store's data belong to one process at a time unless the implementation says otherwise.
///
/// **Limits.** Those of [`limits`]; what breaks one is refused before anything is applied.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key's value and version, or nothing if it has no value.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError>;

    /// Entries whose keys begin with `prefix` and come after `after`, in key order, at most `limit`.
    ///
    /// `after` is any key, whether it exists or begins with `prefix` or not. To page, pass the last key
    /// of one answer as `after` of the next, until an answer holds fewer than `limit` entries; each page
    /// sees its own moment.
    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError>;

    /// Applies all writes atomically if every condition holds; returns the version that every written
    /// key now has. Durable once it returns.
    ///
    /// Conditions are judged against the state before the first write; the first that does not hold is
    /// the one reported. Writes apply in their order, so the last one of a key counts. Without writes the
    /// commit only judges its conditions; the version it returns belongs to no value.
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError>;
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The store cannot be reached now; retry later.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The stored bytes are damaged or of a format this build does not know.
    #[error("store is damaged: {0}")]
    Damaged(String),
}

/// Why a commit failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A condition did not hold; nothing was applied.
    #[error("condition on key `{}` does not hold", String::from_utf8_lossy(.0))]
    Conflict(Key),
    /// Nothing was applied; retry later.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// Applied or not, unknown; read before trying again.
    #[error("whether the commit was applied is unknown: {0}")]
    Unknown(String),
    /// The request breaks a limit of the store; nothing was applied, and a retry is refused again.
    #[error("commit exceeds a limit: {0}")]
    TooLarge(String),
}
