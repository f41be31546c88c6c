//! The instances of a node, and the backends that place functions on them.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_inventory::crash::CrashPoints;
use bowline_inventory::file::Kind;
use bowline_inventory::inline::InlineProvider;
use bowline_inventory::metrics::Metrics;
use bowline_inventory::process::{self, ProcessProvider};
use bowline_inventory::vm::{self, VmProvider};
use bowline_inventory::warming::{Filling, Warming};
use bowline_inventory::{Handle, Options, Placed, Provider, Service, default_server};
use bowline_sandbox::Backend;
use bowline_store::Store;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::sandboxes::Sandboxes;
use crate::config::Config;

/// How long an agent may be silent.
const LEASE: Duration = Duration::from_secs(10);
/// The moment at which a test wants the node to die: one of [`CrashPoints::NAMES`].
const CRASH_VARIABLE: &str = "BOWLINE_TEST_CRASH";

/// The running instances.
pub struct Instances {
    service: Service,
    machines: Arc<VmProvider>,
    backends: Vec<Arc<dyn Backend>>,
    /// What keeps servers ready for accounts to come.
    filling: [Filling; 2],
    /// What looks after instances that accounts get without asking, where they do, and after fleets.
    tending: Vec<JoinHandle<()>>,
}

impl Instances {
    /// Brings back the instances of this node. `sandboxes` are the node's own.
    pub async fn start(
        (clock, entropy, store): (&Clock, &Entropy, Arc<dyn Store>),
        (config, data): (&Config, &Path),
        sandboxes: &Sandboxes,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let inline = sandboxes.backends();
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let processes = ProcessProvider::new(process::Options {
            program: program.clone(),
            data: data.to_owned(),
            prewarmed: config.prewarmed,
            prewarmed_memory: config.prewarmed_memory,
        });
        let processes = processes.context("cannot make the folder of instances")?;
        let inside = InlineProvider::new(clock.clone(), inline.clone(), processes.offer(), data.join("instances"));
        let machines = Arc::new(VmProvider::new(vm::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            program,
            data: data.to_owned(),
            offer: processes.offer(),
            signing: sandboxes.signing.clone(),
            lease: LEASE,
        }));
        let mut metrics = Metrics::register(registry);
        metrics.made_ahead = sandboxes.made_ahead.clone();
        let offer = processes.offer();
        // What every account gets, if it is not a place in the node itself.
        let always = Some(config.instances).filter(|kind| *kind != Kind::Inline);
        let warming = |behind: Arc<dyn Provider>| {
            let standing = always.filter(|kind| *kind == behind.kind());
            let standing = standing.map(|kind| default_server(kind, &offer));
            Arc::new(Warming::new((clock, entropy), behind, standing, metrics.clone()))
        };
        let pools = [warming(Arc::new(processes)), warming(machines.clone())];
        let mut providers: Vec<Arc<dyn Provider>> = vec![Arc::new(inside)];
        providers.extend(pools.iter().map(|pool| pool.clone() as Arc<dyn Provider>));
        let service = Service::start(Options {
            store,
            clock: clock.clone(),
            entropy: entropy.clone(),
            providers,
            node: node_name(data, entropy)?,
            lease: LEASE,
            metrics,
            crash: crash_points(),
        })
        .await
        .context("cannot bring back the instances")?;
        let handle = service.handle();
        let filling = pools.map(Warming::fill);
        let place = |inline: Arc<dyn Backend>| {
            let placed = Placed::new(inline, handle.clone(), always);
            Arc::new(placed.suspending_with(machines.clone())) as Arc<dyn Backend>
        };
        let mut tending = vec![tokio::spawn(handle.clone().follow_fleets())];
        tending.extend(always.map(|_| tokio::spawn(handle.clone().tend())));
        Ok(Self {
            backends: inline.into_iter().map(place).collect(),
            service,
            machines,
            filling,
            tending,
        })
    }

    /// What functions run on: the accounts' instances, or the node itself.
    pub fn backends(&self) -> Vec<Arc<dyn Backend>> {
        self.backends.clone()
    }

    pub fn handle(&self) -> Handle {
        self.service.handle()
    }

    /// Ends all servers.
    pub async fn shut_down(self) {
        for tending in self.tending {
            tending.abort();
            let _ = tending.await;
        }
        for filling in self.filling {
            filling.stop().await;
        }
        self.service.shut_down().await;
        self.machines.shut_down().await;
    }
}

/// A name that the data folder keeps: instances belong to the node that has it.
pub fn node_name(data: &Path, entropy: &Entropy) -> anyhow::Result<String> {
    let path = data.join("node");
    if let Ok(name) = std::fs::read_to_string(&path) {
        return Ok(name.trim().to_owned());
    }
    let name = format!("{:016x}", entropy.number());
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::io::Write::write_all(&mut file, name.as_bytes())?;
    file.sync_all()?;
    Ok(name)
}

/// Dies as a killed node would, where a test says so.
fn crash_points() -> CrashPoints {
    let Ok(wanted) = std::env::var(CRASH_VARIABLE) else {
        return CrashPoints::default();
    };
    CrashPoints::new(move |name| {
        if name == wanted {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    })
}
