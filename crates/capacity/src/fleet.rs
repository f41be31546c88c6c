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

/// Buckets of the longest window.
const BUCKETS_MAX: u64 = 8640;
/// The longest dwell time.
const DWELL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

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

    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
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
    /// How long an idle sandbox stays at most in a fleet that does not keep code.
    #[serde(default = "idle_max")]
    pub idle_max: Duration,
}

const fn idle_max() -> Duration {
    Duration::from_secs(60)
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            window: Window::default(),
            promote_at: 1.0,
            demote_at: 0.5,
            dwell_min: Duration::from_secs(120),
            idle_max: idle_max(),
        }
    }
}

impl Criteria {
    /// What is wrong with them, if anything is.
    pub fn objection(&self) -> Option<String> {
        let Window {
            bucket_seconds,
            buckets,
        } = self.window;
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        if bucket_seconds == 0 || buckets == 0 || buckets > BUCKETS_MAX {
            return Some(format!("a window has 1 to {BUCKETS_MAX} buckets of at least a second"));
        }
        if !is_rate(self.promote_at) || !is_rate(self.demote_at) || self.demote_at > self.promote_at {
            return Some(format!(
                "both rates are above 0, and code is demoted at no more than it is promoted at: not at {} and {}",
                self.demote_at, self.promote_at
            ));
        }
        (self.dwell_min > DWELL_MAX).then(|| format!("code dwells for at most {} seconds", DWELL_MAX.as_secs()))
    }
}

/// What is stored of one code: its counts, its class, and since when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
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

    pub fn criteria(&self) -> &Criteria {
        &self.criteria
    }

    /// Counts requests that came at `at`, where they are not routed one by one.
    pub fn counted(&mut self, code: Code, many: u64, at: Timestamp) {
        let usage = self.usage.entry(code).or_default();
        usage.counts.add_many(&self.criteria.window, many, at);
    }

    /// What is to be stored of a code; `None` if it is not known.
    pub fn usage(&self, code: Code) -> Option<&Usage> {
        self.usage.get(&code)
    }

    /// Goes on from what was stored of a code; whether it is such as is stored here.
    pub fn recall(&mut self, code: Code, usage: Usage) -> bool {
        let is_good = usage.counts.are_in_order(BUCKETS_MAX);
        if is_good {
            self.usage.insert(code, usage);
        }
        is_good
    }

    /// The codes that are known.
    pub fn codes(&self) -> impl Iterator<Item = Code> + '_ {
        self.usage.keys().copied()
    }

    /// Forgets a code of which no more is known than of any that never ran: rare, and not called within the window.
    pub fn forget_idle(&mut self, code: Code, now: Timestamp) -> bool {
        let criteria = &self.criteria;
        let Some(usage) = self.usage.get_mut(&code) else {
            return false;
        };
        usage.judge(criteria, now);
        let is_idle = usage.class == Class::Low
            && usage.counts.within(&criteria.window, now) == 0
            && now.since(usage.class_since) >= criteria.dwell_min;
        if is_idle {
            self.usage.remove(&code);
        }
        is_idle
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
    pub fn class(&self) -> Class {
        self.class
    }

    /// When it came to its class.
    pub fn class_since(&self) -> Timestamp {
        self.class_since
    }

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
