//! Audit rows on their way into the audit stream: written with their mutation, taken away once the stream
//! has them.

use bowline_store::{CommitError, Key, ReadError, Write};
use bytes::Bytes;

use super::{Registry, keys};

/// Rows that are published at once.
const PAGE: usize = 256;

impl Registry {
    /// The oldest rows that the stream may not have yet: what tells each from every other, and the record.
    pub async fn unpublished(&self) -> Result<Vec<(Key, Bytes)>, ReadError> {
        let page = self.store.scan(&Key::from(keys::OUTBOX), None, PAGE).await?;
        Ok(page.into_iter().map(|(key, entry)| (key, entry.value)).collect())
    }

    /// The stream has these.
    pub async fn published(&self, keys: Vec<Key>) -> Result<(), CommitError> {
        let writes = keys.into_iter().map(Write::Delete).collect();
        self.store.commit(Vec::new(), writes).await.map(drop)
    }
}
