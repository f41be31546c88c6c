//! Which functions are kept warm: those whose chance of a call is worth their memory, the best first.
//!
//! To hold an idle sandbox for a minute costs its memory; it spares a start if a call comes within that
//! minute. So each minute is judged for itself, by `worth = chance x cost of a start / memory`, and a
//! function is warm while its worth reaches the price. How long it is kept, whether it is dropped at
//! once, and when it is started ahead of its call all follow from this one comparison.
//!
//! A function whose invocations run at once has as many sandboxes as are likely to be busy together: each
//! further one is judged by the chance that it is needed too.
//!
//! Under a budget the least worthy go first. Who must make room at once is chosen by greedy dual: the
//! worth of a sandbox counts from the level at which the last victim went when it was last called, so
//! that of two equally worthy ones the one that was called longer ago goes.

mod crowd;
mod order;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::forecast::{Forecaster, FunctionIndex, Habits, Outlook, Schedule, Teaching, Trigger};
use crate::slot::Slot;
use crowd::Crowd;
use order::Order;

pub use order::Standing;

/// Memory is priced by this much.
pub const MEMORY_UNIT: Mebibytes = Mebibytes(128);
/// No function is given more sandboxes ahead of its calls.
const SANDBOXES_MAX: u32 = 1024;

/// What memory is worth, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// What [`MEMORY_UNIT`] held idle for one minute costs, in ordinary starts: with 0.02, one start is
    /// worth fifty minutes.
    pub price: f32,
    /// How much worthier than the price a function must be to be started ahead, for a start has a cost of
    /// its own.
    pub start_margin: f32,
    /// How much memory the warm sandboxes may have together.
    pub budget: Mebibytes,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            price: 0.02,
            start_margin: 1.15,
            budget: Mebibytes(u32::MAX),
        }
    }
}

/// A function as the keeper has to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub trigger: Trigger,
    pub memory: Mebibytes,
    /// How long a start takes, as a multiple of an ordinary one.
    pub start_cost: f32,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            trigger: Trigger::Other,
            memory: MEMORY_UNIT,
            start_cost: 1.0,
        }
    }
}

/// What is known of a function in a form that can be kept; `L` names other functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory<L = FunctionIndex> {
    pub habits: Habits<L>,
    /// How many use to run at once: shares by level, and behind them the number of slots.
    pub crowd: Vec<f32>,
}

/// What is to be done about a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Stop its idle sandbox.
    Drop(FunctionIndex),
    /// Start a sandbox ahead of its call.
    Start(FunctionIndex),
}

/// What a node saw of a function within a slot, and what it has of it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub calls: u32,
    /// The most that ran at once.
    pub peak: u32,
    /// Sandboxes that work.
    pub busy: u32,
    /// Sandboxes that wait.
    pub idle: u32,
}

/// Decides which functions are warm.
#[derive(Clone, Debug)]
pub struct Keeper {
    forecaster: Forecaster,
    terms: Terms,
    held: Vec<Held>,
    /// Places that functions have left.
    vacant: Vec<FunctionIndex>,
    /// The level at which the last victim went.
    level: f32,
    /// Memory of all warm sandboxes.
    used_mib: u64,
    /// Whom to drop if a call needs room; made anew with each slot.
    order: Order,
}

#[derive(Clone, Debug)]
struct Held {
    kept: Kept,
    sandboxes: u32,
    /// Invocations that run.
    running: u32,
    /// How many use to run at once.
    crowd: Crowd,
    /// The level when it was last called.
    level: f32,
    /// The slot in which it was last called.
    called: Slot,
}

impl Keeper {
    /// A keeper that begins at `now`.
    pub fn new(terms: Terms, now: Timestamp) -> Self {
        Self {
            forecaster: Forecaster::new(Slot::of(now)),
            terms,
            held: Vec::new(),
            vacant: Vec::new(),
            level: 0.0,
            used_mib: 0,
            order: Order::default(),
        }
    }

    /// Takes a function in, cold.
    pub fn add(&mut self, kept: Kept) -> FunctionIndex {
        let trigger = kept.trigger;
        let held = Held {
            kept,
            sandboxes: 0,
            running: 0,
            crowd: Crowd::default(),
            level: self.level,
            called: Slot::default(),
        };
        if let Some(index) = self.vacant.pop() {
            self.forecaster.reset(index, trigger);
            self.held[index.0 as usize] = held;
            return index;
        }
        self.held.push(held);
        self.forecaster.add(trigger)
    }

    /// Forgets a function; another may get its place.
    pub fn remove(&mut self, function: FunctionIndex) {
        self.hold(function, 0, 0);
        self.forecaster.reset(function, Trigger::Other);
        self.vacant.push(function);
    }

    /// A function is expected to be called as `from` was: it takes its place, a new version of it say.
    pub fn inherit(&mut self, function: FunctionIndex, from: FunctionIndex) {
        self.forecaster.inherit(function, from);
        self.held[function.0 as usize].crowd = self.held[from.0 as usize].crowd.clone();
    }

    /// What is known of a function.
    pub fn memory(&self, function: FunctionIndex) -> Memory {
        Memory {
            habits: self.forecaster.habits(function),
            crowd: self.held[function.0 as usize].crowd.parts(),
        }
    }

    /// A function is expected to be called as it was when its memory was kept. Whether it is such as is known here; if not,
    /// all stays as it is.
    pub fn recall(&mut self, function: FunctionIndex, memory: &Memory) -> bool {
        let Some(crowd) = Crowd::of(&memory.crowd) else {
            return false;
        };
        let recalled = self.forecaster.recall(function, &memory.habits);
        if recalled {
            self.held[function.0 as usize].crowd = crowd;
        }
        recalled
    }

    /// What all functions together have taught.
    pub fn teaching(&self) -> Teaching {
        self.forecaster.teaching()
    }

    /// Goes on from what was taught before; whether it is of the kind that is taught here.
    pub fn learn_from(&mut self, teaching: &Teaching) -> bool {
        self.forecaster.learn_from(teaching)
    }

    /// Says what is to be done within the slot that is being watched, after memories were recalled.
    pub fn consider(&mut self) -> Vec<Change> {
        self.forecaster.look_again();
        self.decide()
    }

    /// Says what a function's sandboxes need from now on.
    pub fn set_kept(&mut self, function: FunctionIndex, kept: Kept) {
        let held = &self.held[function.0 as usize];
        let (sandboxes, running) = (held.sandboxes, held.running);
        self.hold(function, 0, running);
        self.held[function.0 as usize].kept = kept;
        self.hold(function, sandboxes, running);
    }

    /// Says what was seen of a function in the slot that is being watched, in place of [`Keeper::called`]
    /// and [`Keeper::ended`] for each invocation; before the [`Keeper::turn`] that closes the slot.
    pub fn observe(&mut self, function: FunctionIndex, seen: Observed) {
        if seen.calls > 0 {
            self.forecaster.called(function);
            let (level, slot) = (self.level, self.forecaster.slot());
            let held = &mut self.held[function.0 as usize];
            (held.level, held.called) = (level, slot);
            held.crowd.add(seen.peak);
        }
        self.hold(function, seen.busy + seen.idle, seen.busy);
    }

    /// A sandbox of the function came into being within the slot: it may be a victim too.
    pub fn started(&mut self, function: FunctionIndex) {
        self.order.note(function);
    }

    /// Whose idle sandbox is to be dropped for one that is needed now: `standing` says what a node has of a
    /// function at this moment. Costs no search through all functions.
    pub fn victim(&mut self, standing: impl FnMut(FunctionIndex) -> Standing) -> Option<FunctionIndex> {
        let (victim, lined_up) = self.order.next(standing)?;
        if lined_up {
            self.level = self.level.max(self.credit(victim));
        }
        Some(victim)
    }

    /// The same where only sandboxes in one place would help: `standing` says what a node has of a function there. Searches
    /// through all functions.
    pub fn victim_there(&mut self, standing: impl Fn(FunctionIndex) -> Standing) -> Option<FunctionIndex> {
        let (victim, lined_up) = self.order.first(standing)?;
        if lined_up {
            self.level = self.level.max(self.credit(victim));
        }
        Some(victim)
    }

    fn hold(&mut self, function: FunctionIndex, sandboxes: u32, running: u32) {
        let held = &mut self.held[function.0 as usize];
        self.used_mib -= held.memory();
        (held.sandboxes, held.running) = (sandboxes, running);
        self.used_mib += held.memory();
    }

    /// Gives a function's declared schedule.
    pub fn declare(&mut self, function: FunctionIndex, schedule: Schedule) {
        self.forecaster.declare(function, schedule);
    }

    /// Changes the terms from the next [`Keeper::turn`] on.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    pub fn is_warm(&self, function: FunctionIndex) -> bool {
        self.held[function.0 as usize].sandboxes > 0
    }

    /// Memory of all warm sandboxes.
    pub fn used(&self) -> u64 {
        self.used_mib
    }

    /// The forecasts that it decides by.
    pub fn forecaster(&self) -> &Forecaster {
        &self.forecaster
    }

    /// What a minute of idling is worth to a function now, in ordinary starts for [`MEMORY_UNIT`].
    pub fn worth(&self, function: FunctionIndex) -> f32 {
        worth(self.forecaster.chance(function), &self.held[function.0 as usize].kept)
    }

    /// How long a function stays warm if no call comes, and when it is started again.
    pub fn outlook(&self, function: FunctionIndex) -> Outlook {
        let kept = &self.held[function.0 as usize].kept;
        let chance_min = self.terms.price / worth(1.0, kept);
        self.forecaster.outlook(function, chance_min)
    }

    /// A call has come. Its sandbox is warm from now on; if there is no room for it, `victims` are told,
    /// the least worthy first. The answer says whether it was warm already.
    pub fn called(&mut self, function: FunctionIndex, victims: &mut Vec<FunctionIndex>) -> bool {
        self.forecaster.called(function);
        let held = &mut self.held[function.0 as usize];
        held.running += 1;
        (held.level, held.called) = (self.level, self.forecaster.slot());
        self.order.note(function);
        if held.sandboxes > 0 {
            return true;
        }
        held.sandboxes = 1;
        self.used_mib += u64::from(held.kept.memory.0);
        while self.used_mib > u64::from(self.terms.budget.0) {
            let Some(victim) = self.own_victim() else { break };
            self.drop_sandbox(victim);
            victims.push(victim);
        }
        false
    }

    /// An invocation has ended. The answer says whether its sandbox has to go at once, since those that
    /// ran together have more memory than the budget.
    pub fn ended(&mut self, function: FunctionIndex) -> bool {
        let held = &mut self.held[function.0 as usize];
        held.running = held.running.saturating_sub(1);
        let goes = held.is_idle() && self.used_mib > u64::from(self.terms.budget.0);
        if goes {
            self.drop_sandbox(function);
        }
        goes
    }

    /// A sandbox is gone without having been dropped, as after a fault.
    pub fn lost(&mut self, function: FunctionIndex) {
        if self.is_warm(function) {
            self.drop_sandbox(function);
        }
    }

    /// The idle sandbox that is worth least, by what the keeper itself was told.
    fn own_victim(&mut self) -> Option<FunctionIndex> {
        let (held, slot) = (&self.held, self.forecaster.slot());
        let next = self.order.next(|index| held[index.0 as usize].standing(slot));
        let (victim, lined_up) = next?;
        if lined_up {
            self.level = self.level.max(self.credit(victim));
        }
        Some(victim)
    }

    fn credit(&self, function: FunctionIndex) -> f32 {
        self.held[function.0 as usize].level + self.worth(function)
    }

    fn drop_sandbox(&mut self, function: FunctionIndex) {
        let held = &mut self.held[function.0 as usize];
        held.sandboxes -= 1;
        self.used_mib -= u64::from(held.kept.memory.0);
    }

    fn indices(&self) -> impl Iterator<Item = FunctionIndex> + use<> {
        (0..u32::try_from(self.held.len()).expect("indices are made from 32 bits")).map(FunctionIndex)
    }

    /// Comes to the slot of `now`; if it is a new one, says what is to be done: first what is dropped,
    /// then what is started. What runs is never dropped.
    pub fn turn(&mut self, now: Timestamp) -> Vec<Change> {
        let slot = Slot::of(now);
        if slot <= self.forecaster.slot() {
            return Vec::new();
        }
        self.forecaster.advance(slot);
        self.decide()
    }

    fn decide(&mut self) -> Vec<Change> {
        let chosen = self.choose();
        let mut changes = Vec::new();
        for (index, wanted) in self.indices().zip(chosen) {
            let held = &self.held[index.0 as usize];
            let dropped = held.sandboxes.saturating_sub(wanted);
            let started = wanted.saturating_sub(held.sandboxes);
            changes.extend((0..dropped).map(|_| Change::Drop(index)));
            changes.extend((0..started).map(|_| Change::Start(index)));
        }
        changes.sort_unstable();
        changes.iter().for_each(|change| self.apply(*change));
        self.line_up();
        changes
    }

    /// Puts all that are warm into the order in which they would be dropped, while no call waits for it.
    fn line_up(&mut self) {
        let warm = self.indices().filter(|index| self.is_warm(*index));
        let mut credits: Vec<(f32, FunctionIndex)> = Vec::new();
        for index in warm {
            let held = &self.held[index.0 as usize];
            let each = (1..=held.sandboxes).map(|nth| (held.level + self.worth_of(index, nth), index));
            credits.extend(each);
        }
        credits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.order
            .line_up(credits.into_iter().map(|(_, index)| index).collect());
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Drop(index) => self.drop_sandbox(index),
            Change::Start(index) => {
                let held = &mut self.held[index.0 as usize];
                held.sandboxes += 1;
                held.level = self.level;
                self.used_mib += u64::from(held.kept.memory.0);
            }
        }
    }

    /// What the nth sandbox of a function is worth.
    fn worth_of(&self, function: FunctionIndex, nth: u32) -> f32 {
        self.worth(function) * self.held[function.0 as usize].crowd.share(nth)
    }

    /// How many sandboxes each is to have: what runs, then the worthiest that reach the price, while there
    /// is room.
    fn choose(&self) -> Vec<u32> {
        let mut wanted: Vec<u32> = self.held.iter().map(|held| held.running.min(held.sandboxes)).collect();
        let mut candidates: Vec<(f32, FunctionIndex)> = Vec::new();
        let mut used = 0;
        for (index, runs) in self.indices().zip(&wanted) {
            let held = &self.held[index.0 as usize];
            used += u64::from(held.kept.memory.0) * u64::from(*runs);
            let further = (*runs + 1..=SANDBOXES_MAX)
                .map(|nth| (self.worth_of(index, nth), nth))
                .take_while(|(worth, nth)| {
                    let is_needed = *nth == 1 || *worth > 0.0;
                    is_needed && self.terms.accept(*worth, *nth <= held.sandboxes)
                });
            candidates.extend(further.map(|(worth, _)| (worth, index)));
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, index) in candidates {
            let with = used + u64::from(self.held[index.0 as usize].kept.memory.0);
            if with <= u64::from(self.terms.budget.0) {
                used = with;
                wanted[index.0 as usize] += 1;
            }
        }
        wanted
    }
}

impl Held {
    fn is_idle(&self) -> bool {
        self.sandboxes > 0 && self.running == 0
    }

    fn memory(&self) -> u64 {
        u64::from(self.kept.memory.0) * u64::from(self.sandboxes)
    }

    fn standing(&self, slot: Slot) -> Standing {
        match self.is_idle() {
            true if self.called < slot => Standing::Idle,
            true => Standing::Called,
            false if self.sandboxes > 0 => Standing::Busy,
            false => Standing::Cold,
        }
    }
}

impl Terms {
    /// Whether a function of this worth is to be warm.
    pub fn accept(&self, worth: f32, is_warm: bool) -> bool {
        worth
            >= if is_warm {
                self.price
            } else {
                self.price * self.start_margin
            }
    }
}

/// What a chance is worth to a function: see [`Keeper::worth`].
pub fn worth(chance: f32, kept: &Kept) -> f32 {
    #[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^24")]
    let units = kept.memory.0.max(1) as f32 / MEMORY_UNIT.0 as f32;
    chance * kept.start_cost / units
}

#[cfg(test)]
mod tests;
