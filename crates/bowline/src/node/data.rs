//! Streams, sessions and objects of a node.

use std::sync::Arc;

use anyhow::Context;
use bowline_api::{Data, DataMetrics};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_functions::events;
use bowline_store::objects::{self, Objects};
use bowline_stream::{Config, session};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::door::Door;
use super::ground::Ground;

/// The engines and their tasks.
pub struct DataService {
    handles: Arc<Data>,
    host: bowline_stream::Handle,
    sessions: session::Service,
    streams: JoinHandle<()>,
    door: Option<JoinHandle<()>>,
    objects: JoinHandle<()>,
    fenced: Arc<Notify>,
}

impl DataService {
    /// Starts the engines over what the node stands on.
    pub async fn start(
        clock: &Clock,
        entropy: &Entropy,
        ground: &Ground,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let objects = objects_over(ground, clock, entropy)?;
        let door = Door::open(ground).await?;
        let options = bowline_stream::Options {
            store: Arc::clone(&ground.store),
            blobs: Some(ground.cold.clone()),
            clock: clock.clone(),
            entropy: entropy.clone(),
            peers: door.peers(),
            address: door.address(),
            sharing: ground.sharing,
            config: Config::default(),
        };
        let (streams, handle) = options.start().await.context("cannot bring back the streams")?;
        let sessions = session::Service::start(session::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            store: Arc::clone(&ground.store),
            log: Arc::new(handle.clone()),
        });
        let fenced = Arc::new(Notify::new());
        let streams = tokio::spawn({
            let fenced = Arc::clone(&fenced);
            async move {
                // It returns only once other hosts have taken this one for dead.
                streams.run().await;
                fenced.notify_one();
            }
        });
        let door = door.serve(handle.clone());
        let metrics = DataMetrics::register(registry);
        let tending = objects.clone();
        Ok(Self {
            host: handle.clone(),
            handles: Arc::new(Data::new(handle, sessions.handle(), objects, metrics)),
            sessions,
            streams,
            door,
            fenced,
            objects: tokio::spawn(async move { tending.run().await }),
        })
    }

    /// What the server serves.
    pub fn handles(&self) -> Arc<Data> {
        Arc::clone(&self.handles)
    }

    /// What functions' events are kept in.
    pub fn events(&self) -> events::Options {
        events::Options {
            host: self.host.clone(),
            sessions: self.sessions.handle(),
            timing: events::Timing::default(),
        }
    }

    /// Returns when other nodes have taken this one for dead: its streams take nothing any more.
    pub async fn fenced(&self) {
        self.fenced.notified().await;
    }

    /// Ends the engines' tasks; what was acknowledged is durable already.
    pub async fn shut_down(self) {
        self.sessions.shut_down().await;
        for task in [self.streams, self.objects].into_iter().chain(self.door) {
            task.abort();
            let _ = task.await;
        }
    }
}

fn objects_over(ground: &Ground, clock: &Clock, entropy: &Entropy) -> anyhow::Result<Objects> {
    let stores = ground.object_stores.clone();
    let options = objects::Options::default();
    Objects::new(stores, options, clock.clone(), entropy.clone()).context("cannot begin with the objects")
}
