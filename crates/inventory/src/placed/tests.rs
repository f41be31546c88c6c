//! The way down the ladder, over agents in this process: where one fails, the next place is asked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_agent::channel::memory;
use bowline_agent::{CodeWay, Host, HostOptions, LinkOptions};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{CodeDir, Invocation, MemoryLog, Mount, MountAccess, Outcome, Report, Runtime, Usage};
use bowline_store::MemoryStore;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::crash::CrashPoints;
use crate::metrics::Metrics;
use crate::roster::{Owner, Standing};
use crate::service::{Options, Service};

/// What becomes of a creation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Well,
    Fails,
    IsFull,
    NeverEnds,
}

struct Fake {
    way: Way,
    asked: AtomicUsize,
    was_asked: Notify,
}

impl Fake {
    fn new(way: Way) -> Arc<Self> {
        Arc::new(Self {
            way,
            asked: AtomicUsize::new(0),
            was_asked: Notify::new(),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

struct FakeBackend(Arc<Fake>);

#[async_trait]
impl Backend for FakeBackend {
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
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        self.0.was_asked.notify_one();
        match self.0.way {
            Way::Well => Ok(Box::new(Idle)),
            Way::Fails => Err(CreateError::Backend(std::io::Error::other("it is broken"))),
            Way::IsFull => Err(CreateError::Exhausted("it is full".to_owned())),
            Way::NeverEnds => std::future::pending().await,
        }
    }
}

/// A sandbox that nobody calls.
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

/// A node without providers, whose roster is the test's to fill.
struct World {
    service: Service,
    metrics: Metrics,
    node: Arc<Fake>,
    hosts: Vec<JoinHandle<()>>,
}

impl World {
    async fn new() -> Self {
        let metrics = Metrics::default();
        let options = Options {
            store: Arc::new(MemoryStore::default()),
            clock: Clock::system(),
            entropy: Entropy::seeded(5),
            providers: Vec::new(),
            node: "here".to_owned(),
            lease: Duration::from_secs(60),
            metrics: metrics.clone(),
            crash: CrashPoints::default(),
        };
        Self {
            service: Service::start(options).await.unwrap(),
            metrics,
            node: Fake::new(Way::Well),
            hosts: Vec::new(),
        }
    }

    /// A link to an agent whose sandboxes come about, or not, in this way.
    async fn agent(&mut self, way: Way, memory_mib: u64) -> (Link, Arc<Fake>) {
        let (dial, mut accept) = memory();
        let fake = Fake::new(way);
        let host = Host::new(HostOptions {
            clock: Clock::system(),
            backends: vec![Arc::new(FakeBackend(fake.clone()))],
            code: None,
            log_dir: PathBuf::from("/nonexistent"),
        });
        self.hosts.push(tokio::spawn(async move {
            host.run(&mut accept).await;
        }));
        let options = LinkOptions {
            dial: Arc::new(dial),
            epoch: 1,
            lease: Duration::from_secs(60),
            clock: Clock::system(),
            code: CodeWay::Shared,
            memory_mib: Some(memory_mib),
        };
        let (link, _) = Link::connect(options).await.unwrap();
        (link, fake)
    }

    /// An instance that is ready.
    async fn instance(&mut self, name: &str, way: Way, memory_mib: u64) -> (Link, Arc<Fake>) {
        let (link, fake) = self.agent(way, memory_mib).await;
        self.stand(name, Standing::Ready(link.clone(), Origin::Made, Owner::Person));
        (link, fake)
    }

    fn stand(&self, name: &str, standing: Standing) {
        self.service
            .handle()
            .roster()
            .set(&version().account, name, Some(standing));
    }

    fn placed(&self, always: bool) -> Placed {
        let inline = Arc::new(FakeBackend(self.node.clone()));
        Placed::new(inline, self.service.handle(), always.then_some(Kind::Process))
    }

    async fn create(&self, always: bool) -> Result<Ground, CreateError> {
        let created = self
            .placed(always)
            .create(version(), Arc::new(MemoryLog::default()))
            .await;
        created.map(|sandbox| sandbox.ground())
    }
}

fn version() -> Arc<VersionSpec> {
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
        memory: Mebibytes(128),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(3),
        environment: std::collections::BTreeMap::new(),
        logging: bowline_sandbox::Logging::default(),
        mounts: Vec::new(),
    })
}

#[tokio::test]
async fn an_instance_that_fails_is_passed_and_the_next_one_serves() {
    let mut world = World::new().await;
    let (broken, asked) = world.instance("broken", Way::Fails, 2048).await;
    let alone = Remote::new(&broken, SandboxKind::Wasm);
    let alone = alone.create(version(), Arc::new(MemoryLog::default())).await;
    assert!(alone.is_err(), "the control: without the ladder the request fails");
    let (_, good) = world.instance("good", Way::Well, 1024).await;
    assert_eq!(world.create(false).await.unwrap(), Ground::Instance);
    assert_eq!((asked.asked(), good.asked(), world.node.asked()), (2, 1, 0));
    assert_eq!(world.metrics.passed.get(), 1);
    // The one with the most room that works is not passed.
    world.instance("best", Way::Well, 4096).await;
    assert_eq!(world.create(false).await.unwrap(), Ground::Instance);
    assert_eq!(world.metrics.passed.get(), 1);
}

#[tokio::test]
async fn an_instance_that_breaks_meanwhile_is_passed() {
    let mut world = World::new().await;
    let (_, first) = world.instance("first", Way::NeverEnds, 2048).await;
    let (_, second) = world.instance("second", Way::Well, 1024).await;
    let breaks = async {
        first.was_asked.notified().await;
        assert_eq!(
            second.asked(),
            0,
            "the control: as long as the first one lives, it is waited for"
        );
        world.hosts[0].abort();
    };
    let (created, ()) = tokio::join!(world.create(false), breaks);
    assert_eq!(created.unwrap(), Ground::Instance);
    assert_eq!((second.asked(), world.metrics.passed.get()), (1, 1));
}

#[tokio::test]
async fn the_last_place_is_the_node_unless_it_takes_nobody() {
    let mut world = World::new().await;
    world.instance("broken", Way::Fails, 1024).await;
    assert_eq!(world.create(false).await.unwrap(), Ground::Node);
    let refused = world.create(true).await;
    assert!(matches!(refused, Err(CreateError::Backend(_))), "{refused:?}");
    assert_eq!(world.node.asked(), 1);
}

#[tokio::test]
async fn what_shares_folders_runs_in_the_node_and_not_where_machines_keep_accounts_apart() {
    let mut world = World::new().await;
    let (_, instance) = world.instance("good", Way::Well, 1024).await;
    let mount = Mount {
        share: "a".to_owned(),
        at: "/mnt/a".to_owned(),
        access: MountAccess::Write,
    };
    let sharing = Arc::new(VersionSpec {
        mounts: vec![mount],
        ..VersionSpec::clone(&version())
    });
    let create = async |version: &Arc<VersionSpec>, always| {
        let placed = Placed::new(
            Arc::new(FakeBackend(world.node.clone())),
            world.service.handle(),
            always,
        );
        let log = Arc::new(MemoryLog::default());
        placed
            .create(version.clone(), log)
            .await
            .map(|sandbox| sandbox.ground())
    };
    for always in [None, Some(Kind::Process)] {
        assert_eq!(create(&sharing, always).await.unwrap(), Ground::Node);
    }
    let refused = create(&sharing, Some(Kind::Vm)).await;
    assert!(
        matches!(&refused, Err(CreateError::Init(error)) if error.error_type == "Runtime.InvalidMount"),
        "{refused:?}"
    );
    assert_eq!((instance.asked(), world.node.asked()), (0, 2));
    let without = create(&version(), Some(Kind::Vm)).await;
    assert_eq!(without.unwrap(), Ground::Instance, "control: without folders");
}

#[tokio::test]
async fn a_full_instance_is_passed_but_does_not_lend_the_nodes_room() {
    let mut world = World::new().await;
    world.instance("full", Way::IsFull, 2048).await;
    let refused = world.create(false).await;
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    world.instance("roomy", Way::Well, 1024).await;
    assert_eq!(world.create(false).await.unwrap(), Ground::Instance);
    assert_eq!(world.node.asked(), 0);
}

#[tokio::test]
async fn the_one_that_replaces_a_lost_instance_is_waited_for() {
    let mut world = World::new().await;
    let (link, first) = world.instance("shop", Way::NeverEnds, 1024).await;
    let (again, _) = world.agent(Way::Well, 1024).await;
    let replaced = async {
        first.was_asked.notified().await;
        world.hosts[0].abort();
        link.ended().await;
        world.stand("shop", Standing::Coming);
        world.stand("shop", Standing::Ready(again.clone(), Origin::Made, Owner::Person));
    };
    let (created, ()) = tokio::join!(world.create(false), replaced);
    assert_eq!(created.unwrap(), Ground::NewInstance);
    assert_eq!(world.node.asked(), 0);
}

#[tokio::test]
async fn the_rung_of_a_server_that_waited_is_told() {
    for (origin, ground) in [
        (Origin::Waited, Ground::WarmingPool),
        (Origin::Made, Ground::NewInstance),
    ] {
        let mut world = World::new().await;
        let (link, _) = world.agent(Way::Well, 1024).await;
        world.stand("shop", Standing::Coming);
        let comes = async {
            tokio::task::yield_now().await;
            world.stand("shop", Standing::Ready(link.clone(), origin, Owner::Person));
        };
        let (created, ()) = tokio::join!(world.create(false), comes);
        assert_eq!(created.unwrap(), ground);
        // From then on it is the account's.
        assert_eq!(world.create(false).await.unwrap(), Ground::Instance);
    }
}
