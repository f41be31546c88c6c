//! The engines behind the wire, in a folder of the test's own.

use std::path::Path;
use std::sync::Arc;

use bowline_api::{Data, DataMetrics};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::objects::{NamedStore, Objects, Options};
use bowline_store::{FaultRates, FaultyStore, SqliteStore, Store};
use bowline_stream::{Config, NoPeers, Sharing, session};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

pub struct Engines {
    handles: Arc<Data>,
    sessions: session::Service,
    streams: JoinHandle<()>,
    /// The first of the two stores of objects, to be put out of order.
    pub first_store: Arc<FaultyStore>,
}

impl Engines {
    pub async fn start(folder: &Path, registry: &mut Registry) -> Self {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let open =
            |name: &str| -> Arc<dyn Store> { Arc::new(SqliteStore::open(&folder.join(name)).expect("a store opens")) };
        let store = open("store.db");
        let options = bowline_stream::Options {
            store: Arc::clone(&store),
            blobs: None,
            clock: clock.clone(),
            entropy: entropy.clone(),
            peers: Arc::new(NoPeers),
            address: String::new(),
            sharing: Sharing::Exclusive,
            config: Config::default(),
        };
        let (service, streams) = options.start().await.expect("an empty store starts");
        let sessions = session::Service::start(session::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            store,
            log: Arc::new(streams.clone()),
        });
        let first_store = Arc::new(FaultyStore::new(
            open("a.db"),
            FaultRates::default(),
            Entropy::seeded(1),
        ));
        let named = |name: &str, store: Arc<dyn Store>| NamedStore {
            name: name.parse().expect("a store's name"),
            store,
        };
        let stores = vec![named("a", first_store.clone()), named("b", open("b.db"))];
        let objects = Objects::new(stores, Options::default(), clock, entropy).expect("two stores");
        Self {
            handles: Arc::new(Data::new(
                streams,
                sessions.handle(),
                objects,
                DataMetrics::register(registry),
            )),
            sessions,
            streams: tokio::spawn(service.run()),
            first_store,
        }
    }

    pub fn handles(&self) -> Arc<Data> {
        Arc::clone(&self.handles)
    }

    pub async fn stop(self) {
        self.sessions.shut_down().await;
        self.streams.abort();
    }
}
