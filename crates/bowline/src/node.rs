//! The composition root: builds a node from its configuration, top to bottom, and takes it apart again.

mod data;
mod door;
pub mod ground;
pub mod log;
mod sandboxes;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bowline_api::{BindError, Running, Server};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_functions::{Service, metrics::Metrics};
use prometheus_client::registry::Registry;

use crate::config::Config;
use data::DataService;
use ground::Ground;
use sandboxes::Sandboxes;

/// A node that serves.
pub struct Node {
    server: Running,
    service: Service,
    data_service: DataService,
    lacks_linux: Option<String>,
    data: PathBuf,
    ground: Ground,
}

impl Node {
    /// Opens the data folder, brings back what it holds, and begins to serve.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let entropy = Entropy::system();
        let data = data_folder(&config.data)?;
        let ground = Ground::open(config, &data, &clock, &entropy).await?;
        let sandboxes = Sandboxes::start(&clock, &data, config)?;
        let mut registry = Registry::with_prefix("bowline");
        let data_service = DataService::start(&clock, &entropy, &ground, &mut registry).await?;
        let service = Service::start(bowline_functions::Options {
            events: Some(data_service.events()),
            clock: clock.clone(),
            entropy: entropy.clone(),
            store: ground.store.clone(),
            sharing: ground.sharing,
            blobs: ground.blobs.clone(),
            data_dir: data.clone(),
            region: config.region.clone(),
            concurrency_max: config.concurrency,
            keep_alive: config.keep_alive,
            stream_bytes_per_second: config.stream_bytes_per_second,
            backends: sandboxes.backends(),
            metrics: Metrics::register(&mut registry),
        })
        .await
        .context("cannot bring back the functions")?;
        let server = Server::bind(bowline_api::Options {
            clock,
            entropy,
            data: Some(data_service.handles()),
            region: config.region.clone(),
            registry: Arc::new(registry),
            ..bowline_api::Options::new(config.listen, service.handle())
        })
        .await;
        match server {
            Ok(server) => Ok(Self {
                server,
                service,
                data_service,
                lacks_linux: sandboxes.lacks_linux().map(str::to_owned),
                data,
                ground,
            }),
            Err(error) => {
                service.shut_down().await;
                data_service.shut_down().await;
                ground.close().await;
                Err(refused(error))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Returns when other nodes of the cluster have taken this one for dead; it must start anew.
    pub async fn fenced(&self) {
        self.data_service.fenced().await;
    }

    /// Where it keeps everything, as an absolute path.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Why this machine offers no Linux sandboxes, if it offers none.
    pub fn lacks_linux(&self) -> Option<&str> {
        self.lacks_linux.as_deref()
    }

    /// Stops accepting, lets running invocations end or reach their deadline, destroys all sandboxes.
    pub async fn stop(self) {
        tracing::info!("stopping: waiting for running invocations");
        self.server.shut_down().await;
        self.service.shut_down().await;
        self.data_service.shut_down().await;
        self.ground.close().await;
        tracing::info!("stopped");
    }
}

/// Makes the data folder, for nobody else's eyes: it holds the functions' environments.
pub fn data_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| path.canonicalize())
        .with_context(|| format!("cannot make the data folder `{}`", path.display()))
}

fn refused(error: BindError) -> anyhow::Error {
    let listen = error.listen;
    match error.source.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!(
            "`{listen}` is in use, by another node perhaps; stop that one, or choose another address with --listen"
        ),
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("this user may not listen on `{listen}`; choose a port from 1024 on with --listen")
        }
        _ => error.into(),
    }
}
