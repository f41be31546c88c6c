//! Fleets by how often code runs: rare code goes to one, busy code to the other, whatever it is and
//! whosever it is.
//!
//! ```text
//!            rate >= promote, after the dwell time
//!   low ───────────────────────────────────────────▶ high
//!    ▲                                                │
//!    └──────────── rate < demote, after the dwell time┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::draining::Placement;
use crate::identity::Code;
use crate::rate::{Counts, Window};

/// The kind of load a fleet is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    #[default]
    Low,
    High,
}

impl Class {
    pub fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    /// How a fleet of this class is run: the high one keeps code loaded and spreads it, the low one drops
    /// idle code and packs tightly.
    pub fn practice(self) -> Practice {
        match self {
            Self::Low => Practice {
                keeps_code: false,
                placement: Placement::Pack,
            },
            Self::High => Practice {
                keeps_code: true,
                placement: Placement::Spread,
            },
        }
    }
}

/// How a fleet is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Practice {
    /// Whether sandboxes and cached code stay between bursts.
    pub keeps_code: bool,
    pub placement: Placement,
}

/// By what code is promoted and demoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criteria {
    pub window: Window,
    /// Requests a second.
    pub promote_at: f64,
    /// See `promote_at`; lower, so that a rate near the line does not go back and forth.
    pub demote_at: f64,
    /// How long code stays in a class at least.
    pub dwell_min: Duration,
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            window: Window::default(),
            promote_at: 1.0,
            demote_at: 0.5,
            dwell_min: Duration::from_secs(120),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Usage {
    counts: Counts,
    class: Class,
    class_since: Timestamp,
    changes: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    pub class: Class,
    /// Whether it was meant for the other fleet, which had no room.
    pub is_spilled: bool,
}

/// Knows how often each code runs. It is stored as a whole and goes on from there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Router {
    criteria: Criteria,
    usage: BTreeMap<Code, Usage>,
}

impl Router {
    pub fn new(criteria: Criteria) -> Self {
        Self {
            criteria,
            usage: BTreeMap::new(),
        }
    }

    /// Changes the criteria; code moves when its dwell time has passed.
    pub fn set_criteria(&mut self, criteria: Criteria) {
        self.criteria = criteria;
    }

    /// Counts a request and says which fleet it is for. Unknown code is rare.
    pub fn arrived(&mut self, code: Code, now: Timestamp) -> Class {
        let criteria = &self.criteria;
        let usage = self.usage.entry(code).or_default();
        usage.counts.add(&criteria.window, now);
        usage.judge(criteria, now);
        usage.class
    }

    /// The class of code, as things stand at `now`.
    pub fn class(&mut self, code: Code, now: Timestamp) -> Class {
        let Some(usage) = self.usage.get_mut(&code) else {
            return Class::Low;
        };
        usage.judge(&self.criteria, now);
        usage.class
    }

    /// Counts a request and sends it to its fleet, or to the other if only that one has room.
    pub fn route(&mut self, code: Code, now: Timestamp, has_room: impl Fn(Class) -> bool) -> Option<Routed> {
        let wanted = self.arrived(code, now);
        let order = [(wanted, false), (wanted.other(), true)];
        let found = order.into_iter().find(|(class, _)| has_room(*class));
        found.map(|(class, is_spilled)| Routed { class, is_spilled })
    }

    /// How many requests each bucket of the window had.
    pub fn counts(&self, code: Code, now: Timestamp) -> Vec<(u64, u64)> {
        let usage = self.usage.get(&code);
        let buckets = usage.map(|usage| usage.counts.buckets(&self.criteria.window, now).collect());
        buckets.unwrap_or_default()
    }

    /// How many requests came for this code in the window: what [`Bands`] choose by.
    pub fn count(&self, code: Code, now: Timestamp) -> u64 {
        let usage = self.usage.get(&code);
        usage.map_or(0, |usage| usage.counts.within(&self.criteria.window, now))
    }

    /// How often code has changed its class.
    pub fn changes(&self, code: Code) -> u32 {
        self.usage.get(&code).map_or(0, |usage| usage.changes)
    }
}

impl Usage {
    fn judge(&mut self, criteria: &Criteria, now: Timestamp) {
        let rate = self.counts.rate(&criteria.window, now);
        let class = match self.class {
            Class::Low if rate >= criteria.promote_at => Class::High,
            Class::High if rate < criteria.demote_at => Class::Low,
            same => same,
        };
        if class != self.class && now.since(self.class_since) >= criteria.dwell_min {
            (self.class, self.class_since) = (class, now);
            self.changes += 1;
        }
    }
}

/// Several managers of capacity, each for the codes whose count in the window lies in its band.
#[derive(Clone, Debug)]
pub struct Bands<M>(Vec<(u64, M)>);

impl<M> Bands<M> {
    /// Managers by the count at which their band begins; the first begins at nought.
    pub fn new(first: M, others: impl IntoIterator<Item = (u64, M)>) -> Self {
        let mut bands: Vec<(u64, M)> = std::iter::once((0, first)).chain(others).collect();
        bands.sort_by_key(|(from, _)| *from);
        Self(bands)
    }

    /// The manager of a code with so many requests in the window.
    pub fn manager(&self, count: u64) -> &M {
        let after = self.0.partition_point(|(from, _)| *from <= count);
        &self.0[after - 1].1
    }
}

#[cfg(test)]
mod tests;
