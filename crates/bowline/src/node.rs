//! The composition root: builds a node from its configuration, top to bottom, and takes it apart again.

mod certificate;
mod data;
mod door;
pub mod ground;
mod halt;
mod instances;
pub mod keys;
pub mod log;
mod memory;
mod meter;
mod remote;
mod sandboxes;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bowline_api::auth::{Auth, Exposure};
use bowline_api::{BindError, Running, Server, Tls};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use bowline_functions::access::AccessKeys;
use bowline_functions::{Service, metrics::Metrics};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::task::JoinHandle;

use crate::config::Config;
use data::DataService;
use ground::Ground;
use instances::Instances;
use keys::KeyService;
use remote::Remote;
use sandboxes::Sandboxes;

/// How long a node that stops tries to hand its suspendable invocations over.
const MOVE_AWAY_MAX: std::time::Duration = std::time::Duration::from_secs(15);

/// A node that serves.
pub struct Node {
    server: Running,
    service: Service,
    data_service: DataService,
    instances: Instances,
    lacks_linux: Option<String>,
    data: PathBuf,
    keys: KeyService,
    certificate: Option<JoinHandle<()>>,
}

impl Node {
    /// Opens the data folder, brings back what it holds, and begins to serve.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let (data, tls) = (data_folder(&config.data)?, certificate::load(config)?);
        let ground = Ground::open(config, &data, &entropy).await?;
        let auth = Arc::new(auth(config));
        let access = AccessKeys::new(ground.store.clone(), clock.clone(), entropy.clone());
        let mut keys = KeyService::start(access, auth.clone(), &data).await?;
        may_listen(config, &keys, tls.as_deref())?;
        let mut registry = MetricsRegistry::with_prefix("bowline");
        let sandboxes = Sandboxes::start(&clock, &data, (config, &ground.signing), &mut registry)?;
        let remote = Remote::new(config, &clock)?;
        let mut data_service = DataService::start((&clock, &entropy), &ground, config, &mut registry).await?;
        // Once others have taken this node for dead, it changes no keys either.
        let orders = AccessKeys::new(data_service.store(), clock.clone(), entropy.clone());
        let sources = (&clock, &entropy, data_service.store());
        let instances = Instances::start(sources, (config, &data), &sandboxes, &mut registry).await?;
        let service = bowline_functions::Options {
            durable: durable_executions(),
            suspend: suspended_runs(config, &ground),
            events: Some(data_service.events(&remote, watched_folders(config)?)),
            clock: clock.clone(),
            entropy: entropy.clone(),
            store: data_service.store(),
            sharing: ground.sharing,
            blobs: ground.blobs.clone(),
            node: instances::node_name(&data, &entropy)?,
            data_dir: data.clone(),
            region: config.region.clone(),
            concurrency_max: config.concurrency,
            keep_alive: config.keep_alive,
            memory_budget: config.memory_budget.unwrap_or_else(memory::default_budget),
            stream_bytes_per_second: config.stream_bytes_per_second,
            registries: remote.registries,
            cluster: data_service.cluster(),
            backends: instances.backends(),
            metrics: Metrics::register(&mut registry),
        };
        let service = Service::start_with(service, halt::points()).await;
        let service = service.context("cannot bring back the functions")?;
        let server = Server::bind(bowline_api::Options {
            clock,
            entropy,
            data: Some(data_service.handles(instances.handle())),
            objects: remote.objects,
            region: config.region.clone(),
            registry: Arc::new(registry),
            auth,
            tls: tls.clone(),
            ..bowline_api::Options::new(config.listen, service.handle())
        })
        .await;
        match server {
            Ok(server) => {
                keys.serve(orders, ground.sharing);
                Ok(Self {
                    server,
                    service,
                    data_service,
                    instances,
                    lacks_linux: sandboxes.lacks_linux().map(str::to_owned),
                    data,
                    keys,
                    certificate: tls.map(certificate::follow).transpose()?,
                })
            }
            Err(error) => {
                stop_all(service, instances, data_service).await;
                Err(refused(error))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Where it keeps everything, as an absolute path.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Why this machine offers no Linux sandboxes, if it offers none.
    pub fn lacks_linux(&self) -> Option<&str> {
        self.lacks_linux.as_deref()
    }

    /// Stops accepting, moves what can go on elsewhere, suspends what can go on later, lets other running invocations end or reach their deadline,
    /// destroys all sandboxes.
    pub async fn stop(self) {
        tracing::info!("stopping: waiting for running invocations");
        let functions = self.service.handle();
        if tokio::time::timeout(MOVE_AWAY_MAX, functions.move_all_away())
            .await
            .is_err()
        {
            tracing::warn!("not all invocations could be moved in time; what is left goes on when the node is back");
        }
        functions.suspend_all();
        self.server.shut_down().await;
        self.keys.stop();
        if let Some(following) = self.certificate {
            following.abort();
        }
        stop_all(self.service, self.instances, self.data_service).await;
        tracing::info!("stopped");
    }
}

/// Who asks, and what they may.
fn auth(config: &Config) -> Auth {
    let exposure = Exposure::of(config.listen.ip());
    Auth::new(exposure, &config.region, AccountId::default_account())
}

/// Functions end before what they run on, and that before what keeps it.
async fn stop_all(service: Service, instances: Instances, data_service: DataService) {
    service.shut_down().await;
    instances.shut_down().await;
    data_service.shut_down().await;
}

/// Makes the data folder, for nobody else's eyes: it holds the functions' environments.
pub fn data_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| path.canonicalize())
        .with_context(|| format!("cannot make the data folder `{}`", path.display()))
}

/// Refuses an address that others reach, unless they can be told apart and nobody can listen in.
fn may_listen(config: &Config, keys: &KeyService, tls: Option<&Tls>) -> anyhow::Result<()> {
    let listen = config.listen;
    if Exposure::of(listen.ip()) == Exposure::Loopback || (keys.has_keys() && tls.is_some()) {
        return Ok(());
    }
    let mut reason = format!("`{listen}` can be reached from other machines, which needs access keys and TLS:");
    if !keys.has_keys() {
        let data = config.data.display();
        reason.push_str(&format!(
            "\n  there is no access key; make one with `bowline keys create --data {data}`"
        ));
    }
    if tls.is_none() {
        reason.push_str(
            "\n  there is no certificate; name its files with --tls-cert and --tls-key. One to try it with, for clients \
             that are told of it by --ca:\n  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
             -keyout key.pem -out cert.pem -subj /CN=bowline -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:NAME,IP:ADDRESS",
        );
    }
    reason.push_str("\nor listen on 127.0.0.1 and let a reverse proxy do both");
    bail!(reason)
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

/// The folders whose files are uploads: each is there.
fn watched_folders(config: &Config) -> anyhow::Result<Vec<bowline_functions::events::Folder>> {
    let folders = config.watch.iter().map(|(name, folder)| {
        let path = folder.canonicalize().and_then(|path| {
            std::fs::read_dir(&path)?;
            Ok(path)
        });
        let hint = || {
            format!(
                "`{}` cannot be watched: make the folder, or leave it out of `watch`",
                folder.display()
            )
        };
        Ok(bowline_functions::events::Folder {
            name: name.clone(),
            path: path.with_context(hint)?,
            account: AccountId::default_account(),
        })
    });
    folders.collect()
}

/// Where checkpoints of running invocations go.
fn suspended_runs(config: &Config, ground: &Ground) -> bowline_functions::suspend::Options {
    bowline_functions::suspend::Options {
        lease: config.lease,
        rules: config.pressure.map(bowline_functions::suspend::Rules::after),
        meter: Some(Arc::new(meter::ThreadMeter::default())),
        ..bowline_functions::suspend::Options::new(ground.checkpoints.clone())
    }
}

/// Durable functions ask the platform by the wire that callers use.
fn durable_executions() -> bowline_functions::durable::Options {
    bowline_functions::durable::Options {
        guests: Some(bowline_api::GuestWire::make),
        ..Default::default()
    }
}
