//! Event source mappings in memory and in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_store::{CommitError, Condition, Version as StoreVersion, Write};
use parking_lot::RwLock;

use super::load::{LoadError, read};
use super::record::{MappingRecord, Record as _};
use super::{Audit, Change, Registry, keys};
use crate::error::Error;
use crate::model::events::Mapping;

/// A mapping as it was committed.
#[derive(Clone)]
pub(crate) struct MappingEntry {
    pub mapping: Mapping,
    /// The session that reads its stream, or the address of its queue; none until it is known.
    pub session: Option<String>,
    pub at: StoreVersion,
}

/// All mappings, by identifier.
#[derive(Default)]
pub(crate) struct Mappings(RwLock<BTreeMap<String, Arc<MappingEntry>>>);

impl Mappings {
    pub fn get(&self, id: &str) -> Option<Arc<MappingEntry>> {
        self.0.read().get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<MappingEntry>> {
        self.0.read().values().cloned().collect()
    }

    pub fn put(&self, entry: MappingEntry) {
        self.0.write().insert(entry.mapping.id.clone(), Arc::new(entry));
    }

    pub fn remove(&self, id: &str) {
        self.0.write().remove(id);
    }

    /// Says what came of a batch; not durable.
    pub fn note(&self, id: &str, result: &str) {
        let mut mappings = self.0.write();
        let Some(entry) = mappings.get_mut(id) else { return };
        if entry.mapping.last_result != result {
            Arc::make_mut(entry).mapping.last_result = result.to_owned();
        }
    }
}

impl Change {
    /// A mapping appears, changes, or goes.
    pub fn mapping(&mut self, old: Option<&MappingEntry>, new: Option<&MappingEntry>) -> &mut Self {
        let Some(id) = new.or(old).map(|entry| &entry.mapping.id) else {
            return self;
        };
        let encode = |entry: &MappingEntry| MappingRecord::new(&entry.mapping, entry.session.clone()).encode();
        self.put(
            keys::mapping(id),
            old.map(|old| old.at),
            old.map(encode),
            new.map(encode),
        )
    }
}

impl Registry {
    /// Commits a change of one mapping; if that leaves doubt, reads it again.
    pub async fn commit_mapping(&self, audit: Audit<'_>, mut change: Change, id: &str) -> Result<StoreVersion, Error> {
        let committed = self.commit(audit, &mut change).await;
        if committed.is_err() {
            self.reload_mapping(id).await;
        }
        committed
    }

    async fn reload_mapping(&self, id: &str) {
        let key = keys::mapping(id);
        match self.store.get(&key).await {
            Ok(None) => self.mappings.remove(id),
            Ok(Some(entry)) => match read_mapping(id, &key, &entry) {
                Ok(entry) => self.mappings.put(entry),
                Err(error) => tracing::error!(id, error = &error as &dyn std::error::Error, "a mapping is damaged"),
            },
            Err(error) => tracing::error!(id, %error, "a mapping cannot be read again after a failed commit"),
        }
    }

    /// Brings the mappings up to what the store holds; returns those that are new, changed or gone.
    pub async fn load_mappings(&self) -> Result<Vec<String>, LoadError> {
        let mut changed = Vec::new();
        let mut stored = BTreeSet::new();
        for (key, entry) in self.scan(keys::MAPPINGS).await? {
            let [id] = keys::parts::<1>(&key, keys::MAPPINGS)
                .ok_or_else(|| LoadError::Key(String::from_utf8_lossy(&key).into_owned()))?;
            if self.mappings.get(&id).is_none_or(|known| known.at != entry.version) {
                self.mappings.put(read_mapping(&id, &key, &entry)?);
                changed.push(id.clone());
            }
            stored.insert(id);
        }
        for known in self.mappings.all() {
            if !stored.contains(&known.mapping.id) {
                self.mappings.remove(&known.mapping.id);
                changed.push(known.mapping.id.clone());
            }
        }
        Ok(changed)
    }

    /// Keeps the end of an event that does not fit in a stream; returns where.
    pub async fn put_overflow(&self, id: &str, rest: bytes::Bytes) -> Result<String, CommitError> {
        let key = keys::overflow(self.clock.now(), id);
        let name = String::from_utf8_lossy(&key).into_owned();
        self.store
            .commit(vec![Condition::Absent(key.clone())], vec![Write::Put(key, rest)])
            .await?;
        Ok(name)
    }

    pub async fn overflow(&self, name: &str) -> Result<Option<bytes::Bytes>, bowline_store::ReadError> {
        let found = self.store.get(&name.to_owned().into()).await?;
        Ok(found.map(|entry| entry.value))
    }

    /// Forgets what an event that is over has left.
    pub async fn delete_overflow(&self, name: &str) {
        let deleted = self
            .store
            .commit(Vec::new(), vec![Write::Delete(name.to_owned().into())])
            .await;
        if let Err(error) = deleted {
            tracing::warn!(%error, "the end of an event stays until it is old");
        }
    }
}

fn read_mapping(id: &str, key: &bowline_store::Key, entry: &bowline_store::Entry) -> Result<MappingEntry, LoadError> {
    let record: MappingRecord = read(key, entry)?;
    let (mapping, session) = record
        .into_model(id.to_owned())
        .map_err(|source| super::load::damaged(key, source))?;
    Ok(MappingEntry {
        mapping,
        session,
        at: entry.version,
    })
}
