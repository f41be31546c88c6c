//! The warming pool: instances that are ready before anybody asked, and how many replace one that is taken.
//!
//! ```text
//! boot ──▶ booting ──ready──▶ ready ──take──▶ active (assigned to an owner)
//!   ▲                                 │
//!   └────── refill: N for each removal, by the rate; or up to the target, by the forecast
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

/// From `above` requests a second on, each removal is replaced by `refill` instances.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdRule {
    pub above: f64,
    pub refill: u32,
}

/// How a pool is filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmingRules {
    /// Instances for each one that is taken, while no threshold is passed.
    pub refill: u32,
    /// The highest threshold that the rate has passed counts; a rule with a small refill lets the pool shrink.
    pub thresholds: Vec<ThresholdRule>,
    /// Removals are replaced in batches of so many.
    pub batch: u32,
    /// How many may be ready or booting.
    pub count_min: u32,
    /// See `count_min`.
    pub count_max: u32,
    /// How long an instance takes to be ready.
    pub boot: Duration,
}

impl Default for WarmingRules {
    fn default() -> Self {
        Self {
            refill: 1,
            thresholds: Vec::new(),
            batch: 1,
            count_min: 1,
            count_max: 64,
            boot: Duration::from_secs(5),
        }
    }
}

/// What came of a removal: whether an instance was ready, how many are to boot, and why so many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Removal {
    pub was_ready: bool,
    pub boot: u32,
    pub refill_per_removal: u32,
    /// The rate by which that was decided.
    pub rate: f64,
}

/// What brings a pool to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    Boot(u32),
    /// Stop so many that are ready.
    Stop(u32),
    Nothing,
}

/// Instances of one configuration.
#[derive(Clone, Debug, Default)]
pub struct WarmingPool {
    rules: WarmingRules,
    ready: u32,
    booting: u32,
    /// Removals that wait for their batch.
    owed: u32,
}

impl WarmingPool {
    pub fn new(rules: WarmingRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    pub fn ready(&self) -> u32 {
        self.ready
    }

    pub fn booting(&self) -> u32 {
        self.booting
    }

    /// Takes an instance out. The refill counts as booting from now on.
    pub fn take(&mut self, rate: f64) -> Removal {
        let was_ready = self.ready > 0;
        self.ready -= u32::from(was_ready);
        self.owed += 1;
        let refill = self.refill_at(rate);
        let due = if self.owed >= self.rules.batch.max(1) {
            std::mem::take(&mut self.owed)
        } else {
            0
        };
        let boot = due.saturating_mul(refill).min(self.room());
        self.booting += boot;
        Removal {
            was_ready,
            boot,
            refill_per_removal: refill,
            rate,
        }
    }

    fn refill_at(&self, rate: f64) -> u32 {
        let passed = self.rules.thresholds.iter().filter(|rule| rate > rule.above);
        let highest = passed.max_by(|a, b| a.above.total_cmp(&b.above));
        highest.map_or(self.rules.refill, |rule| rule.refill)
    }

    fn room(&self) -> u32 {
        self.rules.count_max.saturating_sub(self.ready + self.booting)
    }

    /// An instance has booted; `false` if it was not expected.
    pub fn booted(&mut self) -> bool {
        let expected = self.booting > 0;
        self.booting -= u32::from(expected);
        self.ready += u32::from(expected);
        expected
    }

    /// An instance did not boot.
    pub fn failed(&mut self) {
        self.booting = self.booting.saturating_sub(1);
    }

    /// How many are to be ready or booting, if removals come at `removals` a second: those that go while
    /// a new one boots.
    pub fn target(&self, removals: f64) -> u32 {
        let going = (removals.max(0.0) * self.rules.boot.as_secs_f64()).ceil();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded, whole and not negative"
        )]
        let going = going.min(f64::from(self.rules.count_max)) as u32;
        going.clamp(self.rules.count_min.min(self.rules.count_max), self.rules.count_max)
    }

    /// Brings the pool to a target. Only what is ready beyond it is stopped: what still boots may be too
    /// much, but it is not there yet.
    pub fn follow(&mut self, target: u32) -> Adjustment {
        let target = target.min(self.rules.count_max);
        let have = self.ready + self.booting;
        if have < target {
            self.booting += target - have;
            return Adjustment::Boot(target - have);
        }
        let surplus = self.ready.saturating_sub(target);
        if surplus == 0 {
            return Adjustment::Nothing;
        }
        self.ready -= surplus;
        Adjustment::Stop(surplus)
    }
}

/// Pools by the size of their instances; a size that none offers gets a pool of its own.
#[derive(Clone, Debug, Default)]
pub struct WarmingPools {
    pools: BTreeMap<Mebibytes, WarmingPool>,
    rules: WarmingRules,
}

impl WarmingPools {
    /// Pools for `sizes`, all with these rules.
    pub fn new(sizes: &[Mebibytes], rules: &WarmingRules) -> Self {
        let pool = |size: &Mebibytes| (*size, WarmingPool::new(rules.clone()));
        Self {
            pools: sizes.iter().map(pool).collect(),
            rules: rules.clone(),
        }
    }

    /// The pool of the smallest size that has room for `amount`, and that size.
    pub fn pool_for(&mut self, amount: Mebibytes) -> (Mebibytes, &mut WarmingPool) {
        let fitting = self.pools.range(amount..).next().map(|(size, _)| *size);
        let size = fitting.unwrap_or(amount);
        let pool = self.pools.entry(size);
        (size, pool.or_insert_with(|| WarmingPool::new(self.rules.clone())))
    }

    pub fn sizes(&self) -> impl Iterator<Item = Mebibytes> + '_ {
        self.pools.keys().copied()
    }
}

#[cfg(test)]
mod tests;
