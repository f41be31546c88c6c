//! Front ends that die at every named point, over stores that fail in every way, by seed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_store::objects::{
    ChangeError, CrashPoints, CreateError, Delete, Expect, ObjectId, Objects, Options, Query, StoreError,
};
use bowline_store::{FaultRates, FaultyStore, Key, MemoryStore, Store, Write};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::checker::{Done, Record, faults};
use crate::world::{Late, SingleKey, create, find, named, update, with_token};

const CLIENTS: u64 = 4;
const STEPS: u64 = 12;
/// Front ends that die one after the other on the stores of one seed.
const LIVES: u64 = 10;
const SEEDS: u64 = 110;
/// Seeds that once found a fault.
const OLD_FAULTS: [u64; 1] = [1552];

#[derive(Default)]
struct Log {
    history: Mutex<Vec<Record>>,
    /// Identifiers that somebody was told, for the next to work on.
    told: Mutex<Vec<ObjectId>>,
    time: AtomicU64,
    attempts: AtomicU64,
}

impl Log {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    fn note(&self, began: u64, done: Done) {
        let ended = self.now();
        self.history.lock().push(Record { began, ended, done });
    }
}

struct World {
    inner: [Arc<MemoryStore>; 2],
    faulty: [Arc<FaultyStore>; 2],
    log: Arc<Log>,
    clock: Clock,
    entropy: Entropy,
    reached: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let inner = [(); 2].map(|()| Arc::new(MemoryStore::default()));
        let rates = FaultRates {
            fail_before: 0.04,
            lose_reply: 0.04,
            delay: 0.1,
            delay_max: Duration::from_millis(40),
        };
        let faulty = std::array::from_fn(|index| {
            let mut store = Arc::clone(&inner[index]) as Arc<dyn Store>;
            if seed % 2 == 1 {
                store = Arc::new(SingleKey {
                    inner: store,
                    entropy: Entropy::seeded(entropy.number()),
                    death_rate: 0.03,
                });
            }
            Arc::new(FaultyStore::new(store, rates, Entropy::seeded(entropy.number())))
        });
        Self {
            inner,
            faulty,
            log: Arc::default(),
            clock: Clock::fake(Timestamp::from_micros(1_795_217_079_000_000)),
            entropy,
            reached: Arc::default(),
        }
    }

    /// A front end over the faulty stores that dies at the step of this number.
    fn mortal(&self, death: Arc<Notify>) -> Objects {
        let left = Arc::new(AtomicI64::new((self.entropy.number() % 60) as i64));
        let reached = Arc::clone(&self.reached);
        let points = CrashPoints::with(move |name| {
            let dies = left.fetch_sub(1, Ordering::Relaxed) == 0;
            if dies {
                reached.lock().insert(name);
                death.notify_one();
            }
            async move {
                if dies {
                    std::future::pending::<()>().await;
                }
            }
        });
        let stores = std::array::from_fn::<_, 2, _>(|index| {
            let late = Late(Arc::clone(&self.faulty[index]) as Arc<dyn Store>);
            named(["a", "b"][index], Arc::new(late))
        });
        let options = Options {
            call_timeout: Duration::from_millis(30),
            deadline: Duration::from_millis(200),
            events_inline_max: 2,
            crash_points: points,
            ..Options::default()
        };
        let entropy = Entropy::seeded(self.entropy.number());
        Objects::new(stores.into(), options, self.clock.clone(), entropy).unwrap()
    }

    /// A front end over the stores as they are, with no faults.
    fn sound(&self) -> Objects {
        let stores = std::array::from_fn::<_, 2, _>(|index| {
            named(["a", "b"][index], Arc::clone(&self.inner[index]) as Arc<dyn Store>)
        });
        let options = Options::default();
        Objects::new(stores.into(), options, self.clock.clone(), Entropy::seeded(1)).unwrap()
    }

    /// One front end's life, with its clients, up to its death.
    async fn live(&self) -> Died {
        let death = Arc::new(Notify::new());
        let objects = self.mortal(Arc::clone(&death));
        let clients = (0..CLIENTS).map(|_| {
            client(
                objects.clone(),
                self.clock.clone(),
                Arc::clone(&self.log),
                Entropy::seeded(self.entropy.number()),
            )
        });
        let sweeper = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                objects.sweep().await;
            }
        };
        let life = async {
            tokio::join!(futures_util::future::join_all(clients), sweeper);
        };
        let died = tokio::select! {
            biased;
            () = life => Died::No,
            () = death.notified() => Died::Yes,
        };
        // Commits that are still on their way reach the stores before anything is compared.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.clock.advance(Duration::from_secs(1));
        died
    }

    /// All identifiers that have an item, told or not.
    async fn ids(&self) -> BTreeSet<ObjectId> {
        let mut ids = BTreeSet::new();
        for (name, store) in ["a", "b"].into_iter().zip(&self.inner) {
            for (key, _) in store.scan(&"objects/item/".into(), None, 100_000).await.unwrap() {
                let unique = std::str::from_utf8(&key).unwrap().rsplit('/').next().unwrap();
                ids.insert(format!("v1.{name}.{unique}").parse().unwrap());
            }
        }
        ids
    }

    async fn faults(&self) -> Vec<String> {
        let history = self.log.history.lock().clone();
        faults(&self.sound(), &self.ids().await, &history).await
    }
}

#[derive(PartialEq)]
enum Died {
    Yes,
    No,
}

async fn client(objects: Objects, clock: Clock, log: Arc<Log>, entropy: Entropy) {
    for _ in 0..STEPS {
        clock.advance(Duration::from_millis(1));
        let number = entropy.number();
        let attempt = log.attempts.fetch_add(1, Ordering::Relaxed);
        let key = ["red", "green", "blue"][(number >> 8) as usize % 3];
        let body = format!("{key}/{attempt}");
        let known = {
            let told = log.told.lock();
            let newest = told.len().saturating_sub(3);
            (!told.is_empty()).then(|| told[newest + (number >> 16) as usize % (told.len() - newest)].clone())
        };
        match (known, number % 10) {
            (None, _) | (_, 0..=2) => make(&objects, (&log, &clock), (number, &body, key)).await,
            (Some(id), 3..=6) => change(&objects, &log, &id, (&body, key)).await,
            (Some(id), 7) => read(&objects, &log, &id).await,
            (Some(_), 8) => look(&objects, &log, key).await,
            (Some(id), _) => erase(&objects, &log, &id).await,
        }
    }
}

async fn make(objects: &Objects, (log, clock): (&Log, &Clock), attempt: (u64, &str, &str)) {
    let (number, body, key) = attempt;
    let began = log.now();
    let mut wanted = create(body, key);
    if number % 3 == 0 {
        wanted = with_token(wanted, body);
    }
    let mut ended = objects.create(wanted.clone()).await;
    if wanted.caller.token.is_some() && matches!(ended, Err(CreateError::Unknown(_))) {
        clock.advance(Duration::from_millis(1));
        ended = objects.create(wanted).await;
    }
    match ended {
        Ok(created) => {
            log.told.lock().push(created.id.clone());
            log.note(
                began,
                Done::Created {
                    id: created.id,
                    body: body.to_owned(),
                },
            );
        }
        Err(CreateError::Unavailable(_)) if number % 3 != 0 => log.note(began, Done::Refused { body: body.to_owned() }),
        Err(_) => {}
    }
}

async fn change(objects: &Objects, log: &Log, id: &ObjectId, wanted: (&str, &str)) {
    let (body, key) = wanted;
    let began = log.now();
    let expect = match objects.get(id).await {
        Ok(object) => Expect::Version(object.version),
        Err(_) => Expect::Any,
    };
    match objects.update(update(id, expect, body, key)).await {
        Ok(version) => log.note(
            began,
            Done::Changed {
                id: id.clone(),
                version,
                body: body.to_owned(),
            },
        ),
        Err(ChangeError::Unknown(_)) => {}
        Err(_) => log.note(began, Done::Refused { body: body.to_owned() }),
    }
}

async fn read(objects: &Objects, log: &Log, id: &ObjectId) {
    let began = log.now();
    if let Ok(object) = objects.get(id).await {
        let body = String::from_utf8(object.body.to_vec()).unwrap();
        log.note(
            began,
            Done::Read {
                id: id.clone(),
                version: object.version,
                body,
            },
        );
    }
}

async fn look(objects: &Objects, log: &Log, key: &str) {
    let began = log.now();
    if let Ok(page) = objects.query(&Query::exactly("colour", key.to_owned(), 50)).await {
        for hit in page.hits {
            let key = key.to_owned();
            log.note(
                began,
                Done::Hit {
                    id: hit.id,
                    version: hit.version,
                    key,
                },
            );
        }
    }
}

async fn erase(objects: &Objects, log: &Log, id: &ObjectId) {
    let began = log.now();
    let delete = Delete {
        id: id.clone(),
        expect: Expect::Any,
        caller: Default::default(),
    };
    if let Ok(version) = objects.delete(delete).await {
        log.note(
            began,
            Done::Deleted {
                id: id.clone(),
                version,
            },
        );
    }
}

fn paused<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(future)
}

/// i-T6: a thousand front ends die, at every named point, and what they leave always agrees.
#[test]
fn a_thousand_deaths_leave_objects_events_and_index_in_agreement() {
    let (mut deaths, mut removed) = (0, 0);
    let mut reached = BTreeSet::new();
    for seed in (0..SEEDS).chain(OLD_FAULTS) {
        let world = World::new(seed);
        let (died, swept) = paused(run(&world, seed));
        deaths += died;
        removed += swept;
        reached.extend(world.reached.lock().iter().copied());
    }
    assert!(removed > 0, "without the sweep some request would have two objects");
    assert!(deaths >= 1000, "only {deaths} front ends died");
    assert_eq!(
        reached,
        CrashPoints::NAMES.iter().copied().collect(),
        "deaths at every point"
    );
}

/// How many front ends died, and how many second objects were there to be swept.
async fn run(world: &World, seed: u64) -> (u64, u64) {
    let mut deaths = 0;
    for life in 0..LIVES {
        deaths += u64::from(world.live().await == Died::Yes);
        let found = world.faults().await;
        assert!(found.is_empty(), "seed {seed}, life {life}: {found:#?}");
    }
    // With all stores well, sweeps end, and each attempt is visible at most once, those told exactly once.
    let sound = world.sound();
    let removed = sound.sweep().await.removed;
    assert_eq!(sound.sweep().await.unresolved, 0, "seed {seed}");
    let found = world.faults().await;
    assert!(found.is_empty(), "seed {seed}, swept: {found:#?}");
    let mut bodies = BTreeSet::new();
    for id in world.ids().await {
        let Ok(page) = sound.events(&id, 0, 1).await else {
            continue;
        };
        if sound.get(&id).await.is_ok() {
            let first = page.events[0].body.clone();
            assert!(bodies.insert(first.clone()), "seed {seed}: {first:?} is visible twice");
        }
    }
    let history = world.log.history.lock().clone();
    for record in history {
        if let Done::Created { id, .. } = record.done {
            let events = sound.events(&id, 0, 1000).await.unwrap().events;
            let swept = events.iter().any(|event| event.by == "bowline/sweeper");
            assert!(!swept, "seed {seed}: {id} was told, and swept");
        }
    }
    (deaths, removed)
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        let world = World::new(seed);
        paused(run(&world, seed));
        format!("{:?}", world.log.history.lock())
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(5));
}

/// A world whose history is sound, with an object that has had several versions in store `a`.
async fn settled_world() -> (World, ObjectId) {
    let world = World::new(2);
    let objects = world.sound();
    let id = loop {
        let created = objects.create(create("red/first", "red")).await.unwrap();
        if created.id.store.as_str() == "a" {
            break created.id;
        }
        let delete = Delete {
            id: created.id,
            expect: Expect::Any,
            caller: Default::default(),
        };
        objects.delete(delete).await.unwrap();
    };
    for number in 1..=20 {
        let body = format!("blue/{number}");
        objects
            .update(update(&id, Expect::Version(number), &body, "blue"))
            .await
            .unwrap();
    }
    assert_eq!(world.faults().await, Vec::<String>::new());
    (world, id)
}

async fn check_fires(world: &World, expected: &str) {
    let found = world.faults().await.join("\n");
    assert!(found.contains(expected), "expected `{expected}` in: {found}");
}

#[tokio::test]
async fn control_a_lost_event_is_found_out() {
    let (world, _) = settled_world().await;
    let nodes = world.inner[0].scan(&"objects/events/".into(), None, 1).await.unwrap();
    world.inner[0]
        .commit(vec![], vec![Write::Delete(nodes[0].0.clone())])
        .await
        .unwrap();
    check_fires(&world, "is missing").await;
}

#[tokio::test]
async fn control_a_lost_index_entry_is_found_out() {
    let (world, _) = settled_world().await;
    let entries = world.inner[0].scan(&"objects/index/".into(), None, 9).await.unwrap();
    let deletes = entries.into_iter().map(|(key, _)| Write::Delete(key)).collect();
    world.inner[0].commit(vec![], deletes).await.unwrap();
    check_fires(&world, "`blue` finds []").await;
}

#[tokio::test]
async fn control_a_lost_change_and_a_double_one_are_found_out() {
    let (world, id) = settled_world().await;
    let key = Key::from(format!("objects/item/{}", id.unique));
    let before = world.inner[0].get(&key).await.unwrap().unwrap();
    let objects = world.sound();
    let version = objects
        .update(update(&id, Expect::Any, "blue/20", "blue"))
        .await
        .unwrap();
    check_fires(&world, "was applied twice").await;
    let done = Done::Changed {
        id: id.clone(),
        version,
        body: "blue/20".to_owned(),
    };
    world.log.note(0, done);
    world.inner[0]
        .commit(vec![], vec![Write::Put(key, before.value)])
        .await
        .unwrap();
    check_fires(&world, "do not bear out").await;
}

#[tokio::test]
async fn control_false_hits_and_turned_order_are_found_out() {
    let (world, id) = settled_world().await;
    world.log.note(
        0,
        Done::Hit {
            id: id.clone(),
            version: 21,
            key: "red".to_owned(),
        },
    );
    check_fires(&world, "do not bear out").await;
    let began = world.log.now();
    world.log.note(
        began,
        Done::Read {
            id,
            version: 3,
            body: "blue/2".to_owned(),
        },
    );
    check_fires(&world, "was told after").await;
}

/// The beacon is what makes an index entry visible before it is written.
#[tokio::test]
async fn control_without_its_beacon_a_pending_entry_is_missed() {
    for beacon in [true, false] {
        let world = World::new(2);
        let points = CrashPoints::with(|name| async move {
            if name == "create.committed" {
                std::future::pending::<()>().await;
            }
        });
        let options = Options {
            crash_points: points,
            ..Options::default()
        };
        let stores = std::array::from_fn::<_, 2, _>(|index| {
            named(["a", "b"][index], Arc::clone(&world.inner[index]) as Arc<dyn Store>)
        });
        let objects = Objects::new(stores.into(), options, world.clock.clone(), Entropy::seeded(1)).unwrap();
        let stuck = tokio::time::timeout(Duration::from_millis(50), objects.create(create("red/1", "red"))).await;
        assert!(stuck.is_err());
        for store in &world.inner {
            for (key, _) in store.scan(&"objects/beacon/".into(), None, 9).await.unwrap() {
                if !beacon {
                    store.commit(vec![], vec![Write::Delete(key)]).await.unwrap();
                }
            }
        }
        assert_eq!(find(&world.sound(), "red").await.len(), usize::from(beacon));
    }
}

#[test]
fn errors_say_whether_a_retry_helps() {
    let unavailable = StoreError::Unavailable {
        store: "a".parse().unwrap(),
        reason: "gone".to_owned(),
    };
    assert!(unavailable.is_retryable());
    assert!(!StoreError::Unknown("a".parse().unwrap()).is_retryable());
}
