//! Streams, sessions and objects of a node.

use std::sync::Arc;

use anyhow::Context;
use bowline_api::{Data, DataMetrics};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_functions::{cluster, events};
use bowline_store::Store;
use bowline_store::objects::{self, Objects};
use bowline_stream::{Config, GuardedStore, Sharing, session};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::door::Door;
use super::ground::Ground;
use super::remote::Remote;

/// The engines and their tasks.
pub struct DataService {
    handles: Arc<Data>,
    host: bowline_stream::Handle,
    sessions: session::Service,
    /// What the node keeps beside its streams.
    store: Arc<dyn Store>,
    sharing: Sharing,
    streams: JoinHandle<()>,
    door: Option<JoinHandle<()>>,
    cluster: Option<cluster::Options>,
    objects: JoinHandle<()>,
}

impl DataService {
    /// Starts the engines over what the node stands on; in a cluster, the node is a member from then on, as
    /// long as it is not silent for the lease of the configuration.
    pub async fn start(
        (clock, entropy): (&Clock, &Entropy),
        ground: &Ground,
        config: &crate::config::Config,
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
            config: Config::with_lease(config.lease),
        };
        let (streams, handle) = options.start().await.context("cannot bring back the streams")?;
        let store: Arc<dyn Store> = match ground.sharing {
            Sharing::Exclusive => Arc::clone(&ground.store),
            Sharing::Shared => Arc::new(GuardedStore::new(Arc::clone(&ground.store), handle.clone())),
        };
        let sessions = session::Service::start(session::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            store: Arc::clone(&store),
            log: Arc::new(handle.clone()),
        });
        let streams = tokio::spawn(streams.run());
        let door = door.serve(handle.clone());
        let (door, cluster) = door.map(|door| door.split(handle.clone(), config.placing)).unzip();
        let metrics = DataMetrics::register(registry);
        let tending = objects.clone();
        Ok(Self {
            host: handle.clone(),
            handles: Arc::new(
                Data::new(handle, sessions.handle(), objects, metrics).with_neighbours(ground.neighbours.clone()),
            ),
            sessions,
            streams,
            door,
            cluster,
            store,
            sharing: ground.sharing,
            objects: tokio::spawn(async move { tending.run().await }),
        })
    }

    /// What the server serves, with the node's instances.
    pub fn handles(&self, instances: bowline_inventory::Handle) -> Arc<Data> {
        self.handles.serve_instances(instances);
        Arc::clone(&self.handles)
    }

    /// What functions' events are kept in.
    pub fn events(&self, remote: &Remote, folders: Vec<events::Folder>) -> events::Options {
        events::Options {
            host: self.host.clone(),
            sessions: self.sessions.handle(),
            timing: events::Timing::default(),
            queues: remote.queues.clone(),
            buckets: remote.objects.clone(),
            folders,
        }
    }

    /// What functions share invocations with other nodes by; once, and if there may be others.
    pub fn cluster(&mut self) -> Option<cluster::Options> {
        self.cluster.take()
    }

    /// The store as the node may write it: not while others have taken it for dead.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Ends the engines' tasks and leaves the cluster; what was acknowledged is durable already.
    pub async fn shut_down(self) {
        self.sessions.shut_down().await;
        for task in [self.streams, self.objects].into_iter().chain(self.door) {
            task.abort();
            let _ = task.await;
        }
        if self.sharing == Sharing::Shared
            && let Err(error) = self.host.leave().await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "others will find out by themselves that this node is gone");
        }
    }
}

fn objects_over(ground: &Ground, clock: &Clock, entropy: &Entropy) -> anyhow::Result<Objects> {
    let stores = ground.object_stores.clone();
    let options = objects::Options::default();
    Objects::new(stores, options, clock.clone(), entropy.clone()).context("cannot begin with the objects")
}
