//! Objects over independent stores: a create takes whichever store is up, and the identifier says which.
//!
//! ```text
//!            draw by weight            one commit                         later, by anyone
//!   create ────────────────▶ store ── object + event + pending index ──▶ index entries written, pending struck
//!   get, update, delete ───▶ the store that the identifier names, and no other
//!   query ─────────────────▶ all stores at once: beacons, then index; every candidate is checked against its object
//! ```
//!
//! The conditional write of the item is the commit point. Every other write may come late, twice or from a
//! process that stood still meanwhile without doing harm, so nothing here takes a lock or a lease. The
//! writes of one commit are listed in an order in which a store that knows only single keys could carry
//! them out one by one.

mod backend;
mod change;
mod codec;
mod create;
mod detector;
mod error;
mod events;
mod id;
mod keys;
mod model;
mod query;
mod recall;
mod record;
mod settle;
mod steps;
mod sweep;

pub use codec::RecordError;
pub use detector::{Detector, DetectorOptions, Health, Outcome, pick};
pub use error::{ChangeError, CreateError, GetError, InvalidRequest, QueryError, SetupError, StoreError};
pub use id::{InvalidId, ObjectId, StoreName, Unique};
pub use model::*;
pub use steps::CrashPoints;

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use parking_lot::Mutex;

use self::backend::{Backend, Deadline};
use self::recall::Recall;
use self::record::State;
use crate::Store;

/// The numbers of a front end.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time of one call to one store.
    pub call_timeout: Duration,
    /// Longest time of one operation, retries included.
    pub deadline: Duration,
    /// How often a store that is not up, or quiet, is probed.
    pub probe_interval: Duration,
    /// How often second objects of one request are looked for.
    pub sweep_interval: Duration,
    /// How many creates with a token are remembered: their answers, and what may still come of them.
    pub answers_max: usize,
    /// Most events that an item carries, and their most bytes; earlier events move into nodes.
    pub events_inline_max: usize,
    pub events_inline_bytes_max: usize,
    pub detector: DetectorOptions,
    pub crash_points: CrashPoints,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
            probe_interval: Duration::from_secs(1),
            sweep_interval: Duration::from_secs(60),
            answers_max: 10_000,
            events_inline_max: 8,
            events_inline_bytes_max: 32 * 1024,
            detector: DetectorOptions::default(),
            crash_points: CrashPoints::default(),
        }
    }
}

/// One of the independent stores.
#[derive(Clone)]
pub struct NamedStore {
    pub name: StoreName,
    pub store: Arc<dyn Store>,
}

/// How a store does, for `bowline stores status`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreStatus {
    pub store: StoreName,
    /// The share of creates it gets.
    pub weight: f64,
    pub health: Health,
    /// Since when the health is what it is.
    pub since: Timestamp,
    /// Over the detector's window; none without calls in it.
    pub error_rate: Option<f64>,
    pub latency: Option<Duration>,
    /// Objects here whose losers in other stores are not known to be gone; none if it could not be asked.
    pub unresolved_supersedes: Option<u64>,
}

/// What a front end has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectsMetrics {
    pub created: u64,
    /// Creates that needed another store than the first one drawn.
    pub create_retries: u64,
    /// Creates whose outcome in a store was unknown, each an object that may have to be swept.
    pub creates_in_doubt: u64,
    pub double_visible_removed: u64,
    pub double_visible_max: Duration,
    pub stale_entries_removed: u64,
}

/// The front end: stateless but for its judgement of the stores; cheap to clone.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    backends: Vec<Backend>,
    options: Options,
    clock: Clock,
    entropy: Entropy,
    recall: Mutex<Recall>,
    metrics: Mutex<ObjectsMetrics>,
    swept: Mutex<bowline_foundation::clock::Monotonic>,
    /// Whether each store was judged down at the last tick.
    were_down: Mutex<Vec<bool>>,
}

impl Objects {
    /// A front end over these stores. More may be added with the next start; names must never change hands.
    pub fn new(stores: Vec<NamedStore>, options: Options, clock: Clock, entropy: Entropy) -> Result<Self, SetupError> {
        if stores.len() < 2 {
            return Err(SetupError::TooFew(stores.len()));
        }
        for (index, named) in stores.iter().enumerate() {
            if stores[..index].iter().any(|other| other.name == named.name) {
                return Err(SetupError::Twice(named.name.clone()));
            }
        }
        let share = 1.0 / stores.len() as f64;
        let policy = || (options.detector.clone(), share, options.call_timeout);
        let backends = stores
            .into_iter()
            .map(|named| Backend::new(named.name, named.store, clock.clone(), policy()))
            .collect();
        let answers_max = options.answers_max;
        Ok(Self(Arc::new(Inner {
            backends,
            swept: Mutex::new(clock.monotonic()),
            were_down: Mutex::default(),
            options,
            clock,
            entropy,
            recall: Mutex::new(Recall::new(answers_max)),
            metrics: Mutex::default(),
        })))
    }

    /// The object as it is now.
    pub async fn get(&self, id: &ObjectId) -> Result<Object, GetError> {
        let backend = self.backend(&id.store)?;
        let found = backend.item(id.unique, self.deadline()).await?;
        let item = found.map(|found| found.item).filter(|item| item.state == State::Live);
        let item = item.ok_or(GetError::NotFound)?;
        let changed_at = item
            .events
            .last()
            .map_or(item.created_at_micros, |event| event.at_micros);
        let indexes = item.indexes.into_iter();
        Ok(Object {
            id: id.clone(),
            version: item.version,
            body: item.body,
            indexes: indexes
                .map(|each| IndexKey {
                    index: each.index,
                    key: each.key,
                })
                .collect(),
            created_at: Timestamp::from_micros(item.created_at_micros),
            changed_at: Timestamp::from_micros(changed_at),
        })
    }

    /// How every store does, in the order in which they were given.
    pub async fn status(&self) -> Vec<StoreStatus> {
        let until = self.deadline();
        let ask = self.0.backends.iter().map(|backend| async move {
            let unresolved = backend.scan_all(keys::SWEEPS, until).await.ok();
            let now = self.0.clock.monotonic();
            backend.judge(|detector, since| StoreStatus {
                store: backend.name.clone(),
                weight: detector.weight(),
                health: detector.health(),
                since,
                error_rate: detector.error_rate(now),
                latency: detector.latency(now),
                unresolved_supersedes: unresolved.map(|records| records.len() as u64),
            })
        });
        futures_util::future::join_all(ask).await
    }

    /// What this front end has done so far.
    pub fn metrics(&self) -> ObjectsMetrics {
        *self.0.metrics.lock()
    }

    /// Probes and sweeps for ever; the one task that a node runs beside its requests. Drop it to stop.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(self.0.options.probe_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tick().await;
        }
    }

    /// One turn of [`Objects::run`]: probes the stores that need it, and sweeps if the time has come or a
    /// store has come back, where creates in doubt may have left second objects.
    pub async fn tick(&self) {
        self.probe().await;
        let is_back = self.has_come_back();
        let now = self.0.clock.monotonic();
        let due = {
            let mut swept = self.0.swept.lock();
            let due = is_back || now.since(*swept) >= self.0.options.sweep_interval;
            if due {
                *swept = now;
            }
            due
        };
        if due {
            self.sweep().await;
        }
    }

    /// Whether a store that was down at the last tick answers now.
    fn has_come_back(&self) -> bool {
        let is_down = |backend: &Backend| backend.judge(|detector, _| detector.health() == Health::Down);
        let are_down: Vec<bool> = self.0.backends.iter().map(is_down).collect();
        let mut were_down = self.0.were_down.lock();
        let is_back = were_down.iter().zip(&are_down).any(|(was, is)| *was && !is);
        *were_down = are_down;
        is_back
    }

    async fn probe(&self) {
        let (now, until) = (self.0.clock.monotonic(), self.deadline());
        let needs = |backend: &&Backend| {
            backend.judge(|detector, _| {
                let quiet = |last| now.since(last) >= self.0.options.probe_interval;
                detector.health() != Health::Up || detector.last_call().is_none_or(quiet)
            })
        };
        let probes = self.0.backends.iter().filter(needs).map(|backend| backend.probe(until));
        futures_util::future::join_all(probes).await;
    }

    fn backend(&self, name: &StoreName) -> Result<&Backend, StoreError> {
        let found = self.0.backends.iter().find(|backend| backend.name == *name);
        found.ok_or_else(|| StoreError::Unknown(name.clone()))
    }

    fn deadline(&self) -> Deadline {
        Deadline::within(self.0.options.deadline)
    }

    fn count(&self, change: impl FnOnce(&mut ObjectsMetrics)) {
        change(&mut self.0.metrics.lock());
    }

    async fn reach(&self, step: &'static str) {
        self.0.options.crash_points.reach(step).await;
    }

    fn random_number(&self) -> u128 {
        u128::from(self.0.entropy.number()) << 64 | u128::from(self.0.entropy.number())
    }
}
