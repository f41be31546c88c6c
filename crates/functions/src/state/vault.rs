//! What one resource holds: its entries and its lease, each change one commit on condition of the head.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_store::record::Record as _;
use bowline_store::{CommitError, Condition, Store, Version, Write};

use super::record::{EntryRecord, HeadRecord, LeaseRecord};
use super::{BYTES_MAX, ENTRIES_MAX, StateEntry, StateError, VALUE_BYTES_MAX, Writers, keys};

/// How often a write is tried while others write the same resource.
const TRIES_MAX: u32 = 200;
/// The first pause of one who waits for a lease; each is twice as long as the one before.
const LEASE_PAUSE_MIN: Duration = Duration::from_millis(20);
const LEASE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// One resource.
pub(super) struct Vault<'a> {
    pub store: &'a dyn Store,
    pub name: &'a str,
    pub id: &'a str,
    pub writers: Writers,
    /// What must be so with every write beside: that the resource is still there.
    pub anchor: Vec<Condition>,
}

/// The lease that an invocation holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub holder: String,
    pub epoch: u64,
}

/// What a write does to an entry.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Put(String),
    Delete,
}

impl Vault<'_> {
    pub async fn head(&self) -> Result<(HeadRecord, Option<Version>), StateError> {
        match self.store.get(&keys::head(self.id)).await? {
            None => Ok((HeadRecord::default(), None)),
            Some(found) => Ok((HeadRecord::decode(&found.value)?, Some(found.version))),
        }
    }

    pub async fn read(&self, key: &str) -> Result<StateEntry, StateError> {
        let found = self.store.get(&keys::entry(self.id, key)).await?;
        let found = found.ok_or_else(|| StateError::NoSuchEntry(self.name.to_owned()))?;
        let EntryRecord { version, value } = EntryRecord::decode(&found.value)?;
        Ok(StateEntry { version, value })
    }

    /// The keys of all entries, in order.
    pub async fn keys(&self) -> Result<Vec<String>, StateError> {
        let prefix = keys::entries(self.id);
        let found = self.store.scan(&prefix, None, ENTRIES_MAX as usize).await?;
        let key = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        Ok(found.iter().map(|(found, _)| key(found)).collect())
    }

    /// Changes an entry; returns the resource's version. `expected` is the version that the entry must have,
    /// zero if there must be none.
    pub async fn write(
        &self,
        key: &str,
        edit: &Edit,
        lease: Option<&Lease>,
        expected: Option<u64>,
    ) -> Result<u64, StateError> {
        for _ in 0..TRIES_MAX {
            let (mut head, at) = self.head().await?;
            self.may_write(&head, lease)?;
            let old = match self.read(key).await {
                Ok(old) => Some(old),
                Err(StateError::NoSuchEntry(_)) => None,
                Err(error) => return Err(error),
            };
            let actual = old.as_ref().map_or(0, |old| old.version);
            if let Some(expected) = expected.filter(|expected| *expected != actual) {
                return Err(StateError::VersionMismatch { actual, expected });
            }
            let write = apply(&mut head, (self.id, key), edit, old.as_ref())
                .ok_or_else(|| StateError::NoSuchEntry(self.name.to_owned()))??;
            match self.commit(&head, at, Some(write)).await {
                Ok(()) => return Ok(head.version),
                Err(StateError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StateError::Contended)
    }

    fn may_write(&self, head: &HeadRecord, lease: Option<&Lease>) -> Result<(), StateError> {
        let holds = |lease: &Lease| {
            let current = head.lease.as_ref();
            lease.epoch == head.epoch && current.is_some_and(|current| current.holder == lease.holder)
        };
        match self.writers {
            Writers::Any => Ok(()),
            Writers::One if lease.is_some_and(holds) => Ok(()),
            Writers::One => Err(StateError::NoLease(self.name.to_owned())),
        }
    }

    /// Takes the lease, or waits for it until `until`, which is also how long it is held at most. `pause` says how
    /// long a pause of about the given length is to be; none if nobody waits any more.
    ///
    /// # Errors
    /// [`StateError::Unknown`] too can leave the lease with the holder; [`Vault::release_all`] settles it.
    pub async fn acquire(
        &self,
        holder: &str,
        until: Timestamp,
        now: impl Fn() -> Timestamp,
        pause: impl Fn(Duration) -> Option<Duration>,
    ) -> Result<Lease, StateError> {
        let mut about = LEASE_PAUSE_MIN;
        loop {
            let failure = match self.try_acquire(holder, until, now()).await {
                Ok(Some(lease)) => return Ok(lease),
                Ok(None) | Err(StateError::Contended) => StateError::LeaseBusy(self.name.to_owned()),
                // To take it twice is to take it once, with a later epoch.
                Err(error @ (StateError::Unavailable(_) | StateError::Unknown(_))) => error,
                Err(error) => return Err(error),
            };
            let Some(pause) = pause(about).filter(|_| now() < until) else {
                return Err(failure);
            };
            tokio::time::sleep(pause).await;
            about = LEASE_PAUSE_MAX.min(about * 2);
        }
    }

    /// Takes the lease if it is free or the holder's already.
    async fn try_acquire(&self, holder: &str, until: Timestamp, now: Timestamp) -> Result<Option<Lease>, StateError> {
        let (mut head, at) = self.head().await?;
        let is_free = head
            .lease
            .as_ref()
            .is_none_or(|lease| lease.holder == holder || lease.until <= now);
        if !is_free {
            return Ok(None);
        }
        head.epoch += 1;
        head.lease = Some(LeaseRecord {
            holder: holder.to_owned(),
            until,
        });
        self.commit(&head, at, None).await?;
        Ok(Some(Lease {
            holder: holder.to_owned(),
            epoch: head.epoch,
        }))
    }

    /// Gives the lease back; one that was lost is none.
    pub async fn release(&self, lease: &Lease) -> Result<(), StateError> {
        self.release_of(&lease.holder, Some(lease.epoch), None).await
    }

    /// Gives back whatever lease the holder has that ends at `until`, known to it or not. Another try of the same
    /// invocation has the same name and another end.
    pub async fn release_all(&self, holder: &str, until: Timestamp) -> Result<(), StateError> {
        self.release_of(holder, None, Some(until)).await
    }

    /// Gives the holder's lease back if it has this epoch and this end, so far as they are given.
    async fn release_of(&self, holder: &str, epoch: Option<u64>, until: Option<Timestamp>) -> Result<(), StateError> {
        for _ in 0..TRIES_MAX {
            let (mut head, at) = self.head().await?;
            let is_ours = head.lease.as_ref().is_some_and(|current| {
                current.holder == holder
                    && epoch.is_none_or(|epoch| epoch == head.epoch)
                    && until.is_none_or(|until| until == current.until)
            });
            if !is_ours {
                return Ok(());
            }
            head.lease = None;
            match self.commit(&head, at, None).await {
                Err(StateError::Contended) => {}
                outcome => return outcome,
            }
        }
        Err(StateError::Contended)
    }

    async fn commit(&self, head: &HeadRecord, at: Option<Version>, entry: Option<Write>) -> Result<(), StateError> {
        let key = keys::head(self.id);
        let condition = match at {
            None => Condition::Absent(key.clone()),
            Some(at) => Condition::AtVersion(key.clone(), at),
        };
        let head = Write::Put(key, head.encode());
        let writes = std::iter::once(head).chain(entry).collect();
        let conditions = self.anchor.iter().cloned().chain([condition]).collect();
        match self.store.commit(conditions, writes).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict(_)) => Err(StateError::Contended),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the edit writes, with the head as it is then; nothing if there is nothing to delete.
fn apply(
    head: &mut HeadRecord,
    (id, key): (&str, &str),
    edit: &Edit,
    old: Option<&StateEntry>,
) -> Option<Result<Write, StateError>> {
    let size = |value: &str| (key.len() + value.len()) as u64;
    head.version += 1;
    head.bytes -= old.map_or(0, |old| size(&old.value)).min(head.bytes);
    let at = keys::entry(id, key);
    let value = match edit {
        Edit::Put(value) => value,
        Edit::Delete => {
            old?;
            head.entries = head.entries.saturating_sub(1);
            return Some(Ok(Write::Delete(at)));
        }
    };
    head.bytes += size(value);
    head.entries += u32::from(old.is_none());
    if value.len() > VALUE_BYTES_MAX || head.entries > ENTRIES_MAX || head.bytes > BYTES_MAX {
        return Some(Err(StateError::TooLarge));
    }
    let record = EntryRecord {
        version: head.version,
        value: value.clone(),
    };
    Some(Ok(Write::Put(at, record.encode())))
}

#[cfg(test)]
mod tests;
