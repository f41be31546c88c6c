//! Workers: sandboxes that are ready before their request, in numbers that follow the expected demand.
//!
//! ```text
//! initialising ──▶ available ──assign──▶ busy ──done──▶ available (wiped) or retired
//!                      │                   └──crash──▶ retired; its item goes to another, once
//!                      └──surplus, idle for too long──▶ retired
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

/// A kind of worker: what it is able to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionType(pub u32);

/// One worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u64);

/// One piece of work, made of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkItem<P> {
    pub id: u64,
    pub function_type: FunctionType,
    pub params: P,
    /// Whether a worker has crashed over it already.
    pub is_second_try: bool,
}

/// How many workers of a type are held, and what they cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    pub count_min: u32,
    pub count_max: u32,
    /// Workers for each request that is expected within the horizon.
    pub per_request: f64,
    /// The limit of one worker's memory.
    pub memory: Mebibytes,
    /// How long a worker takes to be ready, as a multiple of an ordinary one.
    pub start_cost: f64,
}

/// What holds for all types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReservationPolicy {
    pub types: BTreeMap<FunctionType, Reservation>,
    /// How far ahead requests are expected.
    pub horizon: Duration,
    /// A surplus worker that has been idle for so long is retired.
    pub idle_max: Duration,
    /// The sum of all workers' limits never exceeds this.
    pub budget: Mebibytes,
    pub after_item: AfterItem,
}

/// What becomes of a worker after its item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterItem {
    /// It is wiped and serves its type again.
    #[default]
    Reuse,
    Destroy,
}

impl ReservationPolicy {
    /// How many workers of each type are to be there, if so many requests are expected within the horizon.
    ///
    /// The memory goes to who gains most by it: each further worker of a type is worth its share of the
    /// requests, times the cost of its start, by its memory.
    pub fn targets(&self, expected: &BTreeMap<FunctionType, f64>) -> BTreeMap<FunctionType, u32> {
        let mut steps: Vec<(f64, FunctionType, u32)> = Vec::new();
        for (kind, reservation) in &self.types {
            let requests = expected.get(kind).copied().unwrap_or(0.0).max(0.0);
            let wanted = reservation.wanted(requests);
            for place in 0..wanted {
                let is_reserved = place < reservation.count_min;
                let benefit = reservation.benefit(requests, place);
                steps.push((if is_reserved { f64::MAX } else { benefit }, *kind, place));
            }
        }
        steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)).then(a.1.cmp(&b.1)));
        let mut targets: BTreeMap<FunctionType, u32> = self.types.keys().map(|kind| (*kind, 0)).collect();
        let mut left = self.budget.0;
        for (_, kind, place) in steps {
            let memory = self.types[&kind].memory.0;
            let target = targets.entry(kind).or_default();
            // A type whose next worker found no room gets none of the later ones either.
            if memory <= left && *target == place {
                left -= memory;
                *target += 1;
            }
        }
        targets
    }
}

impl Reservation {
    fn wanted(&self, requests: f64) -> u32 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded, whole and not negative"
        )]
        let wanted = (requests * self.per_request).ceil().min(f64::from(self.count_max)) as u32;
        wanted.max(self.count_min).min(self.count_max)
    }

    /// What the worker at this place gains: requests come to the first ones first.
    fn benefit(&self, requests: f64, place: u32) -> f64 {
        requests / f64::from(place + 1) * self.start_cost / f64::from(self.memory.0.max(1))
    }
}

/// Expects requests: from what came lately, from misses, and from what was announced.
#[derive(Clone, Debug, Default)]
pub struct DemandForecast {
    /// Requests and misses lately.
    lately: BTreeMap<FunctionType, VecDeque<Timestamp>>,
    /// Requests by the hour of the day on the days before: a mean that fades.
    hours: BTreeMap<FunctionType, [f64; 24]>,
    open: BTreeMap<FunctionType, (u64, u32)>,
    announced: Vec<(FunctionType, Timestamp, u32)>,
    misses: u64,
}

impl DemandForecast {
    /// More arrivals than these are not remembered one by one.
    const LATELY_MAX: usize = 4096;

    /// Announces so many requests at `at`.
    pub fn announce(&mut self, kind: FunctionType, at: Timestamp, requests: u32) {
        self.announced.push((kind, at, requests));
    }

    pub fn arrived(&mut self, kind: FunctionType, now: Timestamp) {
        self.announced.retain(|(_, at, _)| *at >= now);
        let lately = self.lately.entry(kind).or_default();
        if lately.len() == Self::LATELY_MAX {
            lately.pop_front();
        }
        lately.push_back(now);
        let hour = now.as_millis() / 3_600_000;
        let open = self.open.entry(kind).or_insert((hour, 0));
        if open.0 != hour {
            let hours = self.hours.entry(kind).or_default();
            let mean = &mut hours[usize::try_from(open.0 % 24).expect("below 24")];
            *mean = if *mean > 0.0 {
                f64::midpoint(*mean, f64::from(open.1))
            } else {
                f64::from(open.1)
            };
            *open = (hour, 0);
        }
        open.1 += 1;
    }

    /// A request found no worker.
    pub fn missed(&mut self, kind: FunctionType, now: Timestamp) {
        self.misses += 1;
        self.arrived(kind, now);
    }

    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Requests of each type expected from now to the horizon.
    pub fn expected(&self, now: Timestamp, horizon: Duration) -> BTreeMap<FunctionType, f64> {
        let end = now.after(horizon);
        let kinds = self.lately.keys().chain(self.announced.iter().map(|(kind, ..)| kind));
        let mut expected: BTreeMap<FunctionType, f64> = kinds.map(|kind| (*kind, 0.0)).collect();
        for (kind, sum) in &mut expected {
            let lately = self.lately.get(kind).into_iter().flatten();
            let recent = lately.filter(|at| now.since(**at) < horizon && **at <= now).count();
            let hour = usize::try_from(end.as_millis() / 3_600_000 % 24).expect("below 24");
            let usual = self.hours.get(kind).map_or(0.0, |hours| hours[hour]);
            let share = (horizon.as_secs_f64() / 3600.0).min(1.0);
            let announced = self
                .announced
                .iter()
                .filter(|(of, at, _)| of == kind && *at >= now && *at <= end);
            let planned: u32 = announced.map(|(.., requests)| requests).sum();
            *sum = crate::rate::to_f64(recent as u64)
                .max(usual * share)
                .max(f64::from(planned));
        }
        expected
    }
}

/// What is to be done about workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Start {
        worker: WorkerId,
        function_type: FunctionType,
    },
    Retire {
        worker: WorkerId,
    },
    /// Clear what the last item left behind, before the next.
    Wipe {
        worker: WorkerId,
    },
}

#[derive(Clone, Debug)]
enum State<P> {
    Initialising,
    Available { since: Timestamp },
    Busy(WorkItem<P>),
}

#[derive(Clone, Debug)]
struct Worker<P> {
    function_type: FunctionType,
    state: State<P>,
    runs: u32,
}

/// All workers. An item and its worker belong together until the item is done: the pool is their manager.
#[derive(Clone, Debug)]
pub struct WorkerPool<P> {
    policy: ReservationPolicy,
    workers: BTreeMap<WorkerId, Worker<P>>,
    next_worker: u64,
    next_item: u64,
}

/// Where an item went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assigned<P> {
    /// A worker that was ready runs it.
    Hit { worker: WorkerId, item: u64 },
    /// There was none: start one, then [`WorkerPool::assign`] again.
    Miss(WorkItem<P>),
}

impl<P: Clone> WorkerPool<P> {
    pub fn new(policy: ReservationPolicy) -> Self {
        Self {
            policy,
            workers: BTreeMap::new(),
            next_worker: 0,
            next_item: 0,
        }
    }

    /// Changes the policy; the next [`WorkerPool::adjust`] follows it. What is busy goes on.
    pub fn set_policy(&mut self, policy: ReservationPolicy) {
        self.policy = policy;
    }

    pub fn policy(&self) -> &ReservationPolicy {
        &self.policy
    }

    /// Makes the work item of a request.
    pub fn item(&mut self, function_type: FunctionType, params: P) -> WorkItem<P> {
        self.next_item += 1;
        WorkItem {
            id: self.next_item,
            function_type,
            params,
            is_second_try: false,
        }
    }

    /// Gives an item to an available worker of exactly its type.
    pub fn assign(&mut self, item: WorkItem<P>) -> Assigned<P> {
        let mut workers = self.workers.iter_mut();
        let found = workers.find(|(_, worker)| {
            worker.function_type == item.function_type && matches!(worker.state, State::Available { .. })
        });
        let Some((id, worker)) = found else {
            return Assigned::Miss(item);
        };
        let number = item.id;
        worker.state = State::Busy(item);
        Assigned::Hit {
            worker: *id,
            item: number,
        }
    }

    /// Starts one worker for an item that missed, if the budget allows it.
    pub fn start_for(&mut self, item: &WorkItem<P>) -> Option<Step> {
        let memory = self.policy.types.get(&item.function_type)?.memory.0;
        (self.memory() + u64::from(memory) <= u64::from(self.policy.budget.0)).then(|| self.start(item.function_type))
    }

    fn start(&mut self, function_type: FunctionType) -> Step {
        self.next_worker += 1;
        let worker = WorkerId(self.next_worker);
        self.workers.insert(
            worker,
            Worker {
                function_type,
                state: State::Initialising,
                runs: 0,
            },
        );
        Step::Start { worker, function_type }
    }

    /// A worker is ready.
    pub fn ready(&mut self, id: WorkerId, now: Timestamp) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.state = State::Available { since: now };
        }
    }

    /// An item is done.
    pub fn done(&mut self, id: WorkerId, now: Timestamp) -> Option<Step> {
        let worker = self.workers.get_mut(&id)?;
        if !matches!(worker.state, State::Busy(_)) {
            return None;
        }
        worker.runs += 1;
        match self.policy.after_item {
            AfterItem::Reuse => {
                worker.state = State::Available { since: now };
                Some(Step::Wipe { worker: id })
            }
            AfterItem::Destroy => {
                self.workers.remove(&id);
                Some(Step::Retire { worker: id })
            }
        }
    }

    /// A worker has crashed. Its item comes back once, to be assigned to another.
    pub fn crashed(&mut self, id: WorkerId) -> Option<WorkItem<P>> {
        let worker = self.workers.remove(&id)?;
        let State::Busy(item) = worker.state else { return None };
        (!item.is_second_try).then_some(WorkItem {
            is_second_try: true,
            ..item
        })
    }

    /// Comes to the targets: starts what is missing, retires surplus that has been idle for long.
    pub fn adjust(&mut self, expected: &BTreeMap<FunctionType, f64>, now: Timestamp) -> Vec<Step> {
        let targets = self.policy.targets(expected);
        let mut steps = self.retire_surplus(&targets, now);
        for (kind, target) in targets {
            let memory = u64::from(self.policy.types[&kind].memory.0);
            let mut have = self.idle(kind);
            while have < target && self.memory() + memory <= u64::from(self.policy.budget.0) {
                steps.push(self.start(kind));
                have += 1;
            }
        }
        steps
    }

    fn retire_surplus(&mut self, targets: &BTreeMap<FunctionType, u32>, now: Timestamp) -> Vec<Step> {
        let mut surplus: BTreeMap<FunctionType, u32> = BTreeMap::new();
        for kind in self.workers.values().map(|worker| worker.function_type) {
            let target = targets.get(&kind).copied().unwrap_or(0);
            surplus
                .entry(kind)
                .or_insert_with(|| self.idle(kind).saturating_sub(target));
        }
        let over_budget = self.memory() > u64::from(self.policy.budget.0);
        let mut retired = Vec::new();
        for (id, worker) in &self.workers {
            let State::Available { since } = worker.state else {
                continue;
            };
            let left = surplus.entry(worker.function_type).or_default();
            if *left > 0 && (over_budget || now.since(since) >= self.policy.idle_max) {
                *left -= 1;
                retired.push(*id);
            }
        }
        retired.iter().for_each(|id| {
            self.workers.remove(id);
        });
        retired.into_iter().map(|worker| Step::Retire { worker }).collect()
    }

    /// Workers of a type that are available or will be.
    pub fn idle(&self, kind: FunctionType) -> u32 {
        let idle = self.workers.values().filter(|worker| {
            worker.function_type == kind && matches!(worker.state, State::Initialising | State::Available { .. })
        });
        u32::try_from(idle.count()).unwrap_or(u32::MAX)
    }

    /// The sum of all workers' limits.
    pub fn memory(&self) -> u64 {
        let memory = |worker: &Worker<P>| {
            let reservation = self.policy.types.get(&worker.function_type);
            reservation.map_or(0, |reservation| u64::from(reservation.memory.0))
        };
        self.workers.values().map(memory).sum()
    }

    /// The item that a worker runs.
    pub fn running(&self, id: WorkerId) -> Option<&WorkItem<P>> {
        match &self.workers.get(&id)?.state {
            State::Busy(item) => Some(item),
            _ => None,
        }
    }

    /// How many items a worker has done.
    pub fn runs(&self, id: WorkerId) -> Option<u32> {
        self.workers.get(&id).map(|worker| worker.runs)
    }
}

#[cfg(test)]
mod tests;
