//! A host's line to the store: slow, lossy, and dead while the host is frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use bowline_store::{CommitError, Condition, Entry, FaultyStore, Key, ReadError, Store, Version, Write};
use tokio::sync::Notify;

/// Open while the host runs; whoever passes waits while it is frozen.
///
/// Made of a `Notify`, which wakes its waiters in their order; a `watch` channel draws lots.
#[derive(Debug)]
pub struct Gate {
    is_open: AtomicBool,
    opened: Notify,
}

impl Gate {
    pub fn open() -> Self {
        Self {
            is_open: AtomicBool::new(true),
            opened: Notify::new(),
        }
    }

    pub fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
        if is_open {
            self.opened.notify_waiters();
        }
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Completes once the host runs.
    pub async fn pass(&self) {
        while !self.is_open() {
            let opened = self.opened.notified();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }
}

/// See the top of the file. A commit that has left its host is carried out whatever becomes of the host.
pub(crate) struct Line {
    pub store: Arc<FaultyStore>,
    pub gate: Arc<Gate>,
    pub entropy: Entropy,
    /// The longest way to the store, one direction.
    pub delay_max: Duration,
}

impl Line {
    /// The scheduler's whims and the way to or from the store.
    async fn travel(&self) {
        for _ in 0..self.entropy.number() % 3 {
            tokio::task::yield_now().await;
        }
        if self.entropy.unit() < 0.3 {
            tokio::time::sleep(self.delay_max.mul_f64(self.entropy.unit())).await;
        }
        self.gate.pass().await;
    }
}

#[async_trait]
impl Store for Line {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.travel().await;
        let found = self.store.get(key).await;
        self.travel().await;
        found
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.travel().await;
        let found = self.store.scan(prefix, after, limit).await;
        self.travel().await;
        found
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        self.travel().await;
        let store = Arc::clone(&self.store);
        let committed = tokio::spawn(async move { store.commit(conditions, writes).await }).await;
        self.travel().await;
        committed.unwrap_or_else(|error| Err(CommitError::Unknown(error.to_string())))
    }
}
