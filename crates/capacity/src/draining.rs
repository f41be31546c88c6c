//! The active instances: where a request goes, and which instance is emptied when there is too much room.
//!
//! ```text
//!               below the line for long enough: marked
//!   ┌────────┐ ────────────────────────────────────▶ ┌──────────┐ ──last run ends──▶ terminated
//!   │ active │                                       │ draining │ ──deadline passes─▶ forced, then terminated
//!   └────────┘ ◀──────────────────────────────────── └──────────┘
//!               demand has no room elsewhere: unmarked
//! ```
//! A marked instance gets nothing, although it runs and has room, so that its runs end and it can go. What is used is the most
//! of three shares: the room that was given out, the memory and the processors that are really used.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::limits::TIMEOUT_SECONDS_MAX;
use serde::{Deserialize, Serialize};

use crate::identity::InstanceId;
use crate::rate::to_f64;

/// A sandbox that was on its way when its instance was marked may initialise for as long as its first invocation may take
/// then, and be a little late with both.
const DEADLINE: Duration = Duration::from_secs(2 * TIMEOUT_SECONDS_MAX as u64 + 60);

/// Which instance with room gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The one with the most room.
    #[default]
    Spread,
    /// The one with the least room that is enough, so that others become empty.
    Pack,
}

/// When instances are emptied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainRules {
    /// Below this share of use there is too much room.
    pub low_water: f64,
    /// What the rest would be used to afterwards is at most this.
    pub high_water: f64,
    /// How long the use has to be below the line.
    pub below_for: Duration,
    /// How long a marked instance may go on running, before its runs are ended by force: the longest initialisation and the
    /// longest time-out of what it runs, one after the other.
    pub deadline: Duration,
    pub placement: Placement,
}

impl Default for DrainRules {
    fn default() -> Self {
        Self {
            low_water: 0.5,
            high_water: 0.85,
            below_for: Duration::from_secs(60),
            deadline: DEADLINE,
            placement: Placement::Spread,
        }
    }
}

/// What is to be done, or has been decided; in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The instance gets nothing from now on; the use of all that led to it.
    Marked { instance: InstanceId, utilisation: f64 },
    /// The mark is gone, since demand has returned.
    Unmarked { instance: InstanceId },
    /// Its runs are past their time-out: end them, with a time-out as their answer.
    Force { instance: InstanceId },
    /// Nothing runs on it any more: stop it.
    Terminate { instance: InstanceId },
}

/// So much of something, of the most that there may be, in the same unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub used: u64,
    pub most: u64,
}

impl Level {
    /// Nought where nothing is used, endless where nothing may be.
    fn share(self) -> f64 {
        if self.used == 0 {
            0.0
        } else {
            to_f64(self.used) / to_f64(self.most)
        }
    }
}

/// What an instance really uses, whatever was given out; nought as far as it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub memory: Level,
    /// Processor time of a while, of what its limit would be in that while.
    pub processors: Level,
}

#[derive(Clone, Debug)]
struct Active {
    capacity: u64,
    allocated: u64,
    measured: Measured,
    /// Since when its own use is below the line.
    below_since: Option<Timestamp>,
    /// How long its runs are expected to take yet.
    remaining: Duration,
    /// Whether shared state of its owner lives in it and has not been detached.
    holds_state: bool,
    draining: Option<Draining>,
}

#[derive(Clone, Copy, Debug)]
struct Draining {
    since: Timestamp,
    is_forced: bool,
}

impl Active {
    fn room(&self) -> u64 {
        self.capacity - self.allocated
    }

    fn levels(&self) -> [Level; 3] {
        let given = Level {
            used: self.allocated,
            most: self.capacity,
        };
        [given, self.measured.memory, self.measured.processors]
    }

    fn utilisation(&self) -> f64 {
        fullest(self.levels())
    }
}

/// The greatest share.
fn fullest(levels: [Level; 3]) -> f64 {
    levels.map(Level::share).into_iter().fold(0.0, f64::max)
}

fn total<'a>(instances: impl Iterator<Item = &'a Active>) -> [Level; 3] {
    instances.fold(<[Level; 3]>::default(), |mut total, active| {
        for (sum, level) in total.iter_mut().zip(active.levels()) {
            sum.used = sum.used.saturating_add(level.used);
            sum.most = sum.most.saturating_add(level.most);
        }
        total
    })
}

/// Since when something is so that `is` so now.
fn since(known: Option<Timestamp>, is: bool, now: Timestamp) -> Option<Timestamp> {
    is.then(|| known.unwrap_or(now))
}

/// The instances of one fleet that run code or are kept for it.
#[derive(Clone, Debug, Default)]
pub struct ActiveSet {
    rules: DrainRules,
    instances: BTreeMap<InstanceId, Active>,
    below_since: Option<Timestamp>,
}

impl ActiveSet {
    pub fn new(rules: DrainRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Takes an instance in, with so many slots or bytes of room.
    pub fn add(&mut self, instance: InstanceId, capacity: u64) {
        self.instances.insert(
            instance,
            Active {
                capacity,
                allocated: 0,
                measured: Measured::default(),
                below_since: None,
                remaining: Duration::ZERO,
                holds_state: false,
                draining: None,
            },
        );
    }

    /// Says whether shared state lives in an instance; such a one is never emptied.
    pub fn set_holds_state(&mut self, instance: InstanceId, holds_state: bool) {
        if let Some(active) = self.instances.get_mut(&instance) {
            active.holds_state = holds_state;
        }
    }

    /// An instance is gone, whoever stopped it.
    pub fn remove(&mut self, instance: InstanceId) {
        self.instances.remove(&instance);
    }

    /// Says how much of an instance is used, where that is counted elsewhere; a marked instance that is empty is to be
    /// stopped.
    pub fn set_allocated(&mut self, instance: InstanceId, allocated: u64) -> Option<Event> {
        let active = self.instances.get_mut(&instance)?;
        active.allocated = allocated.min(active.capacity);
        let is_done = active.draining.is_some() && active.allocated == 0;
        is_done.then(|| self.terminate(instance))
    }

    /// Says what an instance really uses, where somebody measures it.
    pub fn set_measured(&mut self, instance: InstanceId, measured: Measured) {
        if let Some(active) = self.instances.get_mut(&instance) {
            active.measured = measured;
        }
    }

    /// Demand has returned and no other has room: the marked instance with the most room takes work again, if that is
    /// enough.
    pub fn take_back(&mut self, amount: u64) -> Option<InstanceId> {
        let marked = self
            .instances
            .iter_mut()
            .filter(|(_, active)| active.draining.is_some() && !active.is_forced());
        let (id, active) = marked.max_by_key(|(_, active)| active.room())?;
        if active.room() < amount {
            return None;
        }
        active.draining = None;
        self.below_since = None;
        Some(*id)
    }

    /// Says how long the runs of an instance are expected to take yet.
    pub fn set_remaining(&mut self, instance: InstanceId, remaining: Duration) {
        if let Some(active) = self.instances.get_mut(&instance) {
            active.remaining = remaining;
        }
    }

    pub fn is_draining(&self, instance: InstanceId) -> bool {
        let active = self.instances.get(&instance);
        active.is_some_and(|active| active.draining.is_some())
    }

    pub fn contains(&self, instance: InstanceId) -> bool {
        self.instances.contains_key(&instance)
    }

    /// The share of all instances together that is used; nought without any.
    pub fn utilisation(&self) -> f64 {
        fullest(total(self.instances.values()))
    }

    /// What the others would be used to if they had all that is used.
    fn utilisation_without(&self, without: InstanceId) -> f64 {
        let mut levels = total(self.instances.values());
        let others = self.instances.iter().filter(|(id, _)| **id != without);
        let rest = total(others.map(|(_, active)| active));
        for (level, rest) in levels.iter_mut().zip(rest) {
            level.most = rest.most;
        }
        fullest(levels)
    }

    /// Finds an instance for a request and gives it the room. One that is draining is taken only if no
    /// other has room, and then takes work again.
    pub fn place(&mut self, amount: u64) -> Option<(InstanceId, Option<Event>)> {
        let with_room = |draining: bool| {
            let instances = self.instances.iter();
            let fitting = instances.filter(move |(_, active)| {
                active.room() >= amount && active.draining.is_some() == draining && !active.is_forced()
            });
            match self.rules.placement {
                Placement::Spread => fitting.max_by_key(|(id, active)| (active.room(), std::cmp::Reverse(**id))),
                Placement::Pack => fitting.min_by_key(|(id, active)| (active.room(), **id)),
            }
            .map(|(id, _)| *id)
        };
        let chosen = with_room(false).map(|id| (id, None));
        let unmarked = || with_room(true).map(|id| (id, Some(Event::Unmarked { instance: id })));
        let (instance, event) = chosen.or_else(unmarked)?;
        let active = self.instances.get_mut(&instance).expect("it was just found");
        active.allocated += amount;
        active.draining = None;
        Some((instance, event))
    }

    /// A run has ended and gives its room back; a marked instance that is empty now is to be stopped.
    pub fn ended(&mut self, instance: InstanceId, amount: u64) -> Option<Event> {
        let active = self.instances.get_mut(&instance)?;
        active.allocated = active.allocated.saturating_sub(amount);
        let is_done = active.draining.is_some() && active.allocated == 0;
        is_done.then(|| self.terminate(instance))
    }

    fn terminate(&mut self, instance: InstanceId) -> Event {
        self.instances.remove(&instance);
        Event::Terminate { instance }
    }

    /// Looks at the use of all: marks one instance if that of all, and its own, has been too low for long enough, and sees
    /// to deadlines.
    pub fn observe(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = self.enforce(now);
        let (utilisation, low_water) = (self.utilisation(), self.rules.low_water);
        self.below_since = since(self.below_since, utilisation < low_water, now);
        for active in self.instances.values_mut() {
            active.below_since = since(active.below_since, active.utilisation() < low_water, now);
        }
        let is_draining = self.instances.values().any(|active| active.draining.is_some());
        if !self.is_long_below(self.below_since, now) || is_draining {
            return events;
        }
        let Some(instance) = self.candidate(now) else {
            return events;
        };
        self.below_since = Some(now);
        let active = self.instances.get_mut(&instance).expect("it was just found");
        active.draining = Some(Draining {
            since: now,
            is_forced: false,
        });
        let is_empty = active.allocated == 0;
        events.push(Event::Marked { instance, utilisation });
        if is_empty {
            events.push(self.terminate(instance));
        }
        events
    }

    fn enforce(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, active) in &mut self.instances {
            let Some(draining) = &mut active.draining else { continue };
            if !draining.is_forced && now.since(draining.since) >= self.rules.deadline {
                draining.is_forced = true;
                events.push(Event::Force { instance: *id });
            }
        }
        events
    }

    fn is_long_below(&self, since: Option<Timestamp>, now: Timestamp) -> bool {
        since.is_some_and(|since| now.since(since) >= self.rules.below_for)
    }

    /// Least work left, then least used; never the last one, one that holds state, one that is itself used, or one without
    /// which the others would have too little room.
    fn candidate(&self, now: Timestamp) -> Option<InstanceId> {
        if self.instances.len() == 1 {
            return None;
        }
        let spare = self.instances.iter().filter(|(id, active)| {
            let is_spare = !active.holds_state && self.is_long_below(active.below_since, now);
            is_spare && self.utilisation_without(**id) <= self.rules.high_water
        });
        let least = spare.min_by(|(a_id, a), (b_id, b)| {
            let by_work = a.remaining.cmp(&b.remaining);
            let by_use = a.utilisation().total_cmp(&b.utilisation());
            by_work.then(by_use).then(a_id.cmp(b_id))
        });
        least.map(|(id, _)| *id)
    }
}

impl Active {
    fn is_forced(&self) -> bool {
        self.draining.is_some_and(|draining| draining.is_forced)
    }
}

#[cfg(test)]
mod tests;
