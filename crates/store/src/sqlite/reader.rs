//! Reads, each on a connection of its own, off the async threads.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use super::{LOST, OpenError, Shared, schema};
use crate::limits::WAITING_READS_MAX;
use crate::range::Range;
use crate::{Entry, Key, ReadError, Version};

/// Connections that read at the same time.
const READERS: usize = 4;

const GET: &str = "SELECT key, version, value FROM entries WHERE key = ?1";
const SCAN: &str = "SELECT key, version, value FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
const SCAN_TO_END: &str = "SELECT key, version, value FROM entries WHERE key >= ?1 ORDER BY key LIMIT ?2";

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Arc<Pool>,
    /// One permit a connection.
    turns: Arc<Semaphore>,
    /// One permit a read that runs or waits.
    places: Semaphore,
}

#[derive(Debug)]
struct Pool {
    idle: Mutex<Vec<Connection>>,
    shared: Arc<Shared>,
}

impl Readers {
    pub fn open(path: &Path, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let idle = (0..READERS)
            .map(|_| schema::open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            pool: Arc::new(Pool {
                idle: Mutex::new(idle),
                shared,
            }),
            turns: Arc::new(Semaphore::new(READERS)),
            places: Semaphore::new(WAITING_READS_MAX),
        })
    }

    pub async fn get(&self, key: Key) -> Result<Option<Entry>, ReadError> {
        let found = self.run(move |connection| {
            let mut statement = connection.prepare_cached(GET)?;
            statement.query_row([&key[..]], entry).optional()
        });
        Ok(found.await?.map(|(_, entry)| entry))
    }

    pub async fn scan(&self, range: Range, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(move |connection| match &range.upper {
            Some(upper) => {
                let mut statement = connection.prepare_cached(SCAN)?;
                statement
                    .query_map(params![&range.lower[..], &upper[..], limit], entry)?
                    .collect()
            }
            None => {
                let mut statement = connection.prepare_cached(SCAN_TO_END)?;
                statement.query_map(params![&range.lower[..], limit], entry)?.collect()
            }
        })
        .await
    }

    /// Runs one read. It goes on if the caller gives up, and only then hands its connection back.
    async fn run<T, F>(&self, read: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| ReadError::Unavailable(format!("`{WAITING_READS_MAX}` reads are waiting already")))?;
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let pool = Arc::clone(&self.pool);
        let done = tokio::task::spawn_blocking(move || {
            let result = pool.with(read);
            drop((pool, turn));
            result
        });
        done.await
            .map_err(|_| ReadError::Unavailable("the runtime is shutting down".to_owned()))?
    }
}

impl Pool {
    fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        if self.shared.is_lost() {
            return Err(ReadError::Unavailable(LOST.to_owned()));
        }
        let connection = self.idle.lock().pop().expect("every turn has its connection");
        let result = read(&connection);
        self.idle.lock().push(connection);
        result.map_err(|error| classify(&error))
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(Key, Entry)> {
    let bytes = |index| Ok::<_, rusqlite::Error>(Bytes::copy_from_slice(row.get_ref(index)?.as_blob()?));
    let version = Version(u64::from_ne_bytes(row.get::<_, i64>(1)?.to_ne_bytes()));
    Ok((
        bytes(0)?,
        Entry {
            value: bytes(2)?,
            version,
        },
    ))
}

fn classify(error: &rusqlite::Error) -> ReadError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SchemaChanged) => {
            ReadError::Damaged(error.to_string())
        }
        Some(_) => ReadError::Unavailable(error.to_string()),
        None => ReadError::Damaged(error.to_string()),
    }
}
