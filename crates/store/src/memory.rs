//! A store in memory: for tests, and for nodes that keep nothing.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::range::Range;
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write, limits};

/// A store that lives as long as its process.
#[derive(Debug, Default)]
pub struct MemoryStore(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    version: u64,
}

impl State {
    fn version_of(&self, key: &Key) -> Option<Version> {
        self.entries.get(key).map(|entry| entry.version)
    }

    fn apply(&mut self, writes: Vec<Write>) -> Version {
        self.version += 1;
        let version = Version(self.version);
        for write in writes {
            match write {
                Write::Put(key, value) => {
                    self.entries.insert(key, Entry { value, version });
                }
                Write::Delete(key) => {
                    self.entries.remove(&key);
                }
            }
        }
        version
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        Ok(self.0.read().entries.get(key).cloned())
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        let range = Range::of(prefix, after);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let upper = range.upper.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.0.read();
        let found = state.entries.range((Bound::Included(range.lower), upper));
        Ok(found
            .take(limit)
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect())
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        limits::check(&conditions, &writes)?;
        let mut state = self.0.write();
        let broken = conditions
            .iter()
            .find(|condition| !condition.holds(state.version_of(condition.key())));
        match broken {
            Some(condition) => Err(CommitError::Conflict(condition.key().clone())),
            None => Ok(state.apply(writes)),
        }
    }
}
