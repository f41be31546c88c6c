//! Stores of every kind, ready to be tested.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use bowline_store::conformance::Fixture;
use bowline_store::{
    FaultRates, FaultyStore, MemoryStore, PostgresOptions, PostgresStore, PostgresUrl, SqliteStore, Store,
};
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

/// A schema of its own in the server that all tests share.
pub struct Postgres {
    options: PostgresOptions,
    store: Option<Arc<PostgresStore>>,
}

impl Postgres {
    /// None where there is no PostgreSQL.
    pub async fn new() -> Option<Self> {
        let url = fresh_url(&bowline_test_postgres::shared_url()?);
        let mut fixture = Self {
            options: PostgresOptions::new(url),
            store: None,
        };
        fixture.open().await;
        Some(fixture)
    }

    pub fn options(&self) -> &PostgresOptions {
        &self.options
    }

    pub fn postgres(&self) -> Arc<PostgresStore> {
        Arc::clone(self.store.as_ref().unwrap())
    }

    async fn open(&mut self) {
        self.store = Some(Arc::new(PostgresStore::connect(&self.options).await.unwrap()));
    }
}

#[async_trait]
impl Fixture for Postgres {
    fn store(&self) -> Arc<dyn Store> {
        self.postgres()
    }

    async fn reopen(&mut self) {
        let store = Arc::into_inner(self.store.take().unwrap()).expect("nobody else holds the store");
        store.close().await;
        self.open().await;
    }
}

/// The same database with a schema that no other test uses.
pub fn fresh_url(url: &str) -> PostgresUrl {
    let url: PostgresUrl = url.parse().unwrap();
    url.with_schema(&format!("t{:016x}", Entropy::system().number()))
        .unwrap()
}

/// A plain connection to the database, for what the store does not do.
pub async fn raw(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
