//! The active instances: where a request goes, and which instance is emptied when there is too much room.
//!
//! ```text
//!               below the line for long enough: marked
//!   ┌────────┐ ────────────────────────────────────▶ ┌──────────┐ ──last run ends──▶ terminated
//!   │ active │                                       │ draining │ ──deadline passes─▶ forced, then terminated
//!   └────────┘ ◀──────────────────────────────────── └──────────┘
//!               demand has no room elsewhere: unmarked
//! ```
//! A marked instance gets nothing, although it runs and has room, so that its runs end and it can go.

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

#[derive(Clone, Debug)]
struct Active {
    capacity: u64,
    allocated: u64,
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

    #[allow(clippy::cast_precision_loss, reason = "a share needs no more")]
    fn utilisation(&self) -> f64 {
        self.allocated as f64 / self.capacity.max(1) as f64
    }
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

    /// The share of all room that is used; nought without instances.
    pub fn utilisation(&self) -> f64 {
        let sum = |of: fn(&Active) -> u64| self.instances.values().map(of).sum::<u64>();
        to_f64(sum(|active| active.allocated)) / to_f64(sum(|active| active.capacity).max(1))
    }

    /// The share that is used of all instances but `without`.
    fn utilisation_without(&self, without: InstanceId, moved: u64) -> f64 {
        let rest = self.instances.iter().filter(|(id, _)| **id != without);
        let (allocated, capacity) = rest.fold((0, 0), |(allocated, capacity), (_, active)| {
            (allocated + active.allocated, capacity + active.capacity)
        });
        if capacity == 0 {
            f64::INFINITY
        } else {
            to_f64(allocated + moved) / to_f64(capacity)
        }
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

    /// Looks at the use of all: marks one instance if it has been too low for long enough, and sees to
    /// deadlines.
    pub fn observe(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = self.enforce(now);
        let utilisation = self.utilisation();
        if utilisation >= self.rules.low_water {
            self.below_since = None;
            return events;
        }
        let since = *self.below_since.get_or_insert(now);
        let is_draining = self.instances.values().any(|active| active.draining.is_some());
        if now.since(since) < self.rules.below_for || is_draining {
            return events;
        }
        let Some(instance) = self.candidate() else {
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

    /// Least work left, then least used; never the last one, one that holds state, or one without which
    /// the others would have too little room.
    fn candidate(&self) -> Option<InstanceId> {
        let spare = self.instances.iter().filter(|(id, active)| {
            let afterwards = self.utilisation_without(**id, active.allocated);
            !active.holds_state && afterwards <= self.rules.high_water
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
