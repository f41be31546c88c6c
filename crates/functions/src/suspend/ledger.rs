//! The records of runs, each change of one a conditional commit; and the blobs that they name.
//!
//! A blob is put before the commit that names it, and deleted after the commit that names it no more: a crash in
//! between leaves an orphan, which [`Ledger::collect`] removes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::RequestId;
use bowline_store::blob::{BlobError, Blobs};
use bowline_store::record::{FrameError, Record};
use bowline_store::{CommitError, Condition, Key, ReadError, Store, Version, Write};
use bytes::Bytes;

use super::record::RunRecord;

/// `checkpoint/run/REQUEST-ID`: a [`RunRecord`]. Lives from a run's first checkpoint until its caller has the answer,
/// or until it is removed. Missing: the run has no checkpoint.
const RUNS: &str = "checkpoint/run/";
/// Records of one page of a scan.
const PAGE: usize = 256;
/// Blobs that are younger may belong to a commit that is under way.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// A record with its version in the store.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub record: RunRecord,
    at: Version,
}

/// Why the ledger failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// Somebody else has changed the run.
    #[error("the run has changed meanwhile")]
    Fenced,
    #[error("a run cannot be read")]
    Read(#[from] ReadError),
    #[error("a run cannot be written")]
    Commit(#[source] CommitError),
    #[error("a run's record is damaged")]
    Record(#[from] FrameError),
    #[error("a checkpoint cannot be kept or found")]
    Blob(#[from] BlobError),
}

impl From<CommitError> for LedgerError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Fenced,
            other => Self::Commit(other),
        }
    }
}

/// The runs of all nodes that share a store.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    blobs: Blobs,
    clock: Clock,
}

fn key(run: &RequestId) -> Key {
    format!("{RUNS}{run}").into()
}

impl Ledger {
    pub(super) fn new(store: Arc<dyn Store>, blobs: Blobs, clock: Clock) -> Self {
        Self { store, blobs, clock }
    }

    pub(super) async fn load(&self, run: &RequestId) -> Result<Option<Loaded>, LedgerError> {
        let Some(entry) = self.store.get(&key(run)).await? else {
            return Ok(None);
        };
        Ok(Some(Loaded {
            record: RunRecord::decode(&entry.value)?,
            at: entry.version,
        }))
    }

    /// All runs that have a record.
    pub(super) async fn all(&self) -> Result<Vec<Loaded>, LedgerError> {
        let mut found = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(&Key::from(RUNS), after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (_, entry) in page {
                found.push(Loaded {
                    record: RunRecord::decode(&entry.value)?,
                    at: entry.version,
                });
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    /// Writes a run's first record.
    pub(super) async fn create(&self, run: &RequestId, record: RunRecord) -> Result<Loaded, LedgerError> {
        let key = key(run);
        let writes = vec![Write::Put(key.clone(), record.encode())];
        let at = self.store.commit(vec![Condition::Absent(key)], writes).await?;
        Ok(Loaded { record, at })
    }

    /// Changes a run that nobody else has changed; what its record named and names no more is removed.
    pub(super) async fn change(
        &self,
        run: &RequestId,
        loaded: &mut Loaded,
        change: impl FnOnce(&mut RunRecord),
    ) -> Result<(), LedgerError> {
        let mut record = loaded.record.clone();
        change(&mut record);
        let key = key(run);
        let writes = vec![Write::Put(key.clone(), record.encode())];
        let at = self
            .store
            .commit(vec![Condition::AtVersion(key, loaded.at)], writes)
            .await?;
        let named: HashSet<Digest> = record.blobs().collect();
        let old: Vec<Digest> = loaded.record.blobs().filter(|blob| !named.contains(blob)).collect();
        *loaded = Loaded { record, at };
        self.drop_blobs(old).await;
        Ok(())
    }

    /// Removes a run that nobody else has changed.
    pub(super) async fn remove(&self, run: &RequestId, loaded: &Loaded) -> Result<(), LedgerError> {
        let key = key(run);
        let conditions = vec![Condition::AtVersion(key.clone(), loaded.at)];
        self.store.commit(conditions, vec![Write::Delete(key)]).await?;
        self.drop_blobs(loaded.record.blobs().collect()).await;
        Ok(())
    }

    pub(super) async fn put(&self, bytes: Bytes) -> Result<Digest, LedgerError> {
        Ok(self.blobs.put(bytes).await?)
    }

    /// A blob; its digest is checked.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Bytes, LedgerError> {
        Ok(self.blobs.get(digest).await?)
    }

    async fn drop_blobs(&self, blobs: Vec<Digest>) {
        for blob in blobs {
            if let Err(error) = self.blobs.delete(&blob).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "a checkpoint that nobody needs is left for later");
            }
        }
    }

    /// Removes blobs that no record names and that are old.
    pub(super) async fn collect(&self) -> Result<(), LedgerError> {
        let named: HashSet<Digest> = self.all().await?.iter().flat_map(|run| run.record.blobs()).collect();
        let cutoff = self.clock.now().before(ORPHAN_AGE);
        for blob in self.blobs.list().await? {
            if !named.contains(&blob) {
                self.blobs.delete_if_older(&blob, cutoff).await?;
            }
        }
        Ok(())
    }
}
