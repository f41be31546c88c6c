//! Streams, sessions and objects of a node that has its store to itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bowline_api::{Data, DataMetrics};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::blob::Blobs;
use bowline_store::objects::{self, NamedStore, Objects};
use bowline_store::{SqliteStore, Store};
use bowline_stream::{Config, NoPeers, Sharing, session};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

/// The independent stores of objects, each in a file of its own. A name never changes hands: identifiers
/// carry it.
const OBJECT_STORES: [&str; 2] = ["a", "b"];

/// The engines and their tasks.
pub struct DataService {
    handles: Arc<Data>,
    sessions: session::Service,
    streams: JoinHandle<()>,
    objects: JoinHandle<()>,
}

impl DataService {
    /// Starts the engines over `store` and files in `folder`.
    pub async fn start(
        clock: &Clock,
        entropy: &Entropy,
        (store, folder): (Arc<dyn Store>, &Path),
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let objects = objects_in(folder, clock, entropy)?;
        let options = bowline_stream::Options {
            store: Arc::clone(&store),
            blobs: Some(Blobs::open_dir(&folder.join("stream-blobs"))?),
            clock: clock.clone(),
            entropy: entropy.clone(),
            peers: Arc::new(NoPeers),
            address: String::new(),
            sharing: Sharing::Exclusive,
            config: Config::default(),
        };
        let (streams, handle) = options.start().await.context("cannot bring back the streams")?;
        let sessions = session::Service::start(session::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            store,
            log: Arc::new(handle.clone()),
        });
        let metrics = DataMetrics::register(registry);
        let tending = objects.clone();
        Ok(Self {
            handles: Arc::new(Data::new(handle, sessions.handle(), objects, metrics)),
            sessions,
            streams: tokio::spawn(streams.run()),
            objects: tokio::spawn(async move { tending.run().await }),
        })
    }

    /// What the server serves.
    pub fn handles(&self) -> Arc<Data> {
        Arc::clone(&self.handles)
    }

    /// Ends the engines' tasks; what was acknowledged is durable already.
    pub async fn shut_down(self) {
        self.sessions.shut_down().await;
        for task in [self.streams, self.objects] {
            task.abort();
            let _ = task.await;
        }
    }
}

fn objects_in(folder: &Path, clock: &Clock, entropy: &Entropy) -> anyhow::Result<Objects> {
    let mut stores = Vec::new();
    for name in OBJECT_STORES {
        let path = folder.join(format!("objects-{name}.db"));
        let store = SqliteStore::open(&path).with_context(|| format!("cannot use `{}`", path.display()))?;
        stores.push(NamedStore {
            name: name.parse().context("a store's name")?,
            store: Arc::new(store),
        });
    }
    let options = objects::Options::default();
    Objects::new(stores, options, clock.clone(), entropy.clone()).context("cannot begin with the objects")
}
