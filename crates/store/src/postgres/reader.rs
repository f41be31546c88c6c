//! Reads: one statement each, several at a time on each of a few connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::failure;
use super::link::{Link, Session};
use crate::limits::WAITING_READS_MAX;
use crate::range::Range;
use crate::{Entry, Key, ReadError, Version};

/// The connections for reading, which take turns; one that rests is passed over, if there is another one.
pub(super) struct Readers {
    links: Vec<Arc<Link>>,
    next: AtomicUsize,
    /// One permit a read that runs or waits.
    places: Semaphore,
}

impl Readers {
    pub fn new(links: Vec<Arc<Link>>) -> Self {
        Self {
            links,
            next: AtomicUsize::new(0),
            places: Semaphore::new(WAITING_READS_MAX),
        }
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        let rows = self.run(|session| &session.get, &[&&key[..]]).await?;
        let found = rows.first().map(entry).transpose()?;
        Ok(found.map(|(_, entry)| entry))
    }

    pub async fn scan(&self, range: Range, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let lower = &range.lower[..];
        let rows = match range.upper.as_deref() {
            Some(upper) => self.run(|session| &session.scan, &[&lower, &upper, &limit]).await?,
            None => self.run(|session| &session.scan_to_end, &[&lower, &limit]).await?,
        };
        rows.iter().map(entry).collect()
    }

    fn link(&self) -> &Link {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.links.len();
        let (before, from) = self.links.split_at(turn);
        let mut in_turn = from.iter().chain(before);
        in_turn.find(|link| !link.rests()).unwrap_or(&self.links[turn])
    }

    async fn run(
        &self,
        statement: fn(&Session) -> &Statement,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ReadError> {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| ReadError::Unavailable(format!("`{WAITING_READS_MAX}` reads are waiting already")))?;
        let link = self.link();
        let session = link.session().await.map_err(ReadError::Unavailable)?;
        let limit = link.limits().answer();
        let Ok(answer) = timeout(limit, session.client.query(statement(&session), arguments)).await else {
            link.abandon(&session).await;
            return Err(ReadError::Unavailable(format!("no answer within `{limit:?}`")));
        };
        answer.map_err(|error| ReadError::Unavailable(failure::text(&error)))
    }
}

fn entry(row: &Row) -> Result<(Key, Entry), ReadError> {
    let damaged = |error: Error| ReadError::Damaged(failure::text(&error));
    let bytes = |column| row.try_get(column).map(Bytes::copy_from_slice).map_err(damaged);
    let version: i64 = row.try_get(1).map_err(damaged)?;
    let version = u64::try_from(version).map_err(|_| ReadError::Damaged(format!("version `{version}` of a value")))?;
    let value = bytes(2)?;
    Ok((
        bytes(0)?,
        Entry {
            value,
            version: Version(version),
        },
    ))
}
