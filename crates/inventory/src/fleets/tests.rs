//! The acceptance tests of fleets (03), over agents in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_agent::channel::memory;
use bowline_agent::{CodeWay, Link, LinkOptions};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_sandbox::{Backend as _, CreateError, MemoryLog, Sandbox};
use bowline_store::MemoryStore;
use tokio::task::JoinHandle;

use super::*;
use crate::Placed;
use crate::crash::CrashPoints;
use crate::idle::{ACCOUNT, Sandboxes, host, version_of};
use crate::metrics::Metrics;
use crate::roster::{Origin, Owner, Standing};
use crate::service::{Options, Service};

/// A node whose roster is the test's to fill.
struct World {
    store: Arc<MemoryStore>,
    clock: Clock,
    service: Service,
    placed: Placed,
    metrics: Metrics,
    hosts: Vec<JoinHandle<()>>,
}

type Made = (Box<dyn Sandbox>, Option<Stand>);

impl World {
    async fn new() -> Self {
        let clock = Clock::fake(Timestamp::from_micros(1_790_000_000_000_000));
        Self::over(Arc::default(), clock, "here").await
    }

    async fn over(store: Arc<MemoryStore>, clock: Clock, node: &'static str) -> Self {
        let metrics = Metrics::default();
        let service = Service::start(Options {
            store: store.clone(),
            clock: clock.clone(),
            entropy: Entropy::seeded(5),
            providers: Vec::new(),
            node: node.to_owned(),
            lease: Duration::from_secs(24 * 60 * 60),
            metrics: metrics.clone(),
            crash: CrashPoints::default(),
        });
        let service = service.await.unwrap();
        Self {
            placed: Placed::new(Arc::new(Sandboxes), service.handle(), None),
            store,
            clock,
            service,
            metrics,
            hosts: Vec::new(),
        }
    }

    /// One with an instance of each class.
    async fn with_fleets() -> (Self, Link, Link) {
        let mut world = Self::new().await;
        let low = world.instance("plain", None, 1024).await;
        let high = world.instance("busy", Some(Class::High), 1024).await;
        (world, low, high)
    }

    async fn instance(&mut self, name: &str, class: Option<Class>, memory_mib: u64) -> Link {
        let (dial, mut accept) = memory();
        let host = host(Arc::new(Sandboxes));
        self.hosts.push(tokio::spawn(async move {
            host.run(&mut accept).await;
        }));
        let options = LinkOptions {
            dial: Arc::new(dial),
            epoch: 1,
            lease: Duration::from_secs(24 * 60 * 60),
            clock: Clock::system(),
            code: CodeWay::Shared,
            memory_mib: Some(memory_mib),
            maxima: None,
            made_ahead: None,
        };
        let (link, _) = Link::connect(options).await.unwrap();
        let (handle, standing) = (
            self.service.handle(),
            Standing::Ready(link.clone(), Origin::Made, Owner::Person),
        );
        handle.roster().belong(&account(), name, class);
        handle.roster().set(&account(), name, Some(standing));
        link
    }

    async fn create(&self, function: &str, mib: u32) -> Result<Made, CreateError> {
        let log = Arc::new(MemoryLog::default());
        let made = self.placed.create(version(function, mib), log).await?;
        let stand = made.stand();
        Ok((made, stand))
    }

    async fn stand(&self, function: &str) -> Option<Stand> {
        self.create(function, 64).await.unwrap().1
    }

    /// Calls functions so often a second, for so long.
    fn call(&self, rates: &[(&str, u64)], seconds: u64) {
        for _ in 0..seconds {
            for (function, rate) in rates {
                self.placed.called(&version(function, 64), *rate, self.clock.now());
            }
            self.clock.advance(Duration::from_secs(1));
        }
    }

    /// Another life of the node, with the same instances.
    async fn restart(self, node: &'static str) -> Self {
        self.service.shut_down().await;
        let mut again = Self::over(self.store, self.clock, node).await;
        again.instance("plain", None, 1024).await;
        again.instance("busy", Some(Class::High), 1024).await;
        again
    }

    async fn view(&self) -> FleetsView {
        self.service.handle().fleets(&account()).await.unwrap()
    }

    async fn set(&self, criteria: Criteria) -> Result<FleetsView, Error> {
        let caller = Caller {
            account: account(),
            request_id: "request".to_owned(),
        };
        self.service.handle().set_criteria(&caller, criteria).await
    }
}

fn account() -> AccountId {
    ACCOUNT.parse().unwrap()
}

fn version(function: &str, mib: u32) -> Arc<VersionSpec> {
    version_of(ACCOUNT, function, mib)
}

fn in_its(fleet: Class) -> Option<Stand> {
    Some(Stand {
        fleet,
        is_spilled: false,
    })
}

/// 03/T-C1 and 03/T-C9.
#[tokio::test]
async fn t_c1_and_c9_busy_versions_run_on_one_fleet_and_all_others_on_the_other() {
    let (world, low, high) = World::with_fleets().await;
    let (hot, first) = world.create("hot", 64).await.unwrap();
    assert_eq!(
        first,
        in_its(Class::Low),
        "of a version that was never called nothing is known"
    );
    drop(hot);
    for _ in 0..6 {
        world.call(&[("hot", 50), ("cold", 1)], 1);
        world.call(&[("hot", 50)], 59);
    }
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.create("hot", 64).await.unwrap());
        made.push(world.create("cold", 64).await.unwrap());
    }
    assert!(made.iter().step_by(2).all(|(_, stand)| *stand == in_its(Class::High)));
    assert!(
        made.iter()
            .skip(1)
            .step_by(2)
            .all(|(_, stand)| *stand == in_its(Class::Low))
    );
    assert_eq!((low.sandboxes(), high.sandboxes()), (5, 5));
    let moved = |class| world.metrics.moved(class).get();
    assert_eq!((moved(Class::High), moved(Class::Low)), (1, 0));
}

/// 03/T-C3: the fleets that there are make the bands, and each acquires its own instances.
#[tokio::test]
async fn t_c3_each_band_has_its_own_instances_and_says_what_it_acquired() {
    let mut world = World::new().await;
    let from = |count: u32| Class::From(count.try_into().unwrap());
    world.instance("few", None, 1024).await;
    world.instance("some", Some(from(10)), 1024).await;
    world.instance("many", Some(from(100)), 1024).await;
    world.call(&[("five", 5), ("fifty", 50), ("fivehundred", 500)], 1);
    let mut made = Vec::new();
    for (function, mib, class) in [
        ("five", 64, Class::Low),
        ("fifty", 900, from(10)),
        ("fivehundred", 64, from(100)),
    ] {
        let (sandbox, stand) = world.create(function, mib).await.unwrap();
        assert_eq!(stand, in_its(class), "{function}");
        made.push(sandbox);
    }
    // Full, it spills to the next one for less.
    let (again, stand) = world.create("fifty", 200).await.unwrap();
    assert_eq!(stand.unwrap().to_string(), "low; spilled");
    made.push(again);
    let view = world.view().await;
    let bands: Vec<_> = view
        .fleets
        .into_iter()
        .map(|fleet| (fleet.class, fleet.from, fleet.instances))
        .collect();
    let band = |class, from, name: &str| (class, from, vec![name.to_owned()]);
    assert_eq!(
        bands,
        [
            band(Class::Low, 0, "few"),
            band(from(10), 10, "some"),
            band(from(100), 100, "many")
        ]
    );
    let acquired = view
        .acquired
        .iter()
        .map(|one| (&*one.function, one.count, one.stand.to_string(), &*one.instance));
    assert_eq!(
        acquired.collect::<Vec<_>>(),
        [
            ("five", 5, "low".to_owned(), "few"),
            ("fifty", 50, "10+".to_owned(), "some"),
            ("fivehundred", 500, "100+".to_owned(), "many"),
            ("fifty", 50, "low; spilled".to_owned(), "few"),
        ]
    );
}

#[tokio::test]
async fn without_a_high_fleet_all_is_as_ever() {
    let mut world = World::new().await;
    world.instance("small", Some(Class::Low), 512).await;
    let large = world.instance("large", None, 1024).await;
    world.call(&[("hot", 50)], 300);
    assert!(!world.placed.has_fleets());
    assert_eq!(world.placed.berth(&version("hot", 64)), None);
    let (_made, stand) = world.create("hot", 64).await.unwrap();
    assert_eq!(
        (stand, large.sandboxes()),
        (in_its(Class::Low), 1),
        "the roomiest one serves"
    );
    assert!(world.view().await.versions.is_empty(), "nothing is counted");
}

/// 03/T-C2.
#[tokio::test]
async fn t_c2_a_restart_forgets_nothing() {
    let (world, ..) = World::with_fleets().await;
    world.call(&[("hot", 50)], 100);
    assert_eq!(world.stand("hot").await, in_its(Class::High));
    let before = world.view().await.versions;
    let world = world.restart("here").await;
    assert_eq!(world.stand("hot").await, in_its(Class::High));
    let after = world.view().await.versions;
    assert_eq!(
        (before[0].count, &before[0].buckets),
        (after[0].count, &after[0].buckets)
    );
    assert_eq!(after[0].count, 5000);
    let other = world.restart("there").await;
    assert_eq!(
        other.stand("hot").await,
        in_its(Class::Low),
        "the control: a node that has seen nothing of it"
    );
}

/// A node that is killed has lost no more than what came since it was written down last.
#[tokio::test]
async fn what_is_seen_is_written_down_meanwhile() {
    let (world, ..) = World::with_fleets().await;
    world.call(&[("hot", 50)], 100);
    let handle = world.service.handle();
    assert_eq!(handle.shared.book.usages("here").await.unwrap(), []);
    handle.shared.keep_usage().await;
    let kept = handle.shared.book.usages("here").await.unwrap();
    assert_eq!((kept.len(), kept[0].usage.class()), (1, Class::High));
    // Once nobody calls it, it is demoted, and forgotten in the end.
    world.clock.advance(Duration::from_secs(400));
    handle.shared.keep_usage().await;
    let kept = handle.shared.book.usages("here").await.unwrap();
    assert_eq!((kept.len(), kept[0].usage.class()), (1, Class::Low));
    world.clock.advance(Duration::from_secs(200));
    handle.shared.keep_usage().await;
    assert_eq!(handle.shared.book.usages("here").await.unwrap(), []);
}

/// 03/T-C6.
#[tokio::test]
async fn t_c6_the_history_of_the_version_decides() {
    let (world, ..) = World::with_fleets().await;
    world.call(&[("one", 20)], 200);
    assert_eq!(world.stand("one").await, in_its(Class::High));
    assert_eq!(world.stand("other").await, in_its(Class::Low));
    world.call(&[("other", 20)], 600);
    assert_eq!(world.stand("one").await, in_its(Class::Low));
    assert_eq!(world.stand("other").await, in_its(Class::High));
}

/// 03/T-C7.
#[tokio::test]
async fn t_c7_criteria_change_while_the_node_runs() {
    let (world, ..) = World::with_fleets().await;
    world.call(&[("f", 3)], 300);
    assert_eq!(world.stand("f").await, in_its(Class::High));
    let refused = world.set(Criteria {
        demote_at: 9.0,
        ..Criteria::default()
    });
    assert!(matches!(refused.await, Err(Error::Invalid(_))));
    let slower = Criteria {
        promote_at: 5.0,
        demote_at: 4.0,
        dwell_min: Duration::from_secs(400),
        ..Criteria::default()
    };
    assert_eq!(world.set(slower.clone()).await.unwrap().criteria, slower);
    assert_eq!(
        world.stand("f").await,
        in_its(Class::High),
        "not before it has dwelt there"
    );
    world.call(&[("f", 3)], 400);
    assert_eq!(world.stand("f").await, in_its(Class::Low));
    let world = world.restart("here").await;
    assert_eq!(world.view().await.criteria, slower, "they are kept");
}

/// 03/T-C8.
#[tokio::test]
async fn t_c8_counts_are_those_of_the_calls_bucket_by_bucket() {
    let (world, ..) = World::with_fleets().await;
    let mut log: BTreeMap<(String, Timestamp), u64> = BTreeMap::new();
    for step in 0..2000u64 {
        let (function, count) = (format!("f{:02}", step * step % 100), 1 + step % 3);
        world.placed.called(&version(&function, 64), count, world.clock.now());
        let bucket = world.clock.now().as_micros() / 10_000_000 * 10_000_000;
        *log.entry((function, Timestamp::from_micros(bucket))).or_default() += count;
        world.clock.advance(Duration::from_millis(140));
    }
    let versions = world.view().await.versions;
    let told = versions.iter().flat_map(|version| {
        let named = |(from, count): &(Timestamp, u64)| ((version.function.clone(), *from), *count);
        version.buckets.iter().map(named).collect::<Vec<_>>()
    });
    assert_eq!(told.collect::<BTreeMap<_, _>>(), log);
}

/// 03/T-C12.
#[tokio::test]
async fn t_c12_a_full_fleet_spills_to_the_other() {
    let (world, low, high) = World::with_fleets().await;
    world.call(&[("hot", 50)], 100);
    let (first, stand) = world.create("hot", 1000).await.unwrap();
    assert_eq!(stand, in_its(Class::High), "the control: there is room");
    assert_eq!(world.metrics.spilled(Class::High).get(), 0);
    let (_second, stand) = world.create("hot", 1000).await.unwrap();
    let spilled = Stand {
        fleet: Class::Low,
        is_spilled: true,
    };
    assert_eq!((stand, low.sandboxes()), (Some(spilled), 1));
    assert_eq!(stand.unwrap().to_string(), "low; spilled");
    assert_eq!(world.metrics.spilled(Class::High).get(), 1);
    let refused = world.create("hot", 1000).await.map(|made| made.1);
    assert!(matches!(refused, Err(CreateError::Exhausted(_))), "{refused:?}");
    first.destroy().await;
    let again = world.create("hot", 1000).await.unwrap().1;
    assert_eq!(again, in_its(Class::High), "the control");
    assert_eq!(high.sandboxes(), 0);
    // The other way round as well.
    let (_cold, stand) = world.create("cold", 500).await.unwrap();
    assert_eq!(stand.unwrap().to_string(), "high; spilled");
    assert_eq!(world.metrics.spilled(Class::Low).get(), 1);
}

/// 03/T-C10, of the instances: the low fleet is packed, the high one is spread over.
#[tokio::test]
async fn t_c10_the_low_fleet_is_packed() {
    let (mut world, first, busy) = World::with_fleets().await;
    let second = world.instance("spare", Some(Class::Low), 512).await;
    let idle = world.instance("calm", Some(Class::High), 900).await;
    world.call(&[("hot", 50)], 100);
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(world.create("cold", 100).await.unwrap());
        made.push(world.create("hot", 100).await.unwrap());
    }
    assert_eq!(
        (first.sandboxes(), second.sandboxes()),
        (0, 4),
        "the one with the least room that is enough"
    );
    assert!(busy.sandboxes() > 0 && idle.sandboxes() > 0, "the control");
}
