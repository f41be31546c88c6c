//! Random workers over two nodes and a faulty store, held against a simple model: what an outsider may see.
//!
//! Everything comes from one seed: the workers' choices, the tokens, the faults, the delays. Rules:
//!
//!  1. An event that was acknowledged never comes again, and no two leases hold one event at a time.
//!  2. First attempts, in the order of their numbers, are in the stream's order, and without an order per
//!     key or lost replies between them contiguous; a read that began after another ended gets a greater
//!     number. So the cursor is one register, and never goes back.
//!  3. With an order per key no event comes while an earlier one of its key is neither settled nor in the
//!     same set.
//!  4. At most once: no event comes twice. At least once: in the end every event is acknowledged or parked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::entropy::Entropy;
use bowline_store::{
    CommitError, Condition, Entry, FaultRates, FaultyStore, Key, MemoryStore, ReadError, Store, Version, Write,
};
use bowline_stream::Position;
use bowline_stream::session::{
    self, Batch, BatchToken, Failed, Handle, Mode, Order, Outcome, ReadRequest, Retry, Service, SessionId, Settings,
    SettleError,
};

use crate::world::{World, at_most, numbers, options, seconds};

const SEEDS: u64 = 12;
const STEPS: usize = 250;
const LEASE: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 3;
const KEYS: u64 = 4;

#[tokio::test(start_paused = true)]
async fn random_workers_see_what_the_model_permits() {
    let (mut sets, mut parked, mut again, mut done) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        for (mode, order) in [
            (Mode::AtLeastOnce, Order::Free),
            (Mode::AtLeastOnce, Order::PerKey),
            (Mode::AtMostOnce, Order::Free),
        ] {
            let run = Run::new(seed, mode, order, Conditions::Kept).await.finish().await;
            assert_eq!(run.violations, Vec::<String>::new(), "seed {seed}, {mode:?}, {order:?}");
            sets += run.first.len();
            parked += run.parked.len();
            again += run.again;
            done += run.done_by_reads;
        }
    }
    assert!(
        sets > 1000 && parked > 10 && again > 100 && done > 100,
        "{sets} sets, {parked} parked, {again} again, {done} acknowledged by reads"
    );
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_history() {
    let history = async |seed| {
        let run = Run::new(seed, Mode::AtLeastOnce, Order::PerKey, Conditions::Kept).await;
        run.finish().await.history
    };
    assert_eq!(history(7).await, history(7).await);
    assert_ne!(history(7).await, history(8).await);
}

/// Control: over a store that forgets the conditions of commits, the model notices.
#[tokio::test(start_paused = true)]
async fn control_a_store_without_conditions_is_found_out() {
    let mut found = 0;
    for seed in 0..SEEDS {
        let run = Run::new(seed, Mode::AtMostOnce, Order::Free, Conditions::Forgotten).await;
        found += run.finish().await.violations.len();
    }
    assert!(found > 0);
}

/// Control: of a session that keeps no order per key, the model notices that.
#[tokio::test(start_paused = true)]
async fn control_a_session_without_order_is_found_out() {
    let mut run = Run::new(1, Mode::AtLeastOnce, Order::Free, Conditions::Kept).await;
    run.order = Order::PerKey;
    assert!(
        run.finish()
            .await
            .violations
            .iter()
            .any(|text| text.contains("was settled"))
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Conditions {
    Kept,
    Forgotten,
}

struct Forgetful(MemoryStore);

#[async_trait]
impl Store for Forgetful {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.0.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, _: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        self.0.commit(Vec::new(), writes).await
    }
}

/// A set that a worker holds.
#[derive(Clone)]
struct Held {
    token: BatchToken,
    events: Vec<(u64, Position)>,
    until: Timestamp,
}

struct Run {
    world: World,
    sound: Arc<dyn Store>,
    faulty: Arc<dyn Store>,
    nodes: Vec<Service>,
    session: SessionId,
    mode: Mode,
    order: Order,
    dice: Entropy,
    appended: u64,
    held: Vec<Held>,
    /// Acknowledged, or perhaps: the service could not say.
    done: BTreeSet<u64>,
    perhaps_done: BTreeSet<u64>,
    /// Sets that were acknowledged by the read of another one.
    done_by_reads: usize,
    parked: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    /// The events of first attempts by the number of their set.
    first: BTreeMap<u64, Vec<u64>>,
    again: usize,
    cursor: Position,
    history: Vec<String>,
    violations: Vec<String>,
}

impl Run {
    async fn new(seed: u64, mode: Mode, order: Order, conditions: Conditions) -> Self {
        let sound: Arc<dyn Store> = match conditions {
            Conditions::Kept => Arc::new(MemoryStore::default()),
            Conditions::Forgotten => Arc::new(Forgetful(MemoryStore::default())),
        };
        let world = World::over(Arc::clone(&sound));
        let rates = FaultRates {
            fail_before: 0.05,
            lose_reply: 0.05,
            delay: 0.3,
            delay_max: Duration::from_millis(20),
        };
        let faulty: Arc<dyn Store> = Arc::new(FaultyStore::new(
            Arc::clone(&sound),
            rates,
            Entropy::seeded(seed + 1000),
        ));
        let settings = Settings {
            mode,
            order,
            lease: LEASE,
            attempts_max: Some(ATTEMPTS_MAX),
            ..Settings::default()
        };
        let mut run = Self {
            session: world.session(settings).await,
            nodes: Vec::new(),
            world,
            sound,
            faulty,
            mode,
            order,
            dice: Entropy::seeded(seed),
            appended: 0,
            held: Vec::new(),
            done: BTreeSet::new(),
            perhaps_done: BTreeSet::new(),
            done_by_reads: 0,
            parked: BTreeSet::new(),
            delivered: BTreeSet::new(),
            first: BTreeMap::new(),
            again: 0,
            cursor: Position::START,
            history: Vec::new(),
            violations: Vec::new(),
        };
        run.nodes = vec![run.node(), run.node()];
        run
    }

    fn node(&self) -> Service {
        let entropy = Entropy::seeded(self.dice.number());
        Service::start(options(&self.world.clock, &entropy, &self.faulty, &self.world.log))
    }

    fn roll(&self, sides: u64) -> u64 {
        self.dice.number() % sides
    }

    async fn finish(mut self) -> Self {
        for _ in 0..STEPS {
            self.step().await;
        }
        self.heal().await;
        self.check_first_attempts();
        self.check_nothing_lost();
        self
    }

    async fn step(&mut self) {
        match self.roll(12) {
            0 | 1 => (0..=self.roll(3)).for_each(|_| self.append()),
            2..=5 => self.read_at_both().await,
            6..=8 => self.settle().await,
            9 => self.world.clock.advance(Duration::from_millis(self.roll(12_000))),
            10 => self.check_cursor().await,
            _ => {
                let node = self.node();
                let dead = std::mem::replace(&mut self.nodes[0], node);
                dead.shut_down().await;
            }
        }
    }

    fn append(&mut self) {
        self.appended += 1;
        let key = format!("k{}", self.appended % KEYS);
        self.world.log.append(Some(&key), self.appended.to_string());
    }

    /// Two workers read at the same time, each at its own node; the first one may acknowledge a set by that.
    async fn read_at_both(&mut self) {
        let done = match self.roll(2) {
            0 if !self.held.is_empty() => {
                let index = usize::try_from(self.roll(self.held.len() as u64)).unwrap();
                Some(self.held.swap_remove(index))
            }
            _ => None,
        };
        let [one, two] = [0, 1].map(|node: usize| self.nodes[node].handle());
        let limits = [1 + self.roll(4), 1 + self.roll(4)].map(|limit| usize::try_from(limit).unwrap());
        let before = self.first.keys().next_back().copied().unwrap_or(0);
        let now = self.world.clock.now();
        let (one, two) = tokio::join!(
            one.read(
                &self.session,
                ReadRequest {
                    done: done.as_ref().map(|held| held.token),
                    ..at_most(limits[0])
                }
            ),
            two.read(&self.session, at_most(limits[1]))
        );
        self.note_parked().await;
        if let Some(held) = done {
            self.note_done(&held, one.as_ref().err());
        }
        for got in [one, two] {
            match got {
                Ok(Some(batch)) => self.receive(&batch, before, now),
                Ok(None) => self.history.push("nothing".to_owned()),
                Err(error) => self.history.push(error.to_string()),
            }
        }
    }

    /// What a read that said that a set is processed tells of it.
    fn note_done(&mut self, held: &Held, error: Option<&session::ReadError>) {
        let events = held.events.iter().map(|(number, _)| *number);
        match error {
            None => {
                self.done_by_reads += 1;
                self.done.extend(events);
            }
            Some(session::ReadError::StaleToken(_)) if self.world.clock.now() < held.until => {
                self.violations
                    .push(format!("{} was stale within its lease", held.token));
            }
            Some(session::ReadError::StaleToken(_)) => {}
            Some(_) => self.perhaps_done.extend(events),
        }
    }

    fn receive(&mut self, batch: &Batch, before: u64, now: Timestamp) {
        let events = numbers(batch);
        self.history
            .push(format!("{} attempt {}: {events:?}", batch.batch, batch.attempt));
        for event in &events {
            if self.done.contains(event) {
                self.violations
                    .push(format!("{event} came again after its acknowledgement"));
            }
            if self.mode == Mode::AtMostOnce && self.delivered.contains(event) {
                self.violations.push(format!("{event} came twice"));
            }
            let holds = |held: &&Held| held.until > now && held.events.iter().any(|(number, _)| number == event);
            if self.held.iter().any(|held| holds(&held)) {
                self.violations.push(format!("{event} is in flight twice"));
            }
        }
        if batch.attempt == 1 {
            if batch.batch <= before {
                self.violations
                    .push(format!("set {} came after set {before}", batch.batch));
            }
            if self.first.insert(batch.batch, events.clone()).is_some() {
                self.violations.push(format!("set {} came first twice", batch.batch));
            }
        } else {
            self.again += 1;
        }
        self.check_keys(&events);
        self.delivered.extend(&events);
        if let Some(token) = batch.token {
            let places = batch.events.iter().map(|event| event.position);
            self.held.push(Held {
                token,
                events: events.into_iter().zip(places).collect(),
                until: batch.lease_until.unwrap(),
            });
        }
    }

    /// Rule 3.
    fn check_keys(&mut self, events: &[u64]) {
        if self.order == Order::Free {
            return;
        }
        for (index, event) in events.iter().enumerate() {
            let earlier = (1..*event).filter(|other| other % KEYS == event % KEYS);
            let open = |other: &u64| {
                let settled = self.done.contains(other) || self.perhaps_done.contains(other);
                !settled && !events[..index].contains(other) && !self.parked.contains(other)
            };
            if let Some(other) = earlier.into_iter().find(open) {
                self.violations.push(format!("{event} came before {other} was settled"));
            }
        }
    }

    async fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let held = self
            .held
            .swap_remove(usize::try_from(self.roll(self.held.len() as u64)).unwrap());
        let failed = match self.roll(4) {
            0 => Some(Failed::All),
            1 => Some(Failed::From(held.events[held.events.len() / 2].1)),
            2 => Some(Failed::Only(vec![held.events[0].1])),
            _ => None,
        };
        let good: BTreeSet<u64> = match &failed {
            None => held.events.iter().map(|(number, _)| *number).collect(),
            Some(Failed::All) => BTreeSet::new(),
            Some(Failed::From(_)) => held.events[..held.events.len() / 2]
                .iter()
                .map(|event| event.0)
                .collect(),
            Some(Failed::Only(_)) => held.events[1..].iter().map(|event| event.0).collect(),
        };
        let outcome = failed.map_or(Outcome::Done, |events| Outcome::Failed {
            events,
            retry: Retry::After(Duration::from_millis(self.dice.number() % 5000)),
            reason: "model".to_owned(),
        });
        let node = self.nodes[usize::try_from(self.roll(2)).unwrap()].handle();
        let settled = node.settle(&self.session, held.token, outcome).await;
        self.history
            .push(format!("{} settled: {:?}", held.token, settled.as_ref().err()));
        match settled {
            Ok(()) => self.done.extend(good),
            Err(SettleError::RetryLater(_)) => self.perhaps_done.extend(good),
            Err(SettleError::StaleToken(_)) if self.world.clock.now() < held.until => {
                self.violations
                    .push(format!("{} was stale within its lease", held.token));
            }
            Err(SettleError::StaleToken(_)) => {}
            Err(error) => self.violations.push(error.to_string()),
        }
        self.note_parked().await;
    }

    /// Rule 2: never back.
    async fn check_cursor(&mut self) {
        if let Ok(shown) = self.nodes[1].handle().show(&self.session).await {
            if shown.cursor < self.cursor {
                self.violations.push("the cursor went back".to_owned());
            }
            self.cursor = shown.cursor;
        }
    }

    async fn note_parked(&mut self) {
        let places = self.world.handle.parked(&self.session, None).await.unwrap();
        let events = places.iter().flat_map(|set| &set.events);
        self.parked.extend(events.map(|place| self.world.log.number_at(*place)));
    }

    /// The store works again; everything that is left is read and acknowledged.
    async fn heal(&mut self) {
        let entropy = Entropy::seeded(self.dice.number());
        let sound = options(&self.world.clock, &entropy, &self.sound, &self.world.log);
        let node = Service::start(sound);
        let handle: Handle = node.handle();
        for _ in 0..4 {
            self.world.clock.advance(LEASE + seconds(5));
            loop {
                self.note_parked().await;
                let before = self.first.keys().next_back().copied().unwrap_or(0);
                let now = self.world.clock.now();
                let Some(batch) = handle.read(&self.session, at_most(3)).await.unwrap() else {
                    break;
                };
                self.note_parked().await;
                self.receive(&batch, before, now);
                let Some(token) = batch.token else { continue };
                handle.ack(&self.session, token).await.unwrap();
                self.done.extend(numbers(&batch));
            }
        }
        self.note_parked().await;
    }

    /// Rule 2: each set goes on after the one before; gaps are replies that were lost.
    fn check_first_attempts(&mut self) {
        let sets: Vec<(&u64, &Vec<u64>)> = self.first.iter().collect();
        let mut wrong = Vec::new();
        for (batch, events) in &sets {
            let contiguous = events.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if self.order == Order::Free && !contiguous {
                wrong.push(format!("set {batch} has gaps: {events:?}"));
            }
        }
        for pair in sets.windows(2) {
            let ((batch, events), (next_batch, next_events)) = (pair[0], pair[1]);
            let (last, first) = (events.last().unwrap(), next_events.first().unwrap());
            let follows = if *next_batch == batch + 1 {
                *first == last + 1
            } else {
                first > last
            };
            if self.order == Order::Free && !follows {
                wrong.push(format!(
                    "set {next_batch} begins at {first}, set {batch} ended at {last}"
                ));
            }
        }
        self.violations.extend(wrong);
    }

    /// Rule 4.
    fn check_nothing_lost(&mut self) {
        if self.mode == Mode::AtMostOnce {
            return;
        }
        let settled =
            |event: &u64| self.done.contains(event) || self.perhaps_done.contains(event) || self.parked.contains(event);
        let lost: Vec<u64> = (1..=self.appended).filter(|event| !settled(event)).collect();
        self.violations
            .extend(lost.into_iter().map(|event| format!("{event} is lost")));
    }
}
