//! Spares over a provider that only remembers what it was asked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_agent::channel::{Channel, MemoryAccept, memory};
use bowline_agent::{CodeWay, Dial};

use super::*;
use crate::file::{EffectiveVolume, Mode};
use crate::service::default_server;

/// What is waited for has come long before that.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

struct Fake {
    offer: Offer,
    /// Servers that are there, with the ends of their agents.
    servers: Mutex<HashMap<String, Option<MemoryAccept>>>,
    /// Agents die at once; so often they were looked for.
    stillborn: Option<Arc<AtomicUsize>>,
    changed: Notify,
}

impl Fake {
    fn names(&self) -> BTreeSet<String> {
        self.servers.lock().keys().cloned().collect()
    }

    async fn until(&self, count: usize) -> BTreeSet<String> {
        let until = async {
            loop {
                let changed = self.changed.notified();
                let running = self.servers.lock().values().filter(|agent| agent.is_some()).count();
                if running == count {
                    return self.names();
                }
                changed.await;
            }
        };
        let found = timeout(PATIENCE, until).await;
        found.unwrap_or_else(|_| panic!("not {count} servers run, but of {:?}", self.names()))
    }
}

/// The way to an agent that has died.
struct Nobody(Arc<AtomicUsize>);

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self) -> io::Result<Channel> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[async_trait]
impl Provider for Fake {
    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn offer(&self) -> Offer {
        self.offer
    }

    fn objection(&self, effective: &Effective) -> Option<String> {
        (effective.memory_mib == 7).then(|| "seven".to_owned())
    }

    fn progress(&self, server: &str) -> Option<String> {
        Some(server.to_owned())
    }

    async fn configure(&self, order: &ServerOrder) -> Result<(), ProvideError> {
        self.servers.lock().insert(order.server.clone(), None);
        Ok(())
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let (dial, accept) = memory();
        self.servers.lock().insert(order.server.clone(), Some(accept));
        self.changed.notify_waiters();
        let dial: Arc<dyn Dial> = match &self.stillborn {
            Some(looked) => Arc::new(Nobody(looked.clone())),
            None => Arc::new(dial),
        };
        Ok(Reached {
            dial,
            code: CodeWay::Shared,
            detail: Some(order.server.clone()),
            machine: None,
            has_waited: false,
            room_mib: None,
        })
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        self.servers.lock().remove(server);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn destroy(&self, _: &str) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names().into_iter().collect())
    }
}

/// Waits until it is so; whether it came to that.
async fn until(so: impl Fn() -> bool) -> bool {
    let until = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, until).await.is_ok()
}

struct World {
    fake: Arc<Fake>,
    warming: Arc<Warming>,
    filling: Filling,
    standing: Effective,
    clock: Clock,
}

impl World {
    /// One whose accounts get an instance without asking.
    fn new() -> Self {
        Self::with(true, 4096)
    }

    fn with(stands: bool, memory_mib: u64) -> Self {
        Self::of((stands, memory_mib), None)
    }

    fn of((stands, memory_mib): (bool, u64), stillborn: Option<Arc<AtomicUsize>>) -> Self {
        let offer = Offer {
            memory_mib,
            cpu_millis: 2000,
            storage_mib: 1000,
        };
        let fake = Arc::new(Fake {
            offer,
            servers: Mutex::default(),
            stillborn,
            changed: Notify::new(),
        });
        let (clock, entropy) = (Clock::fake(Timestamp::from_micros(1 << 50)), Entropy::seeded(6));
        let mut standing = default_server(Kind::Process, &offer);
        standing.memory_mib = 1024;
        let warming = Arc::new(Warming::new(
            (&clock, &entropy),
            fake.clone(),
            stands.then(|| standing.clone()),
            Metrics::default(),
        ));
        Self {
            fake,
            filling: warming.clone().fill(),
            warming,
            standing,
            clock,
        }
    }

    fn order(&self, server: &str) -> ServerOrder {
        ServerOrder {
            server: server.to_owned(),
            account: "111122223333".parse().unwrap(),
            instance: "default".to_owned(),
            address: None,
            effective: self.standing.clone(),
        }
    }

    /// Makes a server; says under which name the provider behind knows it, and whether it had waited.
    async fn make(&self, order: &ServerOrder) -> (String, bool) {
        self.warming.configure(order).await.unwrap();
        let reached = self.warming.spin_up(order).await.unwrap();
        (reached.detail.unwrap(), reached.has_waited)
    }

    fn ready(&self) -> usize {
        self.warming
            .state
            .lock()
            .fleets
            .iter()
            .map(|fleet| fleet.ready.len())
            .sum()
    }

    fn pending(&self) -> u32 {
        let state = self.warming.state.lock();
        state.fleets.iter().map(|fleet| fleet.pool.booting() + fleet.due).sum()
    }

    /// Waits until so many spares are ready.
    async fn until_ready(&self, count: usize) {
        let until = until(|| self.ready() == count);
        assert!(until.await, "{} spares are ready, not {count}", self.ready());
    }

    /// Waits until nothing boots any more.
    async fn settle(&self) {
        // Both clocks go on.
        self.clock.advance(TICK);
        tokio::time::sleep(2 * TICK).await;
        assert!(until(|| self.pending() == 0).await, "{} still boot", self.pending());
    }
}

#[tokio::test(start_paused = true)]
async fn e_e7_an_order_gets_the_server_that_waited_and_another_takes_its_place() {
    let world = World::new();
    let spares = world.fake.until(1).await;
    world.until_ready(1).await;
    let (made, waited) = world.make(&world.order("x")).await;
    assert!(spares.contains(&made) && waited, "the one that waited");
    assert_eq!(world.warming.metrics.warmed(Kind::Process).get(), 1);
    let after = world.fake.until(2).await;
    assert!(after.contains(&made) && !after.contains("x"));
    world.until_ready(1).await;
    assert_eq!(world.warming.metrics.warming(Kind::Process).get(), 1);
    let (other, _) = world.make(&world.order("y")).await;
    assert_ne!(other, made, "no server has two owners");
    // To cut the server off is to cut off the one that serves as it.
    world.warming.fence("x").await.unwrap();
    assert!(!world.fake.names().contains(&made) && world.fake.names().contains(&other));
    // Made again, it is another one.
    let (again, _) = world.make(&world.order("x")).await;
    assert!(again != made && again != other);
}

#[tokio::test(start_paused = true)]
async fn an_order_for_something_else_is_made_as_ever() {
    let world = World::new();
    world.until_ready(1).await;
    let mut order = world.order("large");
    order.effective.memory_mib *= 2;
    assert_eq!(world.make(&order).await, ("large".to_owned(), false));
    let mut order = world.order("keeps");
    order.effective.volumes.push(EffectiveVolume {
        source: "orders".to_owned(),
        mount: "/data".to_owned(),
        mode: Mode::Rw,
    });
    assert_eq!(world.make(&order).await, ("keeps".to_owned(), false));
    world.settle().await;
    assert_eq!(
        (world.ready(), world.warming.metrics.warmed(Kind::Process).get()),
        (1, 0)
    );
    // What the provider behind knows of orders is known here too.
    order.effective.memory_mib = 7;
    assert_eq!(world.warming.objection(&order.effective).as_deref(), Some("seven"));
    assert_eq!(world.warming.progress("keeps").as_deref(), Some("keeps"));
}

#[tokio::test(start_paused = true)]
async fn a_spare_that_has_died_is_not_given() {
    let world = World::new();
    let spares = world.fake.until(1).await;
    world.until_ready(1).await;
    for agent in world.fake.servers.lock().values_mut() {
        // Nobody listens there any more.
        *agent = None;
    }
    let (made, _) = world.make(&world.order("x")).await;
    assert!(!spares.contains(&made), "{made}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_listens_is_looked_for_more_and_more_rarely() {
    let looked = Arc::new(AtomicUsize::new(0));
    let world = World::of((true, 4096), Some(looked.clone()));
    let first = world.fake.until(1).await;
    let found = async |after: Duration| {
        tokio::time::sleep(after).await;
        looked.swap(0, Ordering::Relaxed)
    };
    let soon = found(Duration::from_millis(330)).await;
    assert!((4..=6).contains(&soon), "{soon} times: it is awaited soon");
    let late = found(BOOT_MAX - Duration::from_secs(1)).await;
    assert!((800..=910).contains(&late), "{late} times: once a second");
    let gone = until(|| !world.fake.names().is_superset(&first));
    assert!(gone.await, "it is ended in the end");
    assert_eq!(world.ready(), 0);
}

/// 04/T-D2, and 04/T-D1 as its control.
#[tokio::test(start_paused = true)]
async fn t_d2_the_refill_follows_the_rate_within_bounds() {
    let world = World::new();
    world.until_ready(1).await;
    for number in 0..5 {
        // One in a minute is replaced by one.
        world.clock.advance(Duration::from_secs(60));
        world.make(&world.order(&format!("slow{number}"))).await;
        world.settle().await;
        assert_eq!(world.ready(), 1, "{number}");
    }
    // More than one in five seconds is replaced by two, up to the most.
    for number in 0..20 {
        world.make(&world.order(&format!("fast{number}"))).await;
        world.settle().await;
    }
    let ready = world.ready();
    assert!((2..=SPARES_MAX as usize).contains(&ready), "{ready} wait");
    // Then nobody comes any more.
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(60));
        world.settle().await;
    }
    assert_eq!(world.ready(), 1);
}

/// 04/T-D11.
#[tokio::test(start_paused = true)]
async fn t_d11_a_configuration_that_is_wanted_often_gets_a_fleet_of_its_own() {
    let world = World::with(false, 4096);
    let make = async |server: &str| {
        let made = world.make(&world.order(server)).await;
        world.settle().await;
        made
    };
    let first = ["a", "b"];
    for server in first {
        assert_eq!(make(server).await, (server.to_owned(), false));
        assert_eq!(world.ready(), 0, "the control: it is not wanted often");
        world.clock.advance(Duration::from_secs(300));
    }
    let mut waited = Vec::new();
    for server in ["c", "d", "e", "f", "g"] {
        waited.push(make(server).await.1);
    }
    assert_eq!(waited[..2], [false, false]);
    assert!(waited[4], "{waited:?}");
    assert!(world.ready() >= 1);
    // When it is wanted no more its servers go.
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(60));
        world.settle().await;
    }
    assert_eq!(world.ready(), 0);
    // A configuration that nobody wants leaves its place to another.
    for size in 0..3 * FLEETS_MAX {
        let mut order = world.order(&format!("size{size}"));
        order.effective.memory_mib = 64 + u32::try_from(size).unwrap();
        world.make(&order).await;
        assert!(world.warming.state.lock().fleets.len() <= FLEETS_MAX);
        world.clock.advance(Duration::from_secs(300));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_has_no_more_memory_than_there_is() {
    for (memory_mib, most) in [(1024, 1), (2048, 2)] {
        let world = World::with(true, memory_mib);
        world.until_ready(1).await;
        for number in 0..20 {
            world.make(&world.order(&format!("s{number}"))).await;
            world.settle().await;
            assert!(world.ready() <= most, "{} wait", world.ready());
        }
        assert_eq!(world.ready(), most);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_boots_once_it_is_told_to_stop() {
    let World {
        fake, warming, filling, ..
    } = World::new();
    fake.until(1).await;
    filling.stop().await;
    let names = fake.names();
    let wanted = warming.state.lock().fleets[0].server.clone();
    warming.next_ready(&wanted);
    tokio::time::sleep(10 * TICK).await;
    assert_eq!(fake.names(), names);
}

/// A window of every day, by UTC.
fn schedule(from: &str, to: &str, servers: u32) -> Schedule {
    let text = format!(
        "id = \"shop\"\nkind = \"process\"\n[resources]\nmemory_mib = 64\n[[schedule]]\nfrom = \"{from}\"\nto = \"{to}\"\n\
         servers = {servers}\n"
    );
    crate::file::InstanceFile::parse(&text).unwrap().schedules().remove(0)
}

/// 04/T-D6.
#[tokio::test(start_paused = true)]
async fn t_d6_servers_wait_by_a_declared_schedule_and_go_when_it_is_over() {
    let world = World::with(false, 4096);
    let day = 24 * 60 * 60;
    let to_midnight = day - world.clock.now().as_millis() / 1000 % day;
    let hour = 60 * 60;
    // Some seconds go by with each look.
    let go = async |seconds: u64| {
        world.clock.advance(Duration::from_secs(seconds));
        world.settle().await;
        world.ready()
    };
    go(to_midnight + 7 * hour).await;
    assert_eq!(go(2 * hour).await, 0, "the control: nothing is declared");
    let server = world.standing.clone();
    world.warming.declare(vec![Declared {
        server: server.clone(),
        schedules: vec![schedule("08:00", "18:00", 2)],
    }]);
    assert_eq!(go(22 * hour).await, 0, "at seven nobody needs one");
    let to_eight = hour - world.clock.now().as_millis() / 1000 % hour;
    assert_eq!(go(to_eight - 60).await, 0);
    assert_eq!(go(57).await, 2, "they boot before eight");
    let waiting = world.warming.waiting(&server);
    assert_eq!(waiting, Some(Waiting { ready: 2, scheduled: 2 }));
    assert_eq!(world.warming.metrics.scheduled(Kind::Process).get(), 2);
    let (_, waited) = world.make(&world.order("x")).await;
    assert!(waited, "one that waits is given");
    assert_eq!(go(1).await, 2, "and replaced");
    assert_eq!(go(10 * hour).await, 0, "when it is over they go");
    // What is no longer declared no longer counts.
    assert_eq!(go(18 * hour).await, 2, "the control: at noon on the next day");
    world.warming.declare(Vec::new());
    assert_eq!(go(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_machine_cannot_make_is_not_awaited() {
    let world = World::with(false, 1024);
    let declared = |memory_mib| Declared {
        server: Effective {
            memory_mib,
            ..world.standing.clone()
        },
        schedules: vec![schedule("00:00", "23:59", 4), schedule("23:58", "00:01", 4)],
    };
    world.warming.declare(vec![declared(1025)]);
    world.settle().await;
    assert_eq!(world.ready(), 0);
    // Those that wait have together no more memory than there is.
    world.warming.declare(vec![declared(512)]);
    for _ in 0..3 {
        world.settle().await;
    }
    assert_eq!(world.ready(), 2);
}
