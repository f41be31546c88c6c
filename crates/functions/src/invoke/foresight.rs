//! The node's side of the keeper: what it sees of the calls, and what becomes of the sandboxes.
//!
//! ```text
//!   invocation ─▶ counts of its pool, under the lock that it takes anyway
//!   minute ─▶ turn: the pools' counts ─▶ capacity::keeper ─▶ start ahead │ drop
//!   no room ─▶ victim: the idle sandbox that is worth least
//! ```
//! An invocation that finds a warm sandbox does not come here. What was learnt is kept over a restart: see [`kept`].

mod kept;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bowline_capacity::forecast::{FunctionIndex, Trigger};
use bowline_capacity::keeper::{Change, Keeper, Kept as Judged, Standing, Terms};
use bowline_capacity::slot::Slot as Minute;
use bowline_foundation::clock::Timestamp;
use bowline_sandbox::Site;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::create::create_ahead;
use super::fleets::Tally;
use super::pool::{Kept, Pool, Slot};
use super::room::Room;
use crate::metrics::KeeperMetrics;
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// How often it is looked whether a minute has begun.
const TICK: Duration = Duration::from_millis(500);
/// Sandboxes that are started ahead of their calls at once.
const STARTING_MAX: usize = 4;
/// What an ordinary start takes: the price of memory is counted in such.
const ORDINARY_START: Duration = Duration::from_millis(100);
/// Starts count between these shares of an ordinary one.
const START_COSTS: (f32, f32) = (0.1, 10.0);
/// Memory that nobody else wants is cheap, but never cheaper than this share of its full price.
const SCARCITY_MIN: f32 = 0.01;

/// Which sandboxes are started before a call, which are dropped, and which make room.
pub(crate) struct Foresight {
    room: Arc<Room>,
    state: Mutex<State>,
    pub arrivals: Arc<Arrivals>,
    /// Up to where it was told how often versions were called.
    pub tally: Mutex<Tally>,
    permits: Semaphore,
    pub metrics: KeeperMetrics,
}

/// Pools that got a sandbox and are not taken note of yet.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<Vec<Weak<Pool>>>);

impl Arrivals {
    /// A pool has got a sandbox.
    pub fn tell(&self, pool: &Arc<Pool>) {
        self.0.lock().push(Arc::downgrade(pool));
    }
}

struct State {
    keeper: Keeper,
    /// The places of the versions, by their ARN.
    known: HashMap<Box<str>, FunctionIndex>,
    /// By place: where the version runs now.
    pools: Vec<Weak<Pool>>,
    /// The place of the version that was met last, by the function's ARN.
    latest: HashMap<Box<str>, FunctionIndex>,
    /// The versions of which the store has a record.
    kept: HashSet<Box<str>>,
    /// Whether memories have come that nothing was done about yet.
    recalled: bool,
}

/// What a turn asks for.
pub(crate) enum Step {
    Start(Arc<Pool>),
    Drop(Arc<Pool>),
}

impl Foresight {
    pub fn new(now: Timestamp, room: Arc<Room>, metrics: KeeperMetrics) -> Self {
        let keeper = Keeper::new(terms(&room), now);
        let state = State {
            keeper,
            known: HashMap::new(),
            pools: Vec::new(),
            latest: HashMap::new(),
            kept: HashSet::new(),
            recalled: false,
        };
        Self {
            room,
            state: Mutex::new(state),
            arrivals: Arc::default(),
            tally: Mutex::new(Tally::new(now)),
            permits: Semaphore::new(STARTING_MAX),
            metrics,
        }
    }

    /// A pool has got a sandbox.
    pub fn arrived(&self, pool: &Arc<Pool>) {
        self.arrivals.tell(pool);
    }

    /// Says where the versions of a function run now.
    pub fn apply(&self, entry: &FunctionEntry) {
        let mut state = self.state.lock();
        for pool in entry.pools() {
            if let Some(place) = state.known.get(&pool.key).copied() {
                state.pools[place.0 as usize] = Arc::downgrade(pool);
            }
        }
    }

    /// Takes the idle sandbox that is worth least, whose room is needed; of those in one place where only these would help.
    pub fn victim(&self, there: Option<&Site>) -> Option<(Arc<Pool>, Slot)> {
        let mut state = self.state.lock();
        state.take_note(&self.arrivals);
        let State { keeper, pools, .. } = &mut *state;
        loop {
            let standing = |place: FunctionIndex| {
                let pool = pools[place.0 as usize].upgrade();
                pool.map_or(Standing::Cold, |pool| {
                    there.map_or_else(|| pool.standing(), |there| pool.standing_at(there))
                })
            };
            let place = match there {
                None => keeper.victim(standing)?,
                Some(_) => keeper.victim_there(standing)?,
            };
            // It may have come to be busy meanwhile.
            let Some(pool) = pools[place.0 as usize].upgrade() else {
                continue;
            };
            let Some(slot) = pool.take_oldest(there) else { continue };
            if there.is_none() && pool.standing() != Standing::Cold {
                keeper.started(place);
            }
            self.metrics.evicted.inc();
            return Some((pool, slot));
        }
    }

    /// Comes to the minute of `now`: learns from the one before, and says what is to be done.
    pub fn turn(&self, now: Timestamp) -> Vec<Step> {
        let mut state = self.state.lock();
        if Minute::of(now) <= state.keeper.forecaster().slot() {
            return Vec::new();
        }
        state.take_note(&self.arrivals);
        state.observe();
        state.keeper.set_terms(terms(&self.room));
        let changes = state.keeper.turn(now);
        state.steps(changes)
    }
}

impl State {
    fn steps(&self, changes: Vec<Change>) -> Vec<Step> {
        let step = |change| match change {
            Change::Start(place) => self.pools[place.0 as usize].upgrade().map(Step::Start),
            Change::Drop(place) => self.pools[place.0 as usize].upgrade().map(Step::Drop),
        };
        changes.into_iter().filter_map(step).collect()
    }

    fn take_note(&mut self, arrivals: &Arrivals) {
        let arrivals = std::mem::take(&mut *arrivals.0.lock());
        for pool in arrivals.iter().filter_map(Weak::upgrade) {
            let place = self.place(&pool);
            self.keeper.started(place);
        }
    }

    /// The place of a pool's version; a new version is expected to be called as the function was.
    fn place(&mut self, pool: &Arc<Pool>) -> FunctionIndex {
        if let Some(place) = self.known.get(&pool.key) {
            return *place;
        }
        let place = self.keeper.add(judged(pool));
        if let Some(before) = self.latest.insert(pool.parts.arn.clone(), place) {
            self.keeper.inherit(place, before);
        }
        self.known.insert(pool.key.clone(), place);
        let at = place.0 as usize;
        if at >= self.pools.len() {
            self.pools.resize_with(at + 1, Weak::new);
        }
        self.pools[at] = Arc::downgrade(pool);
        place
    }

    /// Tells the keeper what the pools have seen; forgets those that are gone.
    fn observe(&mut self) {
        let Self {
            keeper,
            known,
            pools,
            latest,
            ..
        } = self;
        known.retain(|_, place| match pools[place.0 as usize].upgrade() {
            Some(pool) => {
                keeper.set_kept(*place, judged(&pool));
                keeper.observe(*place, pool.observe());
                true
            }
            None => {
                keeper.remove(*place);
                latest.retain(|_, of_function| of_function != place);
                false
            }
        });
    }
}

/// The terms as scarce as memory is now.
fn terms(room: &Room) -> Terms {
    let ordinary = Terms::default();
    let share = f64::from(room.claimed().0) / f64::from(room.budget().0.max(1));
    #[allow(clippy::cast_possible_truncation, reason = "a share")]
    let scarcity = (share as f32).clamp(SCARCITY_MIN, 1.0);
    Terms {
        price: ordinary.price * scarcity,
        // What is started ahead has to be worth its full price all the same.
        start_margin: ordinary.start_margin / scarcity,
        budget: room.budget(),
    }
}

fn judged(pool: &Pool) -> Judged {
    let (least, most) = START_COSTS;
    let cost = pool.start_time().as_secs_f32() / ORDINARY_START.as_secs_f32();
    Judged {
        trigger: Trigger::Other,
        memory: pool.size(),
        start_cost: cost.clamp(least, most),
    }
}

impl Inner {
    /// Takes each minute's turn, for as long as the service lives.
    pub async fn foresee(self: Arc<Self>) {
        let mut seen = Minute::of(self.clock.now());
        let mut saved = seen;
        for step in self.foresight.consider() {
            self.take_step(step);
        }
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.clock.now();
            if Minute::of(now) <= seen {
                continue;
            }
            seen = Minute::of(now);
            let inner = self.clone();
            // Thousands of forecasts take some milliseconds.
            let steps = tokio::task::spawn_blocking(move || inner.foresight.turn(now)).await;
            for step in steps.unwrap_or_default() {
                self.take_step(step);
            }
            if seen.since(saved) >= kept::SAVED_EVERY {
                saved = seen;
                self.keep_forecasts().await;
            }
        }
    }

    fn take_step(self: &Arc<Self>, step: Step) {
        match step {
            // The last one stays where its fleet keeps it.
            Step::Drop(pool) if (pool.living() as usize) <= pool.mooring.residents() => {}
            Step::Drop(pool) => {
                if let Some(slot) = pool.take_oldest(None) {
                    self.foresight.metrics.dropped.inc();
                    self.runtime.spawn(pool.destroy(slot));
                }
            }
            Step::Start(pool) => {
                let mut tasks = self.tasks.lock();
                while tasks.try_join_next().is_some() {}
                tasks.spawn_on(start_ahead(self.clone(), pool), &self.runtime);
            }
        }
    }
}

impl Inner {
    /// Starts a sandbox of a version that is about to take over.
    pub(super) async fn start_beside(self: Arc<Self>, pool: Arc<Pool>) {
        start_ahead(self, pool).await;
    }
}

/// Starts a sandbox before it is called for, if there is room without taking it from others.
async fn start_ahead(inner: Arc<Inner>, pool: Arc<Pool>) {
    let Ok(_permit) = inner.foresight.permits.acquire().await else {
        return;
    };
    let Some(slot) = create_ahead(&inner, &pool).await else {
        return;
    };
    inner.foresight.metrics.prewarmed.inc();
    if let Kept::No(slot) = inner.sweeper.keep(&pool, slot) {
        pool.destroy(slot).await;
    }
}
