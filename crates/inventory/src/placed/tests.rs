//! The way down the ladder, over agents in this process: where one fails, the next place is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_agent::channel::{MemoryDial, memory};
use bowline_agent::{Channel, CodeWay, Dial, Lent, LinkOptions, Shows};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{MemoryLog, Mount, MountAccess};
use bowline_store::MemoryStore;
use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::crash::CrashPoints;
use crate::idle::{ACCOUNT, Idle, host, version_of};
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

    async fn lend(&self, share: &str) -> std::io::Result<OwnedFd> {
        match share {
            "gone" => Err(std::io::ErrorKind::NotFound.into()),
            _ => Ok(std::fs::File::open("/dev/null")?.into()),
        }
    }

    async fn share(&self, _: &Share) -> Result<(), ShareError> {
        Ok(())
    }

    async fn create(&self, _: Arc<VersionSpec>, _: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        self.0.was_asked.notify_one();
        match self.0.way {
            Way::Well => Ok(Box::new(Idle)),
            Way::Fails => Err(CreateError::Backend(std::io::Error::other("it is broken"))),
            Way::IsFull => Err(CreateError::Exhausted("it is full".to_owned().into())),
            Way::NeverEnds => std::future::pending().await,
        }
    }
}

/// An agent that comes by the node's folders in this way; it takes all but one of them.
struct TestDial {
    dial: MemoryDial,
    folders: FolderWay,
    served: Arc<Mutex<Vec<String>>>,
}

/// An agent that shows whatever it is told to.
struct Showing;

#[async_trait]
impl Shows for Showing {
    async fn show(&self, _: &str) -> std::io::Result<Channel> {
        Ok(Box::new(tokio::io::duplex(64).0))
    }

    async fn hide(&self, _: &str) -> std::io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Dial for TestDial {
    async fn dial(&self) -> std::io::Result<Channel> {
        self.dial.dial().await
    }

    fn folder_way(&self) -> FolderWay {
        self.folders
    }

    async fn hand_over(&self, share: &str, _: OwnedFd) -> std::io::Result<()> {
        match share {
            "refused" => Err(std::io::Error::other("it does not take it")),
            _ => Ok(()),
        }
    }

    async fn serve(&self, share: &str, _: Lent, _: (Channel, BytesMut)) -> std::io::Result<()> {
        self.served.lock().push(share.to_owned());
        Ok(())
    }

    fn keeps(&self, share: &str) -> bool {
        self.folders != FolderWay::Served || self.served.lock().iter().any(|served| served == share)
    }

    async fn take_back(&self, share: &str) -> std::io::Result<()> {
        self.served.lock().retain(|served| served != share);
        Ok(())
    }
}

/// A node without providers, whose roster is the test's to fill.
struct World {
    service: Service,
    metrics: Metrics,
    node: Arc<Fake>,
    hosts: Vec<JoinHandle<()>>,
    /// What agents are served.
    served: Arc<Mutex<Vec<String>>>,
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
            served: Arc::default(),
        }
    }

    /// A link to an agent whose sandboxes come about, or not, in this way.
    async fn agent(&mut self, way: Way, memory_mib: u64) -> (Link, Arc<Fake>) {
        self.agent_with(way, memory_mib, FolderWay::Same).await
    }

    async fn agent_with(&mut self, way: Way, memory_mib: u64, folders: FolderWay) -> (Link, Arc<Fake>) {
        let (dial, mut accept) = memory();
        let served = self.served.clone();
        let dial = TestDial { dial, folders, served };
        let fake = Fake::new(way);
        let host = host(Arc::new(FakeBackend(fake.clone()))).showing(Arc::new(Showing));
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
            maxima: None,
            made_ahead: None,
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
    version_of(ACCOUNT, "f", 128)
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

/// A version whose sandboxes have this folder.
fn sharing(share: &str) -> Arc<VersionSpec> {
    let mount = Mount {
        share: share.to_owned(),
        at: "/mnt/a".to_owned(),
        access: MountAccess::Write,
    };
    Arc::new(VersionSpec {
        mounts: vec![mount],
        ..VersionSpec::clone(&version())
    })
}

async fn create_by(placed: &Placed, version: &Arc<VersionSpec>) -> Result<Ground, CreateError> {
    let log = Arc::new(MemoryLog::default());
    let created = placed.create(version.clone(), log).await;
    created.map(|sandbox| sandbox.ground())
}

/// A machine that is served a folder has nothing of it in its own memory; one that only reads it is served another one.
#[tokio::test]
async fn what_shares_folders_runs_on_a_machine_that_is_served_them() {
    let mut world = World::new().await;
    let (machine, instance) = world.agent_with(Way::Well, 1024, FolderWay::Served).await;
    world.stand("shop", Standing::Ready(machine.clone(), Origin::Made, Owner::Person));
    let placed = world.placed(false);
    let memory = Share {
        name: "a".to_owned(),
        bytes: Mebibytes(2048).bytes(),
        content: Content::Memory,
    };
    placed.share(&memory).await.unwrap();
    let wanted = |access| Folder {
        share: "a".to_owned(),
        access,
        mib: 2048,
    };
    assert!(!machine.has(&[wanted(Access::Write)]), "the control");
    assert_eq!(create_by(&placed, &sharing("a")).await.unwrap(), Ground::Instance);
    assert_eq!((instance.asked(), world.node.asked(), machine.room_mib()), (1, 0, 1024));
    assert!(machine.has(&[wanted(Access::Write)]) && !machine.has(&[wanted(Access::Read)]));
    world.served.lock().retain(|name| name != "a");
    assert!(!machine.has(&[wanted(Access::Write)]), "nobody serves it any more");
    assert_eq!(create_by(&placed, &sharing("a")).await.unwrap(), Ground::Instance);
    assert_eq!(*world.served.lock(), ["a"], "it is served again");
    placed.unshare("a").await;
    assert!(world.served.lock().is_empty());
}

/// 01/T-A11 as the node decides it: where its folders are, then where there is most room.
#[tokio::test]
async fn what_shares_folders_runs_where_they_are_as_long_as_there_is_room() {
    let mut world = World::new().await;
    let (first, _) = world.agent_with(Way::Well, 600, FolderWay::HandedOver).await;
    world.stand("first", Standing::Ready(first.clone(), Origin::Made, Owner::Person));
    let placed = world.placed(false);
    let memory = Share {
        name: "a".to_owned(),
        bytes: Mebibytes(300).bytes(),
        content: Content::Memory,
    };
    placed.share(&memory).await.unwrap();
    let log = || Arc::new(MemoryLog::default());
    let one = placed.create(sharing("a"), log()).await.unwrap();
    assert_eq!(
        (first.held_mib(), first.room_mib()),
        (128, 600 - 300 - 128),
        "memory takes its part once"
    );
    let (second, _) = world.agent_with(Way::Well, 2048, FolderWay::HandedOver).await;
    world.stand("second", Standing::Ready(second.clone(), Origin::Made, Owner::Person));
    let two = placed.create(sharing("a"), log()).await.unwrap();
    assert_eq!((first.sandboxes(), second.sandboxes()), (2, 0), "the folder is there");
    let three = placed.create(version(), log()).await.unwrap();
    let four = placed.create(sharing("a"), log()).await.unwrap();
    assert_eq!(
        (first.sandboxes(), second.sandboxes()),
        (2, 2),
        "the control, and once the first is full"
    );
    assert_eq!(second.room_mib(), 2048 - 300 - 2 * 128);
    for sandbox in [one, two, three, four] {
        sandbox.destroy().await;
    }
    placed.unshare("a").await;
    assert_eq!((first.room_mib(), second.room_mib()), (600, 2048), "all is given back");
}

#[tokio::test]
async fn an_instance_that_does_not_get_a_folder_is_passed() {
    let mut world = World::new().await;
    let (link, _) = world.agent_with(Way::Well, 1024, FolderWay::HandedOver).await;
    world.stand("shop", Standing::Ready(link.clone(), Origin::Made, Owner::Person));
    let placed = world.placed(false);
    for share in ["gone", "refused"] {
        assert_eq!(
            create_by(&placed, &sharing(share)).await.unwrap(),
            Ground::Node,
            "{share}"
        );
        assert_eq!(link.room_mib(), 1024);
    }
    assert_eq!(
        create_by(&placed, &sharing("a")).await.unwrap(),
        Ground::Instance,
        "control"
    );
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
