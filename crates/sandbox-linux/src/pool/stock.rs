//! Which cells wait for which runtime: the bookkeeping, without the cells. `capacity` says how many there are to be.
//!
//! ```text
//!   take ─▶ hit or miss ─▶ forecast ─▶ adjust: what each start spares, by its memory, within the budget ─▶ start, retire
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_capacity::worker::{
    AfterItem, Assigned, DemandForecast, FunctionType, Reservation, ReservationPolicy, Step, WorkerId, WorkerPool,
};
use bowline_foundation::clock::Timestamp;
use bowline_foundation::units::Mebibytes;

/// How far ahead demand is expected.
const HORIZON: Duration = Duration::from_secs(60);
/// Cells for each that is expected to be taken within that: one is back long before the next is taken, but for bursts.
const CELLS_PER_TAKE: f64 = 0.25;
/// A cell that is one too many is given up once it has waited so long.
const SURPLUS_IDLE_MAX: Duration = Duration::from_secs(60);
/// Cells of one runtime, unless more are to be there in any case.
const COUNT_MAX: u32 = 16;
/// What a cell is taken to use before one was seen.
const UNSEEN_MEMORY: Mebibytes = Mebibytes(16);
/// What an ordinary start takes: the worth of others is counted in such.
const ORDINARY_START: Duration = Duration::from_millis(100);
/// Starts count between these shares of an ordinary one.
const START_COSTS: (f64, f64) = (0.1, 10.0);

/// How many cells may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Cells of each runtime in use, whatever the demand; zero keeps none at all.
    pub count_min: u32,
    /// What all that wait may use together; those that are worth most come first.
    pub budget: Mebibytes,
}

/// What is known of a cell that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub memory: Mebibytes,
    pub start: Duration,
}

/// What brings the cells to their numbers.
pub(super) struct Changes<C> {
    /// Runtimes by name, with whom the cell is for.
    pub start: Vec<(String, WorkerId)>,
    pub retire: Vec<C>,
}

/// The waiting cells of all runtimes.
pub(super) struct Stock<C> {
    reserve: Reserve,
    workers: WorkerPool<()>,
    demand: DemandForecast,
    /// Runtimes by their number.
    kinds: Vec<Kind<C>>,
    is_closed: bool,
}

struct Kind<C> {
    name: String,
    ready: BTreeMap<WorkerId, C>,
    facts: Facts,
}

impl<C> Stock<C> {
    pub fn new(reserve: Reserve) -> Self {
        Self {
            reserve,
            workers: WorkerPool::new(policy(reserve, &[] as &[Kind<C>])),
            demand: DemandForecast::default(),
            kinds: Vec::new(),
            is_closed: false,
        }
    }

    /// Changes how many may wait, from the next [`Self::adjust`] on. What is in use goes on.
    pub fn set_reserve(&mut self, reserve: Reserve) {
        self.reserve = reserve;
    }

    /// Begins to keep cells of a runtime.
    pub fn keep(&mut self, name: &str) {
        if self.number(name).is_none() {
            self.kinds.push(Kind {
                name: name.to_owned(),
                ready: BTreeMap::new(),
                facts: Facts {
                    memory: UNSEEN_MEMORY,
                    start: ORDINARY_START,
                },
            });
        }
    }

    fn number(&self, name: &str) -> Option<FunctionType> {
        let at = self.kinds.iter().position(|kind| kind.name == name)?;
        u32::try_from(at).ok().map(FunctionType)
    }

    /// Takes a cell of a runtime for a sandbox, if one that lives is ready. Either way it is known that one was wanted.
    pub fn take(&mut self, name: &str, now: Timestamp, mut lives: impl FnMut(&mut C) -> bool) -> Option<C> {
        let number = self.number(name)?;
        loop {
            let item = self.workers.item(number, ());
            let Assigned::Hit { worker, .. } = self.workers.assign(item) else {
                self.demand.missed(number, now);
                return None;
            };
            let cell = self.kinds[number.0 as usize].ready.remove(&worker);
            match cell.map(|mut cell| (lives(&mut cell), cell)) {
                Some((true, cell)) => {
                    // From here on it is a sandbox: nobody gives it back.
                    self.workers.done(worker, now);
                    self.demand.arrived(number, now);
                    return Some(cell);
                }
                _ => self.forget(worker),
            }
        }
    }

    /// Whether no cell of a runtime is ready, but one is on its way.
    pub fn is_pending(&self, name: &str) -> bool {
        self.number(name)
            .is_some_and(|number| self.kinds[number.0 as usize].ready.is_empty() && self.workers.idle(number) > 0)
    }

    /// Cells of a runtime that are ready.
    pub fn ready(&self, name: &str) -> usize {
        self.number(name)
            .map_or(0, |number| self.kinds[number.0 as usize].ready.len())
    }

    /// Times that none was ready.
    pub fn misses(&self) -> u64 {
        self.demand.misses()
    }

    /// What is to be made and given up.
    pub fn adjust(&mut self, now: Timestamp) -> Changes<C> {
        let mut changes = Changes {
            start: Vec::new(),
            retire: Vec::new(),
        };
        if self.is_closed {
            return changes;
        }
        self.workers.set_policy(policy(self.reserve, &self.kinds));
        let expected = self.demand.expected(now, HORIZON);
        for step in self.workers.adjust(&expected, now) {
            match step {
                Step::Start { worker, function_type } => {
                    let name = self.kinds[function_type.0 as usize].name.clone();
                    changes.start.push((name, worker));
                }
                Step::Retire { worker } => {
                    let mut kinds = self.kinds.iter_mut();
                    changes.retire.extend(kinds.find_map(|kind| kind.ready.remove(&worker)));
                }
                // None is used twice.
                Step::Wipe { .. } => {}
            }
        }
        changes
    }

    /// A cell has come; it is given back if nobody wants it any more.
    pub fn came(&mut self, name: &str, worker: WorkerId, (cell, facts): (C, Facts), now: Timestamp) -> Option<C> {
        let number = self.number(name).filter(|_| !self.is_closed);
        let Some(number) = number else { return Some(cell) };
        let kind = &mut self.kinds[number.0 as usize];
        // All of a runtime are alike, but for what the one has loaded that the other has not yet.
        kind.facts = Facts {
            memory: kind.facts.memory.max(facts.memory),
            ..facts
        };
        kind.ready.insert(worker, cell);
        self.workers.ready(worker, now);
        None
    }

    /// A cell could not be made.
    pub fn failed(&mut self, worker: WorkerId) {
        self.forget(worker);
    }

    /// Its item is the caller's, who has somebody else make a cell.
    fn forget(&mut self, worker: WorkerId) {
        let _item = self.workers.crashed(worker);
    }

    /// Keeps no more; returns what waits.
    pub fn close(&mut self) -> Vec<C> {
        self.is_closed = true;
        let ready = self.kinds.iter_mut().map(|kind| std::mem::take(&mut kind.ready));
        ready.flat_map(BTreeMap::into_values).collect()
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

fn policy<C>(reserve: Reserve, kinds: &[Kind<C>]) -> ReservationPolicy {
    let count_max = match reserve.count_min {
        0 => 0,
        count_min => count_min.max(COUNT_MAX),
    };
    let (least, most) = START_COSTS;
    let reservation = |kind: &Kind<C>| Reservation {
        count_min: reserve.count_min,
        count_max,
        per_request: CELLS_PER_TAKE,
        memory: kind.facts.memory.max(Mebibytes(1)),
        start_cost: (kind.facts.start.as_secs_f64() / ORDINARY_START.as_secs_f64()).clamp(least, most),
    };
    ReservationPolicy {
        types: (0..).map(FunctionType).zip(kinds.iter().map(reservation)).collect(),
        horizon: HORIZON,
        idle_max: SURPLUS_IDLE_MAX,
        budget: reserve.budget,
        after_item: AfterItem::Destroy,
    }
}

#[cfg(test)]
mod tests;
