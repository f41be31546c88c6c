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
use bowline_store::blob::{BlobError, Blobs, Naming};
use bowline_store::record::{FrameError, Record};
use bowline_store::{CommitError, Condition, Key, ReadError, Store, Version, Write};
use bytes::Bytes;

use super::record::{Kept, RunRecord};

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

    /// All runs that have a record that can be read.
    pub(super) async fn all(&self) -> Result<Vec<Loaded>, LedgerError> {
        let readable = |(key, loaded): (Key, Result<Loaded, FrameError>)| match loaded {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                let key = String::from_utf8_lossy(key.as_ref()).into_owned();
                tracing::warn!(key, %error, "a run's record is damaged");
                None
            }
        };
        Ok(self.scan().await?.into_iter().filter_map(readable).collect())
    }

    async fn scan(&self) -> Result<Vec<(Key, Result<Loaded, FrameError>)>, LedgerError> {
        let mut found = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(&Key::from(RUNS), after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, entry) in page {
                let record = RunRecord::decode(&entry.value);
                let at = entry.version;
                found.push((key, record.map(|record| Loaded { record, at })));
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    /// Writes a run's first record.
    pub(super) async fn create(&self, run: &RequestId, record: RunRecord) -> Result<Loaded, LedgerError> {
        self.write(run, record, Condition::Absent).await
    }

    /// Writes a run's record. A commit of which nobody knows whether it was applied was if its record is there.
    async fn write(
        &self,
        run: &RequestId,
        record: RunRecord,
        condition: impl FnOnce(Key) -> Condition,
    ) -> Result<Loaded, LedgerError> {
        let key = key(run);
        let writes = vec![Write::Put(key.clone(), record.encode())];
        match self.store.commit(vec![condition(key)], writes).await {
            Ok(at) => Ok(Loaded { record, at }),
            Err(error @ CommitError::Unknown(_)) => match self.load(run).await? {
                Some(stored) if stored.record == record => Ok(stored),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
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
        let at = loaded.at;
        let written = self.write(run, record, |key| Condition::AtVersion(key, at)).await?;
        let named: HashSet<Digest> = written.record.blobs().collect();
        let old: Vec<Digest> = loaded.record.blobs().filter(|blob| !named.contains(blob)).collect();
        *loaded = written;
        if !old.is_empty() {
            // Nobody waits for that.
            tokio::spawn(drop_blobs(self.blobs.clone(), old));
        }
        Ok(())
    }

    /// Removes a run that nobody else has changed.
    pub(super) async fn remove(&self, run: &RequestId, loaded: &Loaded) -> Result<(), LedgerError> {
        let key = key(run);
        let conditions = vec![Condition::AtVersion(key.clone(), loaded.at)];
        self.store.commit(conditions, vec![Write::Delete(key)]).await?;
        drop_blobs(self.blobs.clone(), loaded.record.blobs().collect()).await;
        Ok(())
    }

    pub(super) async fn put(&self, bytes: Bytes) -> Result<Digest, LedgerError> {
        Ok(self.blobs.put(bytes).await?)
    }

    /// A blob; its digest is checked.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Bytes, LedgerError> {
        Ok(self.blobs.get(digest).await?)
    }

    /// Keeps a checkpoint's bytes; `seen` gets their digest as soon as other nodes can read them.
    pub(super) async fn put_checkpoint(
        &self,
        bytes: Bytes,
        seen: impl FnOnce(Digest) + Send,
    ) -> Result<(Naming, Digest), LedgerError> {
        Ok((Naming::Blake3, self.blobs.put_quickly(bytes, seen).await?))
    }

    /// Puts back what a record names.
    pub(super) async fn put_again(&self, kept: &Kept, bytes: Bytes) -> Result<(), LedgerError> {
        self.blobs.put_named(kept.naming, bytes).await?;
        Ok(())
    }

    /// A checkpoint's bytes; their digest is checked.
    pub(super) async fn checkpoint(&self, kept: &Kept) -> Result<Bytes, LedgerError> {
        match self.blobs.get_named(kept.naming, &kept.digest).await {
            // A node that did not know of namings may have changed the record, and left out which one it is.
            Err(BlobError::Damaged { .. }) if kept.naming == Naming::Sha256 => self.announced(&kept.digest).await,
            found => Ok(found?),
        }
    }

    /// The bytes of a checkpoint that no record names yet; their digest is checked.
    pub(super) async fn announced(&self, digest: &Digest) -> Result<Bytes, LedgerError> {
        Ok(self.blobs.get_named(Naming::Blake3, digest).await?)
    }

    /// Removes blobs that no record names and that are old.
    pub(super) async fn collect(&self) -> Result<(), LedgerError> {
        let mut named: HashSet<Digest> = HashSet::new();
        for (_, run) in self.scan().await? {
            // What a record names that cannot be read is unknown: nothing is removed then.
            named.extend(run?.record.blobs());
        }
        let cutoff = self.clock.now().before(ORPHAN_AGE);
        for blob in self.blobs.list().await? {
            if !named.contains(&blob) {
                self.blobs.delete_if_older(&blob, cutoff).await?;
            }
        }
        Ok(())
    }
}

async fn drop_blobs(blobs: Blobs, old: Vec<Digest>) {
    for blob in old {
        if let Err(error) = blobs.delete(&blob).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "a checkpoint that nobody needs is left for later");
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;
    use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore};

    use super::*;
    use crate::suspend::record::tests::record;

    /// Whoever changes a run is not fenced off by its own commit of which it got no answer.
    #[tokio::test]
    async fn a_commit_whose_answer_is_lost_is_looked_for() {
        let store = FaultyStore::new(
            Arc::new(MemoryStore::default()),
            FaultRates::default(),
            Entropy::seeded(1),
        );
        let store = Arc::new(store);
        let ledger = Ledger::new(store.clone(), Blobs::in_memory(), Clock::system());
        let run: RequestId = record().run.parse().unwrap();
        store.script([Fault::LoseReply]);
        let mut loaded = ledger.create(&run, record()).await.unwrap();
        store.script([Fault::LoseReply]);
        let renewed = ledger.change(&run, &mut loaded, |record| record.lease_ms = 2).await;
        assert!(renewed.is_ok(), "{renewed:?}");
        // The control: nothing was applied, or somebody else was faster.
        store.script([Fault::FailBefore]);
        let failed = ledger.change(&run, &mut loaded, |record| record.lease_ms = 3).await;
        assert!(matches!(failed, Err(LedgerError::Commit(_))), "{failed:?}");
        let mut other = ledger.load(&run).await.unwrap().unwrap();
        ledger
            .change(&run, &mut other, |record| record.epoch += 1)
            .await
            .unwrap();
        store.script([Fault::LoseReply]);
        let lost = ledger.change(&run, &mut loaded, |record| record.lease_ms = 4).await;
        assert!(matches!(lost, Err(LedgerError::Commit(_))), "{lost:?}");
        let fenced = ledger.change(&run, &mut loaded, |record| record.lease_ms = 4).await;
        assert!(matches!(fenced, Err(LedgerError::Fenced)), "{fenced:?}");
    }
}
