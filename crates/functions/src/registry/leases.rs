//! Who polls a mapping's queue, where only one node may.

use bowline_store::{CommitError, Condition, Key, ReadError, Version as StoreVersion, Write};

use super::record::{LeaseRecord, Record as _};
use super::{Change, Registry, keys};

/// A lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub holder: String,
    pub at: StoreVersion,
}

impl Change {
    /// Nobody polls a mapping that goes.
    pub fn no_lease(&mut self, mapping: &str) -> &mut Self {
        self.delete_key(keys::lease(mapping))
    }
}

impl Registry {
    /// The lease on a mapping's queue.
    pub async fn lease(&self, mapping: &str) -> Result<Option<Lease>, ReadError> {
        let found = self.store.get(&keys::lease(mapping)).await?;
        Ok(found.map(|entry| Lease {
            // Of a record that cannot be read only its standing still matters.
            holder: LeaseRecord::decode(&entry.value).map_or_else(|_| String::new(), |record| record.holder),
            at: entry.version,
        }))
    }

    /// Writes the lease, on condition that it is still as it was seen: at a version, or not there.
    pub async fn put_lease(
        &self,
        mapping: &str,
        holder: &str,
        seen: Option<StoreVersion>,
    ) -> Result<StoreVersion, CommitError> {
        let key = keys::lease(mapping);
        let record = LeaseRecord {
            holder: holder.to_owned(),
        };
        let write = Write::Put(key.clone(), record.encode());
        self.store.commit(vec![as_seen(key, seen)], vec![write]).await
    }

    /// Gives the lease up.
    pub async fn delete_lease(&self, mapping: &str, at: StoreVersion) -> Result<(), CommitError> {
        let key = keys::lease(mapping);
        let write = Write::Delete(key.clone());
        let deleted = self.store.commit(vec![as_seen(key, Some(at))], vec![write]).await;
        deleted.map(drop)
    }
}

fn as_seen(key: Key, seen: Option<StoreVersion>) -> Condition {
    match seen {
        None => Condition::Absent(key),
        Some(at) => Condition::AtVersion(key, at),
    }
}
