//! Fleets by how often code runs: each is for a band of frequencies, whatever code it is and whosever.
//!
//! ```text
//!   frequency   0 ───────── 10 ─────────────── 100 ──────────▶
//!   fleets      │  low      │  10+             │  100+
//!               └ code goes up at a fleet's line, and down once it is well below it, each after the dwell time
//! ```
//! `low` and `high` are two of them: those below and above the rate that the criteria say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::draining::Placement;
use crate::identity::Code;
use crate::rate::{Counts, Window};

/// Buckets of the longest window.
const BUCKETS_MAX: u64 = 8640;
/// The longest dwell time.
const DWELL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The load that a fleet is for; the band of each ends where the next one of the account's begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Class {
    /// Whatever belongs to no other, and what nothing is known of.
    #[default]
    Low,
    /// So many requests within the window, or more.
    From(NonZeroU32),
    /// The rate at which the criteria promote, or more.
    High,
}

/// What is no name of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a fleet is `low`, `high`, or for so many requests within the window and more, as `10+`: not `{0}`")]
pub struct NoClass(String);

impl Class {
    /// How a fleet of this class is run: the low one drops idle code and packs tightly, the others keep code loaded and
    /// spread it.
    pub fn practice(self) -> Practice {
        match self {
            Self::Low => Practice {
                keeps_code: false,
                placement: Placement::Pack,
            },
            Self::From(_) | Self::High => Practice {
                keeps_code: true,
                placement: Placement::Spread,
            },
        }
    }

    /// Where code of this class runs, the best place first: in its own fleet, else in one for less load, the nearest
    /// first, else in one for more.
    pub fn places(self, fleets: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let (below, mut above): (BTreeSet<_>, BTreeSet<_>) = fleets.into_iter().partition(|class| *class < self);
        let own = above.take(&self);
        own.into_iter().chain(below.into_iter().rev()).chain(above).collect()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.write_str("low"),
            Self::From(count) => write!(f, "{count}+"),
            Self::High => f.write_str("high"),
        }
    }
}

impl FromStr for Class {
    type Err = NoClass;

    fn from_str(text: &str) -> Result<Self, NoClass> {
        match text {
            "low" => Ok(Self::Low),
            "high" => Ok(Self::High),
            _ => {
                let count = text.strip_suffix('+').and_then(|count| count.parse().ok());
                let class = count.map(Self::From).filter(|class| class.to_string() == text);
                class.ok_or_else(|| NoClass(text.to_owned()))
            }
        }
    }
}

impl TryFrom<String> for Class {
    type Error = NoClass;

    fn try_from(text: String) -> Result<Self, NoClass> {
        text.parse()
    }
}

impl From<Class> for String {
    fn from(class: Class) -> Self {
        class.to_string()
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
    /// Requests a second from which on code comes to a class.
    fn rises(&self, class: Class) -> f64 {
        match class {
            Class::Low => 0.0,
            Class::From(count) => f64::from(count.get()) / self.window.length().as_secs_f64(),
            Class::High => self.promote_at,
        }
    }

    /// Requests a second below which code leaves a class.
    fn falls(&self, class: Class) -> f64 {
        match class {
            Class::Low => 0.0,
            Class::From(_) => self.rises(class) * (self.demote_at / self.promote_at),
            Class::High => self.demote_at,
        }
    }

    /// The class of code with such a rate that was in another `before`.
    fn judge(&self, before: Class, fleets: &[Class], rate: f64) -> Class {
        let by_line = |one: &Class, other: &Class| self.rises(*one).total_cmp(&self.rises(*other));
        let highest = |line: fn(&Self, Class) -> f64| {
            let reached = fleets.iter().copied().filter(|class| rate >= line(self, *class));
            reached.max_by(by_line).unwrap_or_default()
        };
        let (at_least, at_most) = (highest(Self::rises), highest(Self::falls));
        if !fleets.contains(&before) || by_line(&before, &at_least).is_lt() {
            at_least
        } else if by_line(&before, &at_most).is_gt() {
            at_most
        } else {
            before
        }
    }

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

/// Knows how often each code runs. It is stored as a whole and goes on from there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Router {
    criteria: Criteria,
    fleets: Vec<Class>,
    usage: BTreeMap<Code, Usage>,
}

impl Default for Router {
    fn default() -> Self {
        Self::new(Criteria::default())
    }
}

impl Router {
    /// One for two fleets, the low and the high one.
    pub fn new(criteria: Criteria) -> Self {
        Self {
            criteria,
            fleets: vec![Class::Low, Class::High],
            usage: BTreeMap::new(),
        }
    }

    /// Changes which fleets there are, beside the low one; code moves as by changed criteria.
    pub fn set_fleets(&mut self, fleets: impl IntoIterator<Item = Class>) {
        self.fleets.clear();
        self.fleets.push(Class::Low);
        self.fleets.extend(fleets);
        self.fleets.sort();
        self.fleets.dedup();
    }

    /// The fleets, and with how many requests in the window the band of each begins; the lowest first.
    pub fn bands(&self) -> Vec<(Class, u64)> {
        let seconds = self.criteria.window.length().as_secs_f64();
        let line = |class: &Class| match class {
            Class::From(count) => u64::from(count.get()),
            class => (self.criteria.rises(*class) * seconds).ceil() as u64,
        };
        let mut bands: Vec<_> = self.fleets.iter().map(|class| (*class, line(class))).collect();
        bands.sort_by_key(|(_, from)| *from);
        bands
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
        // The bucket in which the window begins is kept too.
        let is_good = usage.counts.are_in_order(BUCKETS_MAX + 1);
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
        usage.judge((criteria, &self.fleets), now);
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
        usage.judge((criteria, &self.fleets), now);
        usage.class
    }

    /// The class of code, as things stand at `now`.
    pub fn class(&mut self, code: Code, now: Timestamp) -> Class {
        let Some(usage) = self.usage.get_mut(&code) else {
            return Class::Low;
        };
        usage.judge((&self.criteria, &self.fleets), now);
        usage.class
    }

    /// How many requests each bucket of the window had.
    pub fn counts(&self, code: Code, now: Timestamp) -> Vec<(u64, u64)> {
        let usage = self.usage.get(&code);
        let buckets = usage.map(|usage| usage.counts.buckets(&self.criteria.window, now).collect());
        buckets.unwrap_or_default()
    }

    /// How many requests came for this code in the window: what chooses its fleet.
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

    fn judge(&mut self, (criteria, fleets): (&Criteria, &[Class]), now: Timestamp) {
        let rate = self.counts.rate(&criteria.window, now);
        let class = criteria.judge(self.class, fleets, rate);
        if class != self.class && now.since(self.class_since) >= criteria.dwell_min {
            (self.class, self.class_since) = (class, now);
            self.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests;
