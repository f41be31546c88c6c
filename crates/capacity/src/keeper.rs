//! Which functions are kept warm: those whose chance of a call is worth their memory, the best first.
//!
//! To hold an idle sandbox for a minute costs its memory; it spares a start if a call comes within that
//! minute. So each minute is judged for itself, by `worth = chance x cost of a start / memory`, and a
//! function is warm while its worth reaches the price. How long it is kept, whether it is dropped at
//! once, and when it is started ahead of its call all follow from this one comparison.
//!
//! Under a budget the least worthy go first. Who must make room at once is chosen by greedy dual: the
//! worth of a sandbox counts from the level at which the last victim went when it was last called, so
//! that of two equally worthy ones the one that was called longer ago goes.

use std::collections::VecDeque;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::forecast::{Forecaster, FunctionIndex, Outlook, Schedule, Trigger};
use crate::slot::Slot;

/// Memory is priced by this much.
pub const MEMORY_UNIT: Mebibytes = Mebibytes(128);

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

/// What is to be done about a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Stop its idle sandbox.
    Drop(FunctionIndex),
    /// Start a sandbox ahead of its call.
    Start(FunctionIndex),
}

/// Decides which functions are warm.
#[derive(Clone, Debug)]
pub struct Keeper {
    forecaster: Forecaster,
    terms: Terms,
    held: Vec<Held>,
    /// The level at which the last victim went.
    level: f32,
    /// Memory of all warm sandboxes.
    used_mib: u64,
    /// Whom to drop if a call needs room, the least worthy last; made anew with each slot.
    victims: Vec<FunctionIndex>,
    /// Who was called in this slot, the longest ago first: whom to drop if there is nobody else.
    recent: VecDeque<FunctionIndex>,
}

#[derive(Clone, Debug)]
struct Held {
    kept: Kept,
    is_warm: bool,
    /// Invocations that run.
    running: u32,
    /// The level when it was last called.
    level: f32,
    /// The slot in which it was last called.
    called: Slot,
    /// Whether it stands among those who were called in this slot.
    is_recent: bool,
}

impl Keeper {
    /// A keeper that begins at `now`.
    pub fn new(terms: Terms, now: Timestamp) -> Self {
        Self {
            forecaster: Forecaster::new(Slot::of(now)),
            terms,
            held: Vec::new(),
            level: 0.0,
            used_mib: 0,
            victims: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// Takes a function in, cold.
    pub fn add(&mut self, kept: Kept) -> FunctionIndex {
        let index = self.forecaster.add(kept.trigger);
        self.held.push(Held {
            kept,
            is_warm: false,
            running: 0,
            level: self.level,
            called: Slot::default(),
            is_recent: false,
        });
        index
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
        self.held[function.0 as usize].is_warm
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
        if !std::mem::replace(&mut held.is_recent, true) {
            self.recent.push_back(function);
        }
        if held.is_warm {
            return true;
        }
        held.is_warm = true;
        self.used_mib += u64::from(held.kept.memory.0);
        while self.used_mib > u64::from(self.terms.budget.0) {
            let Some(victim) = self.victim() else { break };
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

    /// The idle sandbox that is worth least; one that was called in this slot only if there is no other.
    fn victim(&mut self) -> Option<FunctionIndex> {
        let slot = self.forecaster.slot();
        while let Some(victim) = self.victims.pop() {
            let held = &self.held[victim.0 as usize];
            if held.is_idle() && held.called < slot {
                self.level = self.level.max(self.credit(victim));
                return Some(victim);
            }
        }
        for _ in 0..self.recent.len() {
            let oldest = self.recent.pop_front()?;
            let held = &mut self.held[oldest.0 as usize];
            held.is_recent = false;
            if held.is_idle() {
                return Some(oldest);
            }
            if held.running > 0 {
                held.is_recent = true;
                self.recent.push_back(oldest);
            }
        }
        // What was running when the victims were lined up, and is idle now.
        self.indices().find(|index| self.held[index.0 as usize].is_idle())
    }

    fn credit(&self, function: FunctionIndex) -> f32 {
        self.held[function.0 as usize].level + self.worth(function)
    }

    fn drop_sandbox(&mut self, function: FunctionIndex) {
        let held = &mut self.held[function.0 as usize];
        held.is_warm = false;
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
        let chosen = self.choose();
        let mut changes = Vec::new();
        for (index, wanted) in self.indices().zip(chosen) {
            let held = &self.held[index.0 as usize];
            match (held.is_warm, wanted) {
                (true, false) if held.running == 0 => changes.push(Change::Drop(index)),
                (false, true) => changes.push(Change::Start(index)),
                _ => {}
            }
        }
        changes.sort_unstable();
        changes.iter().for_each(|change| self.apply(*change));
        self.line_up();
        changes
    }

    /// Puts all that are warm into the order in which they would be dropped, while no call waits for it.
    fn line_up(&mut self) {
        let warm = self.indices().filter(|index| self.is_warm(*index));
        let mut credits: Vec<(f32, FunctionIndex)> = warm.map(|index| (self.credit(index), index)).collect();
        credits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.victims = credits.into_iter().map(|(_, index)| index).collect();
        self.recent
            .drain(..)
            .for_each(|index| self.held[index.0 as usize].is_recent = false);
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Drop(index) => self.drop_sandbox(index),
            Change::Start(index) => {
                let held = &mut self.held[index.0 as usize];
                (held.is_warm, held.level) = (true, self.level);
                self.used_mib += u64::from(held.kept.memory.0);
            }
        }
    }

    /// Who is to be warm: what runs, then the worthiest that reach the price, while there is room.
    fn choose(&self) -> Vec<bool> {
        let mut wanted: Vec<bool> = self.held.iter().map(|held| held.running > 0).collect();
        let mut candidates: Vec<(f32, FunctionIndex)> = self
            .indices()
            .filter(|index| !wanted[index.0 as usize])
            .map(|index| (self.worth(index), index))
            .filter(|(worth, index)| self.terms.accept(*worth, self.is_warm(*index)))
            .collect();
        let running = self.held.iter().filter(|held| held.running > 0);
        let mut used: u64 = running.map(|held| u64::from(held.kept.memory.0)).sum();
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, index) in candidates {
            let with = used + u64::from(self.held[index.0 as usize].kept.memory.0);
            if with <= u64::from(self.terms.budget.0) {
                used = with;
                wanted[index.0 as usize] = true;
            }
        }
        wanted
    }
}

impl Held {
    fn is_idle(&self) -> bool {
        self.is_warm && self.running == 0
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
