//! A stream host in this process, over a store of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{OpenError, SqliteStore, Store};
use bowline_stream::{Config, CreateError, Handle, NoPeers, Options, Record, Settings, Sharing, StreamId};
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::load::{Client, Shape, Subject};

/// Chains of every stream, as many as the API gives a stream unless it is told otherwise.
const CHAINS: u32 = 2;
/// Between two looks whether a store has been given up.
const RELEASE: Duration = Duration::from_millis(5);

pub struct Embedded {
    pub store: Arc<dyn Store>,
    pub handle: Handle,
    service: JoinHandle<()>,
}

impl Embedded {
    /// A host over the embedded store.
    pub async fn open(path: &Path) -> Result<Self> {
        let store = loop {
            match SqliteStore::open(path) {
                // Tasks of a host that was closed may still hold the store for a moment.
                Err(OpenError::InUse { holder, .. }) if holder == Some(std::process::id()) => {
                    tokio::time::sleep(RELEASE).await;
                }
                opened => break opened?,
            }
        };
        Self::over(Arc::new(store), Sharing::Exclusive).await
    }

    /// A host over any store.
    pub async fn over(store: Arc<dyn Store>, sharing: Sharing) -> Result<Self> {
        let options = Options {
            store: Arc::clone(&store),
            blobs: None,
            clock: Clock::system(),
            entropy: Entropy::system(),
            peers: Arc::new(NoPeers),
            address: String::new(),
            sharing,
            config: Config::default(),
        };
        let (service, handle) = options.start().await?;
        let service = tokio::spawn(service.run());
        Ok(Self { store, handle, service })
    }

    /// The stream of this name, made if it is not there.
    pub async fn stream(&self, name: &str) -> Result<StreamId> {
        let stream = StreamId::new(name, CHAINS)?;
        match self.handle.create(&stream, Settings::default()).await {
            Ok(()) | Err(CreateError::Exists { .. }) => Ok(stream),
            Err(error) => Err(error.into()),
        }
    }

    /// Clients that append to a stream.
    pub async fn appenders(&self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        let stream = self.stream(&shape.stream()).await?;
        let records: Vec<Record> = shape.bodies().into_iter().map(record).collect();
        let client = |_| {
            let (handle, stream, records) = (self.handle.clone(), stream.clone(), records.clone());
            Box::new(Appender {
                handle,
                stream,
                records,
            }) as Box<dyn Client>
        };
        Ok((0..shape.clients).map(client).collect())
    }

    /// Ends the host, so that another may take the store.
    pub async fn close(self) {
        self.service.abort();
        // It was told to end.
        let _ = self.service.await;
    }
}

fn record(body: Vec<u8>) -> Record {
    Record {
        body: Bytes::from(body),
        ..Record::default()
    }
}

#[async_trait]
impl Subject for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        self.appenders(shape).await
    }
}

struct Appender {
    handle: Handle,
    stream: StreamId,
    records: Vec<Record>,
}

#[async_trait]
impl Client for Appender {
    async fn append(&mut self) -> Result<usize> {
        let stored = self.handle.append(&self.stream, self.records.clone()).await?;
        Ok(stored.len())
    }
}
