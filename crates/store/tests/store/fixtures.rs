//! Stores of every kind, ready to be tested.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use bowline_store::conformance::Fixture;
use bowline_store::{FaultRates, FaultyStore, MemoryStore, SqliteStore, Store};
use tempfile::TempDir;

/// A store that has nothing to reopen.
pub struct Lasting(Arc<dyn Store>);

impl Lasting {
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }

    pub fn memory() -> Self {
        Self::new(MemoryStore::default())
    }
}

#[async_trait]
impl Fixture for Lasting {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0)
    }

    async fn reopen(&mut self) {}
}

/// A database in a folder of its own.
pub struct Sqlite {
    folder: TempDir,
    store: Option<Arc<SqliteStore>>,
}

impl Sqlite {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fixture = Self { folder, store: None };
        fixture.open();
        fixture
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("bowline.db")
    }

    pub fn sqlite(&self) -> &SqliteStore {
        self.store.as_ref().unwrap()
    }

    fn open(&mut self) {
        self.store = Some(Arc::new(SqliteStore::open(&self.path()).unwrap()));
    }

    /// Closes the database and opens it again.
    pub fn open_again(&mut self) {
        let store = self.store.take().unwrap();
        assert_eq!(Arc::strong_count(&store), 1, "somebody still holds the store");
        drop(store);
        self.open();
    }
}

#[async_trait]
impl Fixture for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    async fn reopen(&mut self) {
        self.open_again();
    }
}

/// A wrapper that only delays, so that what it wraps must still conform.
pub fn delaying(inner: Arc<dyn Store>) -> FaultyStore {
    let rates = FaultRates {
        delay: 0.1,
        delay_max: Duration::from_millis(2),
        ..FaultRates::default()
    };
    FaultyStore::new(inner, rates, Entropy::seeded(1))
}
