//! The shared store: a PostgreSQL database that any number of nodes write at once.
//!
//! ```text
//!   commit ──▶ committer ── all that wait: one statement, one transaction, one sync ──▶ answers
//!   get, scan ──▶ one of the readers' connections, each read one statement
//! ```
//! Commits of all nodes are linearizable: a group takes an advisory lock on each of its keys (shared where
//! it only judges, alone where it writes), in an order that is the same everywhere, before it looks, and
//! holds them until it is on disk. Versions come from one sequence, drawn while the locks are held.

mod committer;
mod failure;
mod group;
mod link;
mod locks;
mod order;
mod reader;
mod schema;
mod url;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use tokio::time::timeout;

use self::committer::Committer;
use self::link::Link;
use self::reader::Readers;
use self::schema::Making;
pub use self::url::{InvalidPostgresUrl, PostgresUrl};
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write, WriterStats, limits};

/// How a store reaches its database.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub url: PostgresUrl,
    /// Connections that commit, each with one group in flight; all but one are for when full groups wait.
    pub committers: usize,
    /// Connections that read, each with any number of reads in flight.
    pub readers: usize,
    /// Longest time for a connection to be ready.
    pub connect_limit: Duration,
    /// Longest time for a statement on the server.
    pub statement_limit: Duration,
    /// Longest time that a group waits for the locks of other nodes.
    pub lock_wait_limit: Duration,
}

impl PostgresOptions {
    /// The defaults: two committers, four readers, five seconds to connect, ten for a statement.
    pub fn new(url: PostgresUrl) -> Self {
        Self {
            url,
            committers: 2,
            readers: 4,
            connect_limit: Duration::from_secs(5),
            statement_limit: Duration::from_secs(10),
            lock_wait_limit: Duration::from_secs(5),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            connect: self.connect_limit,
            statement: self.statement_limit,
            lock_wait: self.lock_wait_limit,
        }
    }
}

/// The time limits of a connection.
#[derive(Clone, Copy)]
struct Limits {
    connect: Duration,
    statement: Duration,
    lock_wait: Duration,
}

impl Limits {
    /// How long an answer is awaited: the server should have given up by itself before.
    fn answer(self) -> Duration {
        self.statement + self.connect
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenPostgresError {
    /// The server cannot be reached, or refuses the user.
    #[error("database `{url}` cannot be reached: {reason}")]
    Unreachable { url: PostgresUrl, reason: String },
    /// A later build wrote the schema.
    #[error("database `{url}` has format `{found}`, this build knows up to `{known}`: start a newer build")]
    NewerFormat { url: PostgresUrl, found: i64, known: i64 },
    /// The schema holds something else.
    #[error("the schema of `{url}` holds tables that are not a bowline store's: name another with `?schema=NAME`")]
    NotAStore { url: PostgresUrl },
    /// There was a store before, and there is none now: the database was lost, or is being restored.
    #[error("the schema of `{url}` is empty, though it held the store before: restore the database")]
    Lost { url: PostgresUrl },
    /// The server refuses a statement.
    #[error("database `{url}` cannot be prepared: {reason}")]
    Refused { url: PostgresUrl, reason: String },
}

impl OpenPostgresError {
    fn database(url: &PostgresUrl, error: tokio_postgres::Error) -> Self {
        let (url, reason) = (url.clone(), failure::text(&error));
        match error.as_db_error() {
            Some(_) => Self::Refused { url, reason },
            None => Self::Unreachable { url, reason },
        }
    }
}

/// A store in one schema of a PostgreSQL database, shared by any number of processes.
///
/// Commits that wait when it is dropped are still carried out; [`PostgresStore::close`] waits for them.
///
/// After [`CommitError::Unknown`] the server may still be at work on the commit, at most for the statement
/// limit: what a read does not show yet may appear within that time.
pub struct PostgresStore {
    url: PostgresUrl,
    committer: Committer,
    readers: Readers,
}

impl PostgresStore {
    /// Connects and checks the schema, which is made if it is missing. Called inside a tokio runtime.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, OpenPostgresError> {
        Self::check(options).await?;
        let known = Arc::new(AtomicBool::new(true));
        let committers = links(options, options.committers, &known);
        // The committer takes them from the end.
        let first = committers.last().expect("at least one").session().await;
        first.map_err(|reason| OpenPostgresError::unreachable(&options.url, reason))?;
        Ok(Self::over(options, committers, &known))
    }

    /// The same, but a database that cannot be reached now is no error: every call tries again, and the first
    /// that reaches it checks the schema. Says why it cannot be reached.
    pub async fn connect_or_wait(options: &PostgresOptions) -> Result<(Self, Option<String>), OpenPostgresError> {
        let away = match Self::check(options).await {
            Ok(()) => None,
            Err(OpenPostgresError::Unreachable { reason, .. }) => Some(reason),
            Err(error) => return Err(error),
        };
        let known = Arc::new(AtomicBool::new(away.is_none()));
        let committers = links(options, options.committers, &known);
        Ok((Self::over(options, committers, &known), away))
    }

    async fn check(options: &PostgresOptions) -> Result<(), OpenPostgresError> {
        let (url, limits) = (&options.url, options.limits());
        let prepared = timeout(limits.connect + limits.lock_wait, async {
            let (mut client, driver) = link::connect(url, limits)
                .await
                .map_err(|error| OpenPostgresError::unreachable(url, failure::text(&error)))?;
            let prepared = schema::prepare(&mut client, url, Making::Allowed).await;
            driver.abort();
            prepared
        });
        let no_answer = || OpenPostgresError::unreachable(url, format!("no answer within `{:?}`", limits.connect));
        prepared.await.map_err(|_| no_answer())?
    }

    fn over(options: &PostgresOptions, committers: Vec<Arc<Link>>, known: &Arc<AtomicBool>) -> Self {
        Self {
            url: options.url.clone(),
            committer: Committer::start(committers, &Clock::system()),
            readers: Readers::new(links(options, options.readers, known)),
        }
    }

    /// Where the database is.
    pub fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// What the committer has done since the store was opened.
    pub fn writer_stats(&self) -> WriterStats {
        self.committer.stats()
    }

    /// Waits until all commits are settled, and gives the connections up.
    pub async fn close(self) {
        self.committer.close().await;
    }
}

/// So many places for connections, at least one; they share the knowledge that the store has been seen.
fn links(options: &PostgresOptions, count: usize, known: &Arc<AtomicBool>) -> Vec<Arc<Link>> {
    let link = |_| {
        Arc::new(Link::new(
            &options.url,
            options.limits(),
            &Clock::system(),
            Arc::clone(known),
        ))
    };
    (0..count.max(1)).map(link).collect()
}

impl OpenPostgresError {
    fn unreachable(url: &PostgresUrl, reason: String) -> Self {
        Self::Unreachable {
            url: url.clone(),
            reason,
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.readers.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.readers.scan(crate::range::Range::of(prefix, after), limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let bytes = limits::check(&conditions, &writes)?;
        self.committer.commit(conditions, writes, bytes).await
    }
}
