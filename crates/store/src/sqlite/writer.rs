//! The one thread that writes: it commits everything that waits in one transaction with one sync.
//!
//! A group is judged and applied commit by commit, in the order of arrival. If anything but a condition
//! fails, the whole transaction is rolled back and every commit of the group hears that nothing was
//! applied; only when the final `COMMIT` itself fails on a device error is the outcome unknown, and then
//! the store refuses all further work, because what a failed sync left behind shows only on reopening.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::{LOST, OpenError, Shared};
use crate::limits::{WAITING_BYTES_MAX, WAITING_COMMITS_MAX};
use crate::{CommitError, Condition, Key, Version, Write};

/// How often the thread looks for the next commit before it sleeps, giving way each time: whoever was just
/// answered often comes back at once, and to be woken takes longer than to look.
const LOOKS: u32 = 256;
/// So many versions are taken from the counter at once: it need not be written with every transaction. What
/// is left of them when the store is closed is never given.
const VERSIONS_AT_ONCE: i64 = 1024;
/// Most commits that share one transaction.
const COMMITS_PER_GROUP_MAX: usize = 512;

const VERSION_OF: &str = "SELECT version FROM entries WHERE key = ?1";
const PUT: &str = "INSERT INTO entries (key, version, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value";
const DELETE: &str = "DELETE FROM entries WHERE key = ?1";
const COUNTER: &str = "SELECT version FROM counter";
const SET_COUNTER: &str = "UPDATE counter SET version = ?1";

/// What the writer has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Commits applied.
    pub commits: u64,
    /// Transactions that applied them, each with one sync.
    pub groups: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    groups: AtomicU64,
}

/// The handle to the writer thread; dropping it waits until the thread has done what it was given.
#[derive(Debug)]
pub(super) struct Writer {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    /// Ends after the thread.
    _checkpointer: Checkpointer,
    counters: Arc<Counters>,
    /// One permit a byte that waits.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Request {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    reply: oneshot::Sender<Result<Version, CommitError>>,
    _room: OwnedSemaphorePermit,
}

impl Writer {
    pub fn start(mut connection: Connection, path: &Path, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let database = |source| OpenError::Database {
            path: path.to_path_buf(),
            source,
        };
        let version = connection.query_row(COUNTER, [], |row| row.get(0)).map_err(database)?;
        let checkpointer = Checkpointer::start(&mut connection, path, Arc::clone(&shared))?;
        let counters = Arc::new(Counters::default());
        let (requests, waiting) = mpsc::channel(WAITING_COMMITS_MAX);
        let worker = Worker {
            connection,
            version,
            taken: version,
            shared,
            counters: Arc::clone(&counters),
        };
        let thread = Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || worker.run(waiting))
            .map_err(|source| OpenError::Folder {
                path: path.to_path_buf(),
                source,
            })?;
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
            _checkpointer: checkpointer,
            counters,
            room,
        })
    }

    pub async fn commit(
        &self,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
        bytes: usize,
    ) -> Result<Version, CommitError> {
        let bytes = u32::try_from(bytes).expect("a commit is far smaller than 4 GiB");
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| {
            CommitError::Unavailable(format!("commits of `{WAITING_BYTES_MAX}` bytes are waiting already"))
        })?;
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().expect("the channel is closed only by drop");
        requests
            .try_send(Request {
                conditions,
                writes,
                reply,
                _room: room,
            })
            .map_err(|error| match error {
                TrySendError::Full(_) => {
                    CommitError::Unavailable(format!("`{WAITING_COMMITS_MAX}` commits are waiting already"))
                }
                TrySendError::Closed(_) => CommitError::Unavailable("the writer has stopped".to_owned()),
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(CommitError::Unknown("the writer stopped while it worked".to_owned())))
    }

    pub fn stats(&self) -> WriterStats {
        WriterStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            groups: self.counters.groups.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

/// Why a whole group failed.
enum GroupError {
    NothingApplied(rusqlite::Error),
    Unknown(rusqlite::Error),
}

type Outcome = Result<Version, CommitError>;

struct Worker {
    connection: Connection,
    /// The greatest version ever given, or never to be given.
    version: i64,
    /// The versions up to here are taken from the counter.
    taken: i64,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = next(&mut waiting) {
            let mut group = vec![first];
            while group.len() < COMMITS_PER_GROUP_MAX
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            let outcomes = self.settle(&group);
            for (request, outcome) in group.into_iter().zip(outcomes) {
                // Whoever gave up waiting does not want the answer.
                let _ = request.reply.send(outcome);
            }
        }
    }

    fn settle(&mut self, group: &[Request]) -> Vec<Outcome> {
        if self.shared.is_lost() {
            return group
                .iter()
                .map(|_| Err(CommitError::Unavailable(LOST.to_owned())))
                .collect();
        }
        let error = match self.transact(group) {
            Ok(outcomes) => return outcomes,
            Err(GroupError::NothingApplied(error)) => {
                tracing::warn!(%error, "commits were rolled back");
                CommitError::Unavailable(error.to_string())
            }
            Err(GroupError::Unknown(error)) => {
                tracing::error!(%error, "a commit failed on its way to disk; the store refuses further work");
                self.shared.lost.store(true, Ordering::Release);
                CommitError::Unknown(error.to_string())
            }
        };
        group.iter().map(|_| Err(error.clone())).collect()
    }

    fn transact(&mut self, group: &[Request]) -> Result<Vec<Outcome>, GroupError> {
        let before = GroupError::NothingApplied;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(before)?;
        let mut version = self.version;
        let mut outcomes = Vec::with_capacity(group.len());
        for request in group {
            outcomes.push(apply(&transaction, request, &mut version).map_err(before)?);
        }
        if version == self.version {
            return Ok(outcomes); // Nobody wrote: the conflicts were judged against what is on disk.
        }
        let mut taken = self.taken;
        if version > taken {
            taken = version + VERSIONS_AT_ONCE;
            set_counter(&transaction, taken).map_err(before)?;
        }
        transaction.commit().map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => GroupError::NothingApplied(error),
            _ => GroupError::Unknown(error),
        })?;
        let applied = u64::try_from(version - self.version).expect("versions only grow");
        self.counters.commits.fetch_add(applied, Ordering::Relaxed);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        (self.version, self.taken) = (version, taken);
        Ok(outcomes)
    }
}

/// The next commit, none once the store is closed.
fn next(waiting: &mut mpsc::Receiver<Request>) -> Option<Request> {
    for _ in 0..LOOKS {
        match waiting.try_recv() {
            Ok(request) => return Some(request),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => std::thread::yield_now(),
        }
    }
    waiting.blocking_recv()
}

/// Judges one commit and, if it holds, applies it with the next version.
fn apply(transaction: &Transaction<'_>, request: &Request, version: &mut i64) -> rusqlite::Result<Outcome> {
    for condition in &request.conditions {
        if !condition.holds(version_of(transaction, condition.key())?) {
            return Ok(Err(CommitError::Conflict(condition.key().clone())));
        }
    }
    *version += 1;
    for write in &request.writes {
        match write {
            Write::Put(key, value) => {
                transaction
                    .prepare_cached(PUT)?
                    .execute(params![&key[..], *version, &value[..]])?;
            }
            Write::Delete(key) => {
                transaction.prepare_cached(DELETE)?.execute([&key[..]])?;
            }
        }
    }
    Ok(Ok(stored(*version)))
}

fn version_of(transaction: &Transaction<'_>, key: &Key) -> rusqlite::Result<Option<Version>> {
    let mut statement = transaction.prepare_cached(VERSION_OF)?;
    statement
        .query_row([&key[..]], |row| row.get(0))
        .optional()
        .map(|found| found.map(stored))
}

fn set_counter(transaction: &Transaction<'_>, version: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached(SET_COUNTER)?.execute([version])?;
    Ok(())
}

fn stored(version: i64) -> Version {
    Version(u64::from_ne_bytes(version.to_ne_bytes()))
}
