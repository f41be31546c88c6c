//! A shared store as a live host writes it: every commit fails once the host has been fenced.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_store::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

use super::{Handle, lease};
use crate::key;

/// A store for everything that a node writes beside its streams.
///
/// Each commit carries the host's guard as one more condition, so that it is refused as unavailable once
/// another host has fenced this one, until it has joined anew. Reads go on. Appends need no such guard:
/// the version of a chain's head is theirs.
pub struct GuardedStore {
    store: Arc<dyn Store>,
    host: Handle,
}

impl GuardedStore {
    /// `store` is the one that `host` lives on.
    pub fn new(store: Arc<dyn Store>, host: Handle) -> Self {
        Self { store, host }
    }
}

#[async_trait]
impl Store for GuardedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.store.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.store.scan(prefix, after, limit).await
    }

    async fn commit(&self, mut conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let host = self.host.inner();
        let refused = || {
            let text = format!(
                "host `{}` has lost its lease and joins the cluster anew; try again",
                host.id.0
            );
            Err(CommitError::Unavailable(text))
        };
        if host.is_fenced() {
            return refused();
        }
        conditions.push(host.guard());
        match self.store.commit(conditions, writes).await {
            Err(CommitError::Conflict(key)) if key == key::member(host.id) => {
                lease::be_fenced(&host);
                refused()
            }
            outcome => outcome,
        }
    }
}
