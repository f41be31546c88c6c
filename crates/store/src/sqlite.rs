//! The embedded store: one SQLite database in WAL mode, synced at every commit.
//!
//! ```text
//!   commit ──▶ bounded channel ──▶ writer thread ── one transaction, one sync for all that wait ──▶ answers
//!   get, scan ──▶ blocking pool ──▶ one of READERS connections, each read a snapshot
//! ```

mod checkpoint;
mod lock;
mod reader;
mod schema;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use self::lock::Lock;
use self::reader::Readers;
use self::writer::Writer;
pub use self::writer::WriterStats;
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write, folder, limits};

/// A store in one SQLite database, which belongs to one process at a time.
///
/// Dropping it finishes the commits that wait and then gives the database up.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, has the database open.
    #[error("store `{}` is in use by another process{}", path.display(), holder.map(|pid| format!(" (pid `{pid}`)")).unwrap_or_default())]
    InUse { path: PathBuf, holder: Option<u32> },
    /// A later build wrote the database.
    #[error("store `{}` has format `{found}`, this build knows up to `{known}`: start a newer build", path.display())]
    NewerFormat { path: PathBuf, found: i64, known: i64 },
    /// The file holds something else.
    #[error("file `{}` is not a bowline store", path.display())]
    NotAStore { path: PathBuf },
    /// The folder or the lock file cannot be made.
    #[error("store `{}` cannot be opened", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("store `{}` cannot be opened", path.display())]
    Database {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// What the connections of one store share.
#[derive(Debug)]
struct Shared {
    /// Set once a sync has failed: what is on disk is unknown until the database is opened anew, so
    /// nothing is written or read any more.
    lost: AtomicBool,
    /// Released when the last connection is closed.
    _lock: Lock,
}

impl Shared {
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

/// What is said once the store is lost.
const LOST: &str = "an earlier commit could not be synced; restart the node";

impl SqliteStore {
    /// Opens the database at `path`, which is made, with its folders, if it is missing.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Folder {
            path: path.to_path_buf(),
            source,
        };
        let parent = folder::parent(path);
        folder::create_durably(&parent).map_err(failed)?;
        let lock = Lock::take(path)?;
        let shared = Arc::new(Shared {
            lost: AtomicBool::new(false),
            _lock: lock,
        });
        let connection = schema::open_writer(path)?;
        folder::sync(&parent).map_err(failed)?;
        let readers = Readers::open(path, Arc::clone(&shared))?;
        let writer = Writer::start(connection, path, shared)?;
        Ok(Self { writer, readers })
    }

    /// What the writer has done since the store was opened.
    pub fn writer_stats(&self) -> WriterStats {
        self.writer.stats()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.readers.get(key.clone()).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.readers.scan(crate::range::Range::of(prefix, after), limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let bytes = limits::check(&conditions, &writes)?;
        self.writer.commit(conditions, writes, bytes).await
    }
}
