//! Instances of an account without a wish, over agents in this process.

mod metered;

use std::sync::Arc;

use async_trait::async_trait;
use bowline_agent::channel::{MemoryDial, memory};
use bowline_agent::{Channel, CodeWay, Dial, Reading};
use bowline_foundation::clock::Timestamp;
use bowline_foundation::entropy::Entropy;
use bowline_sandbox::{Backend as _, CreateError, Ground, MemoryLog, Sandbox, VersionSpec};
use bowline_store::MemoryStore;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::Placed;
use crate::crash::CrashPoints;
use crate::idle::{ACCOUNT, Sandboxes, host, version_of};
use crate::metrics::Metrics;
use crate::provider::{Offer, ProvideError, Provider, Reached, ServerOrder};
use crate::service::{Options, Service};
use crate::warming::{Filling, Warming};

/// What the meters of an instance say whenever they are read.
type Meters = Box<dyn Fn() -> Reading + Send>;

/// The way to an agent in this process, with the meters that a test gives its instance.
struct MeteredDial {
    dial: MemoryDial,
    instance: String,
    meters: Arc<Mutex<HashMap<String, Meters>>>,
}

#[async_trait]
impl Dial for MeteredDial {
    async fn dial(&self) -> std::io::Result<Channel> {
        self.dial.dial().await
    }

    fn read_meters(&self) -> Reading {
        let meters = self.meters.lock();
        meters.get(&self.instance).map(|read| read()).unwrap_or_default()
    }
}

/// Servers of 1024 MiB, two of which are all there is.
#[derive(Default)]
struct Servers {
    tasks: Mutex<HashMap<String, JoinHandle<()>>>,
    /// By the instance's name.
    meters: Arc<Mutex<HashMap<String, Meters>>>,
}

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
        let host = host(Arc::new(Sandboxes));
        let task = tokio::spawn(async move {
            // A look whether somebody listens is a channel too.
            host.run(&mut accept).await;
        });
        self.tasks.lock().insert(order.server.clone(), task);
        Ok(Reached {
            dial: Arc::new(MeteredDial {
                dial,
                instance: order.instance.clone(),
                meters: self.meters.clone(),
            }),
            code: CodeWay::Shared,
            detail: None,
            machine: None,
            has_waited: false,
            room_mib: None,
        })
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        let task = self.tasks.lock().remove(server);
        task.into_iter().for_each(|task| task.abort());
        Ok(())
    }

    async fn destroy(&self, _: &str) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn list(&self) -> std::io::Result<Vec<String>> {
        Ok(self.tasks.lock().keys().cloned().collect())
    }
}

struct World {
    clock: Clock,
    service: Service,
    placed: Placed,
    metrics: Metrics,
    filling: Option<Filling>,
    meters: Arc<Mutex<HashMap<String, Meters>>>,
}

type Made = (Box<dyn Sandbox>, Ground);

impl World {
    async fn new(warms: bool) -> Self {
        Self::by(Clock::fake(Timestamp::from_micros(1 << 50)), warms).await
    }

    async fn by(clock: Clock, warms: bool) -> Self {
        let (servers, metrics) = (Servers::default(), Metrics::default());
        let meters = servers.meters.clone();
        let mut provider: Arc<dyn Provider> = Arc::new(servers);
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
            meters,
        }
    }

    async fn try_create(&self, mib: u32) -> Result<Made, CreateError> {
        self.try_create_of(version(mib)).await
    }

    async fn try_create_of(&self, version: Arc<VersionSpec>) -> Result<Made, CreateError> {
        let log = Arc::new(MemoryLog::default());
        let made = self.placed.create(version, log).await?;
        let ground = made.ground();
        Ok((made, ground))
    }

    /// Waits until a server waits for whoever wants one.
    async fn until_warm(&self) {
        let until = async {
            while self.metrics.warming(Kind::Process).get() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, until).await.expect("no server waits");
    }

    async fn create(&self, mib: u32) -> Made {
        self.try_create(mib).await.unwrap()
    }

    /// What each of the account's instances holds, if it serves.
    async fn held(&self) -> Vec<(String, u64, bool)> {
        self.held_by(&version(1).account).await
    }

    async fn held_by(&self, account: &AccountId) -> Vec<(String, u64, bool)> {
        let views = self.service.handle().list(account).await.unwrap();
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
        self.two_of(ACCOUNT).await
    }

    async fn two_of(&self, account: &str) -> (Made, Made) {
        let create = async |mib| self.try_create_of(version_of(account, "f", mib)).await.unwrap();
        let first = create(1000).await;
        let second = create(100).await;
        first.0.destroy().await;
        let first = create(500).await;
        assert_eq!(
            self.held_by(&account.parse().unwrap()).await,
            [held("default", 500, false), held("default-2", 100, false)]
        );
        (first, second)
    }

    /// A person drains the second instance, or takes it back.
    async fn drain(&self, draining: bool) {
        let (handle, account) = (self.service.handle(), version(1).account.clone());
        handle.drain(&caller(&account), "default-2", draining).await.unwrap();
    }

    /// Makes an instance as a person does, from this file.
    async fn make(&self, file: &str, name: Option<&str>) -> Result<(), Error> {
        let caller = caller(&version(1).account);
        let creation = Creation {
            file: file.to_owned(),
            name: name.map(str::to_owned),
            role: None,
            token: None,
        };
        self.service.handle().create(&caller, &creation).await.map(drop)
    }

    async fn put_file(&self, text: &str) {
        let caller = caller(&version(1).account);
        self.service.handle().put_file(&caller, text).await.unwrap();
    }
}

fn held(name: &str, mib: u64, draining: bool) -> (String, u64, bool) {
    (name.to_owned(), mib, draining)
}

const OTHER: &str = "444455556666";

fn version(mib: u32) -> Arc<VersionSpec> {
    version_of(ACCOUNT, "f", mib)
}

const MINUTE: Duration = Duration::from_secs(61);
/// What is waited for has come long before that.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// 05/T-E3.
#[tokio::test]
async fn t_e3_a_full_instance_leads_to_another_one_of_the_warming_pool() {
    let world = World::new(true).await;
    world.until_warm().await;
    let (first, ground) = world.create(700).await;
    assert_eq!(ground, Ground::WarmingPool);
    let (_second, ground) = world.create(300).await;
    assert_eq!(ground, Ground::Instance, "the control: there is room");
    world.until_warm().await;
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
    world.drain(true).await;
    // It is not marked a second time, to be taken back then.
    world.tend(MINUTE).await;
    let _filling = world.create(500).await;
    let refused = world.try_create(300).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    second.0.destroy().await;
    world.tend(Duration::ZERO).await;
    assert_eq!(world.held().await[1], held("default-2", 0, true), "empty, it stays");
    world.drain(false).await;
    let (_more, ground) = world.create(300).await;
    assert_eq!(ground, Ground::Instance, "the control: that person takes it back");
}

/// One that the node drained is a person's from the moment that a person drains it too.
#[tokio::test]
async fn a_persons_wish_outdoes_the_nodes() {
    let world = World::new(false).await;
    let (_first, second) = world.two().await;
    world.tend(MINUTE).await;
    assert!(world.held().await[1].2, "the node drains it");
    world.drain(true).await;
    world.tend(Duration::ZERO).await;
    let _filling = world.create(500).await;
    let refused = world.try_create(300).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    second.0.destroy().await;
    world.tend(MINUTE).await;
    assert_eq!(world.held().await[1], held("default-2", 0, true));
}

/// T-D3 and T-D4 are the control.
#[tokio::test]
async fn one_with_a_volume_is_neither_drained_nor_removed() {
    let world = World::new(false).await;
    let first = world.create(1000).await;
    world
        .put_file(
            "id = \"default\"\nkind = \"process\"\n[resources]\nmemory_mib = 1024\n[[volumes]]\nsource = \"orders\"\n\
             mount = \"/data\"\n",
        )
        .await;
    let second = world.create(100).await;
    first.0.destroy().await;
    let _first = world.create(500).await;
    second.0.destroy().await;
    world.tend(MINUTE).await;
    world.tend(MINUTE).await;
    assert_eq!(
        world.held().await,
        [held("default", 500, false), held("default-2", 0, false)]
    );
    assert_eq!(world.metrics.drained.get(), 0);
}

/// What was to go a moment ago may be wanted again.
#[tokio::test]
async fn it_is_looked_again_before_one_is_removed() {
    let world = World::new(false).await;
    let (_first, second) = world.two().await;
    let (handle, account) = (world.service.handle(), version(1).account.clone());
    let remove = async || handle.take_away(&account, "default-2", Step::Remove).await;
    world.tend(MINUTE).await;
    remove().await;
    assert_eq!(world.held().await[1], held("default-2", 100, true), "it is used");
    second.0.destroy().await;
    handle.mark(&account, "default-2", false).await;
    remove().await;
    assert_eq!(world.held().await[1], held("default-2", 0, false), "it was taken back");
    handle.mark(&account, "default-2", true).await;
    remove().await;
    assert_eq!(world.held().await, [held("default", 500, false)], "the control");
}

/// Whoever looks after all instances goes on after a while.
#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_answer_holds_up_no_other_account() {
    let world = World::new(false).await;
    let (account, other): (AccountId, AccountId) = (ACCOUNT.parse().unwrap(), OTHER.parse().unwrap());
    let (_of_one, (_first, second)) = (world.two_of(ACCOUNT).await, world.two_of(OTHER).await);
    let _unheard = world.service.handle().shared.mute(&account, "default-2");
    timeout(PATIENCE, world.tend(MINUTE)).await.expect("it goes on");
    assert_eq!(
        world.held_by(&account).await[1],
        held("default-2", 100, false),
        "the control: it did not hear it"
    );
    assert_eq!(world.held_by(&other).await[1], held("default-2", 100, true));
    // Nor does one of which it is not seen that it ends.
    let _unseen = world.service.handle().shared.mute(&other, "default-2");
    second.0.destroy().await;
    timeout(PATIENCE, world.tend(Duration::ZERO)).await.expect("it goes on");
    let gone = async {
        while world.held_by(&other).await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it goes nevertheless");
}

#[tokio::test(start_paused = true)]
async fn an_account_that_waits_for_its_driver_lets_others_have_room() {
    let world = World::new(false).await;
    let _two = world.two_of(ACCOUNT).await;
    world.tend(MINUTE).await;
    let _filling = world.create(500).await;
    let mut unheard = world.service.handle().shared.mute(&version(1).account, "default-2");
    let mut waiting = std::pin::pin!(world.try_create(300));
    let order = tokio::select! {
        made = &mut waiting => panic!("nobody has answered: {:?}", made.map(|made| made.1)),
        order = timeout(PATIENCE, unheard.recv()) => order.unwrap(),
    };
    assert!(order.is_some(), "it is to be taken back");
    let other = tokio::select! {
        two = world.two_of(OTHER) => two,
        made = &mut waiting => panic!("nobody has answered: {:?}", made.map(|made| made.1)),
    };
    assert_eq!(
        other.1.1,
        Ground::NewInstance,
        "meanwhile another account gets one more"
    );
    // The machine has no third one.
    let refused = timeout(PATIENCE, waiting).await.unwrap().map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
}

/// The answer is that of instances that are full.
#[tokio::test]
async fn a_file_that_is_refused_is_no_failure_of_the_node() {
    let world = World::new(false).await;
    let _filling = world.create(1000).await;
    world
        .put_file("id = \"default\"\nkind = \"process\"\n[resources]\nmemory_mib = 4096\n")
        .await;
    let refused = world.try_create(100).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    world
        .put_file("id = \"default\"\nkind = \"process\"\n[resources]\nmemory_mib = 1024\n")
        .await;
    assert_eq!(world.create(100).await.1, Ground::NewInstance, "the control");
}

#[tokio::test]
async fn names_of_such_instances_are_not_given_to_others() {
    let world = World::new(false).await;
    let _made = world.create(100).await;
    let refused = world.make(DEFAULT_INSTANCE, Some("default-2")).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    world
        .make(DEFAULT_INSTANCE, Some("default-web"))
        .await
        .expect("the control");
    // Without a name an instance has that of its file.
    world
        .put_file("id = \"default-3\"\nkind = \"process\"\n[resources]\nmemory_mib = 64\n")
        .await;
    let refused = world.make("default-3", None).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    world.make("default-3", Some("mine")).await.expect("the control");
    assert!(is_more("default-2") && is_more("default-255"));
    for other in [
        "default",
        "default-",
        "default-web",
        "other-2",
        "default-1",
        "default-007",
        "default-+2",
        "default-256",
    ] {
        assert!(!is_more(other), "{other}");
    }
}

/// Whoever drains an account's only instance does not stop its functions.
#[tokio::test]
async fn where_a_person_has_drained_the_only_instance_one_more_takes_its_place() {
    let world = World::new(false).await;
    let (first, _) = world.create(100).await;
    let (handle, account) = (world.service.handle(), version(1).account.clone());
    let drain = async |draining| {
        handle
            .drain(&caller(&account), DEFAULT_INSTANCE, draining)
            .await
            .unwrap()
    };
    drain(true).await;
    let (_second, ground) = world.create(100).await;
    assert_eq!(ground, Ground::NewInstance);
    assert_eq!(
        world.held().await,
        [held("default", 100, true), held("default-2", 100, false)]
    );
    // It is the only one that serves: however little of it is used, it stays.
    world.tend(MINUTE).await;
    world.tend(MINUTE).await;
    assert_eq!(world.held().await[1], held("default-2", 100, false));
    // There is no memory for a third one.
    world.drain(true).await;
    let refused = world.try_create(100).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    first.destroy().await;
    drain(false).await;
    assert_eq!(
        world.create(100).await.1,
        Ground::Instance,
        "the control: it is taken back"
    );
}

/// 04/T-D12.
#[tokio::test]
async fn t_d12_a_marked_instance_is_ended_by_force_at_the_deadline_and_not_before() {
    let world = World::new(false).await;
    let (_first, mut second) = world.two().await;
    world.tend(MINUTE).await;
    let marked = held("default-2", 100, true);
    assert_eq!(world.held().await[1], marked);
    let deadline = DrainRules::default().deadline;
    world.tend(deadline - Duration::from_secs(1)).await;
    assert_eq!(world.held().await[1], marked, "it may run as long as anything may");
    assert!(
        second.0.resident_bytes() == 0 && !second.0.is_alive(),
        "it gets nothing more"
    );
    world.tend(Duration::from_secs(1)).await;
    assert_eq!(world.held().await, [held("default", 500, false)]);
    assert_eq!(world.metrics.forced.get(), 1);
}
