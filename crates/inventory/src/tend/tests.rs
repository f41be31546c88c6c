//! Instances of an account without a wish, over agents in this process.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_agent::channel::memory;
use bowline_agent::{CodeWay, Host, HostOptions};
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, CreateError, Ground, Invocation, LogSink, MemoryLog, Outcome, PrepareError, Report, Runtime,
    Sandbox, Usage, VersionSpec,
};
use bowline_store::MemoryStore;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::Placed;
use crate::crash::CrashPoints;
use crate::metrics::Metrics;
use crate::provider::{Offer, ProvideError, Provider, Reached, ServerOrder};
use crate::service::{Options, Service};
use crate::warming::{Filling, Warming};

struct Idle;

#[async_trait]
impl Sandbox for Idle {
    async fn invoke(&mut self, _: Invocation) -> Report {
        Report {
            outcome: Outcome::Broken("nobody calls it".to_owned()),
            usage: Usage::default(),
            reusable: false,
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(self: Box<Self>) {}
}

struct Sandboxes;

#[async_trait]
impl Backend for Sandboxes {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Wasm
    }

    async fn check(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn prepare(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn create(&self, _: Arc<VersionSpec>, _: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        Ok(Box::new(Idle))
    }
}

/// Servers of 1024 MiB, two of which are all there is.
#[derive(Default)]
struct Servers(Mutex<HashMap<String, JoinHandle<()>>>);

#[async_trait]
impl Provider for Servers {
    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn offer(&self) -> Offer {
        Offer {
            memory_mib: 2048,
            cpu_millis: 1000,
            storage_mib: 1000,
        }
    }

    async fn configure(&self, _: &ServerOrder) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let (dial, mut accept) = memory();
        let host = Host::new(HostOptions {
            clock: Clock::system(),
            backends: vec![Arc::new(Sandboxes)],
            code: None,
            log_dir: PathBuf::from("/nonexistent"),
        });
        let task = tokio::spawn(async move {
            // A look whether somebody listens is a channel too.
            host.run(&mut accept).await;
        });
        self.0.lock().insert(order.server.clone(), task);
        Ok(Reached {
            dial: Arc::new(dial),
            code: CodeWay::Shared,
            detail: None,
            machine: None,
            has_waited: false,
            room_mib: None,
        })
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        let task = self.0.lock().remove(server);
        task.into_iter().for_each(|task| task.abort());
        Ok(())
    }

    async fn destroy(&self, _: &str) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn list(&self) -> std::io::Result<Vec<String>> {
        Ok(self.0.lock().keys().cloned().collect())
    }
}

struct World {
    clock: Clock,
    service: Service,
    placed: Placed,
    metrics: Metrics,
    filling: Option<Filling>,
}

type Made = (Box<dyn Sandbox>, Ground);

impl World {
    async fn new(warms: bool) -> Self {
        let (clock, metrics) = (Clock::fake(Timestamp::from_micros(1 << 50)), Metrics::default());
        let mut provider: Arc<dyn Provider> = Arc::new(Servers::default());
        let mut filling = None;
        if warms {
            let standing = default_server(Kind::Process, &provider.offer());
            let times = (&clock, &Entropy::seeded(2));
            let warming = Arc::new(Warming::new(times, provider, Some(standing), metrics.clone()));
            filling = Some(warming.clone().fill());
            provider = warming;
        }
        let service = Service::start(Options {
            store: Arc::new(MemoryStore::default()),
            clock: clock.clone(),
            entropy: Entropy::seeded(5),
            providers: vec![provider],
            node: "here".to_owned(),
            lease: Duration::from_secs(24 * 60 * 60),
            metrics: metrics.clone(),
            crash: CrashPoints::default(),
        });
        let service = service.await.unwrap();
        Self {
            placed: Placed::new(Arc::new(Sandboxes), service.handle(), Some(Kind::Process)),
            clock,
            service,
            metrics,
            filling,
        }
    }

    async fn try_create(&self, mib: u32) -> Result<Made, CreateError> {
        let log = Arc::new(MemoryLog::default());
        let made = self.placed.create(version(mib), log).await?;
        let ground = made.ground();
        Ok((made, ground))
    }

    async fn create(&self, mib: u32) -> Made {
        self.try_create(mib).await.unwrap()
    }

    /// What each of the account's instances holds, if it serves.
    async fn held(&self) -> Vec<(String, u64, bool)> {
        let views = self.service.handle().list(&version(1).account).await.unwrap();
        let held = views
            .into_iter()
            .map(|view| (view.instance.name, view.held_mib, view.instance.draining));
        held.collect()
    }

    /// Looks after the instances, once at once and once after a while of this.
    async fn tend(&self, after: Duration) {
        let handle = self.service.handle();
        handle.tend_once().await;
        self.clock.advance(after);
        handle.tend_once().await;
    }

    /// One instance with 500 MiB in use, and another one with 100.
    async fn two(&self) -> (Made, Made) {
        let first = self.create(1000).await;
        let second = self.create(100).await;
        first.0.destroy().await;
        let first = self.create(500).await;
        assert_eq!(
            self.held().await,
            [held("default", 500, false), held("default-2", 100, false)]
        );
        (first, second)
    }
}

fn held(name: &str, mib: u64, draining: bool) -> (String, u64, bool) {
    (name.to_owned(), mib, draining)
}

fn version(mib: u32) -> Arc<VersionSpec> {
    Arc::new(VersionSpec {
        account: "111122223333".parse().unwrap(),
        region: "us-east-1".to_owned(),
        function: "f".to_owned(),
        version: "1".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: String::new(),
        code: CodeDir {
            digest: Digest::of(b""),
            path: PathBuf::from("/nonexistent"),
        },
        layers: None,
        image: None,
        kind: SandboxKind::Wasm,
        memory: Mebibytes(mib),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(3),
        environment: BTreeMap::new(),
        logging: bowline_sandbox::Logging::default(),
    })
}

const MINUTE: Duration = Duration::from_secs(61);

/// 05/T-E3.
#[tokio::test]
async fn t_e3_a_full_instance_leads_to_another_one_of_the_warming_pool() {
    let world = World::new(true).await;
    while world.metrics.warming(Kind::Process).get() == 0 {
        tokio::task::yield_now().await;
    }
    let (first, ground) = world.create(700).await;
    assert_eq!(ground, Ground::WarmingPool);
    let (_second, ground) = world.create(300).await;
    assert_eq!(ground, Ground::Instance, "the control: there is room");
    while world.metrics.warming(Kind::Process).get() == 0 {
        tokio::task::yield_now().await;
    }
    let (_third, ground) = world.create(300).await;
    assert_eq!(ground, Ground::WarmingPool);
    assert_eq!(
        world.held().await,
        [held("default", 1000, false), held("default-2", 300, false)]
    );
    // Two are all that the machine has, and none of them has as much as this.
    for mib in [800, 2000] {
        let refused = world.try_create(mib).await.map(|made| made.1);
        assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    }
    first.destroy().await;
    assert_eq!(
        world.create(700).await.1,
        Ground::Instance,
        "the control: with room it is made"
    );
    world.filling.unwrap().stop().await;
}

/// 04/T-D3 and 04/T-D4.
#[tokio::test]
async fn t_d3_and_d4_a_marked_instance_gets_nothing_and_ends_with_its_last_run() {
    let world = World::new(false).await;
    let (_first, second) = world.two().await;
    world.tend(Duration::from_secs(30)).await;
    let (control, _) = world.create(128).await;
    assert_eq!(
        world.held().await[1],
        held("default-2", 228, false),
        "the control: it has more room"
    );
    control.destroy().await;
    world.tend(MINUTE).await;
    assert_eq!(
        world.held().await[1],
        held("default-2", 100, true),
        "it is marked although it runs"
    );
    assert_eq!(world.metrics.drained.get(), 1);
    let _other = world.create(128).await;
    assert_eq!(
        world.held().await,
        [held("default", 628, false), held("default-2", 100, true)]
    );
    world.tend(MINUTE).await;
    assert_eq!(world.held().await.len(), 2, "the control: not before its run ends");
    second.0.destroy().await;
    world.tend(Duration::ZERO).await;
    assert_eq!(world.held().await, [held("default", 628, false)], "the first one stays");
}

/// 04/T-D10, of it that what is used enough is not marked.
#[tokio::test]
async fn t_d10_instances_that_are_used_are_not_marked() {
    let world = World::new(false).await;
    let _two = world.two().await;
    let _more = world.create(500).await;
    world.tend(MINUTE).await;
    world.tend(MINUTE).await;
    assert!(world.held().await.iter().all(|(_, _, draining)| !draining));
    assert_eq!(world.metrics.drained.get(), 0);
}

/// 04/T-D13.
#[tokio::test]
async fn t_d13_demand_that_returns_takes_a_marked_instance_back() {
    let world = World::new(false).await;
    let (_first, _second) = world.two().await;
    world.tend(MINUTE).await;
    assert!(world.held().await[1].2, "it is marked");
    let _filling = world.create(500).await;
    assert!(world.held().await[1].2, "the control: there was room elsewhere");
    let (_more, ground) = world.create(300).await;
    assert_eq!(ground, Ground::Instance, "nothing boots");
    assert_eq!(
        world.held().await,
        [held("default", 1000, false), held("default-2", 400, false)]
    );
    let events = world
        .service
        .handle()
        .events(&version(1).account, "default-2")
        .await
        .unwrap();
    let told: Vec<&str> = events
        .iter()
        .map(|event| event.what.as_str())
        .filter(|what| what.contains("drain"))
        .collect();
    assert_eq!(told, ["drain", "undrain"]);
}

/// What a person drained is not taken back.
#[tokio::test]
async fn an_instance_that_a_person_drained_is_not_taken_back() {
    let world = World::new(false).await;
    let (_first, second) = world.two().await;
    let account = version(1).account.clone();
    world
        .service
        .handle()
        .drain(&caller(&account), "default-2", true)
        .await
        .unwrap();
    // It is not marked a second time, to be taken back then.
    world.tend(MINUTE).await;
    let _filling = world.create(500).await;
    let refused = world.try_create(300).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    second.0.destroy().await;
    world.tend(Duration::ZERO).await;
    assert_eq!(world.held().await.len(), 1, "empty, it goes");
}

#[tokio::test]
async fn names_of_such_instances_are_not_given_to_others() {
    let world = World::new(false).await;
    let _made = world.create(100).await;
    let account = version(1).account.clone();
    let create = async |name: &str| {
        let creation = Creation {
            file: DEFAULT_INSTANCE.to_owned(),
            name: Some(name.to_owned()),
            role: None,
            token: None,
        };
        world.service.handle().create(&caller(&account), &creation).await
    };
    assert!(matches!(create("default-2").await, Err(Error::Invalid(_))));
    assert!(create("default-web").await.is_ok(), "the control");
    assert!(is_more("default-2") && !is_more("default") && !is_more("default-web") && !is_more("other-2"));
}
