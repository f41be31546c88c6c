//! Sizes: what a function was given at first, what it really uses, and so what it gets from now on.
//!
//! A profile belongs to one code, one owner and one amount that they asked for. In `auto` the amount of
//! later runs follows the use, though requests still name the first; in `suggest` it is only advised.
//! [`judge`] alone decides, from the samples that a change then cites, so that each change can be
//! computed again from its evidence.

use std::collections::{BTreeMap, VecDeque};

use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::identity::{Code, Owner, RunId};

/// When an amount is changed, and by how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdjustmentCondition {
    /// A run whose peak reaches this share of its limit uses too much of it.
    pub over_ratio: f64,
    /// One whose peak stays below this share uses too little.
    pub under_ratio: f64,
    /// So many runs in a row must agree; for failures, so many of the window.
    pub runs_min: usize,
    /// The share of runs that fail for want of memory.
    pub fail_share: f64,
    /// How many of the latest runs count.
    pub window: usize,
    /// A function that uses too much gets so many times its amount.
    pub step_up: f64,
    /// One that fails gets so many times its amount, since its true need was not seen.
    pub step_after_failures: f64,
    /// One that uses too little gets so many times the peak that 99 of 100 runs stay within.
    pub headroom: f64,
    pub amount_min: Mebibytes,
    pub amount_max: Mebibytes,
    /// How many runs have to pass between two changes.
    pub cooldown_runs: usize,
}

impl Default for AdjustmentCondition {
    fn default() -> Self {
        Self {
            over_ratio: 0.95,
            under_ratio: 0.5,
            runs_min: 10,
            fail_share: 0.1,
            window: 100,
            step_up: 1.25,
            step_after_failures: 2.0,
            headroom: 1.2,
            amount_min: Mebibytes(32),
            amount_max: Mebibytes(10_240),
            cooldown_runs: 10,
        }
    }
}

/// What is done about a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Later runs get the new amount.
    Auto,
    /// It is advised; nothing changes until it is accepted.
    #[default]
    Suggest,
    /// Nothing.
    Off,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    OutOfMemory,
    TimedOut,
    Failed,
}

/// What one run used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub run: RunId,
    pub limit: Mebibytes,
    pub peak: Mebibytes,
    pub duration_ms: u64,
    pub outcome: Outcome,
}

/// Whose size it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProfileKey {
    pub code: Code,
    pub owner: Owner,
    pub requested: Mebibytes,
}

/// Why an amount is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    UsesTooMuch,
    UsesTooLittle,
    FailsForWantOfMemory,
    /// A person took it back.
    RolledBack,
}

/// An amount to change to, and the runs that speak for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub from: Mebibytes,
    pub to: Mebibytes,
    pub reason: Reason,
    /// Oldest first; [`judge`] comes to the same from these alone.
    pub evidence: Vec<Sample>,
    /// Whether it would be more, but for the most that is allowed.
    pub is_capped: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Later runs get the new amount.
    Changed(Change),
    /// The new amount is advised.
    Suggested(Change),
    /// More memory is wanted, but the instance has none left to give.
    Withheld { amount: Mebibytes, unallocated: Mebibytes },
}

/// The size of one function for one owner and one requested amount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    requested: Mebibytes,
    effective: Mebibytes,
    mode: Mode,
    /// The latest runs with the effective amount, oldest first.
    samples: VecDeque<Sample>,
    runs_since_change: usize,
    suggestion: Option<Change>,
    history: Vec<Change>,
}

/// Changes are remembered up to this many.
const HISTORY_MAX: usize = 8;

/// Decides on a change from runs that all had the limit `effective`.
pub fn judge<'a>(
    condition: &AdjustmentCondition,
    effective: Mebibytes,
    samples: impl DoubleEndedIterator<Item = &'a Sample> + Clone,
) -> Option<Change> {
    let failed: Vec<&Sample> = samples
        .clone()
        .filter(|sample| sample.outcome == Outcome::OutOfMemory)
        .collect();
    let all = samples.clone().count();
    if failed.len() >= condition.runs_min && count(failed.len()) >= condition.fail_share * count(all) {
        let to = scaled(effective, condition.step_after_failures);
        let evidence = samples.copied().collect();
        return Some(condition.change(effective, to, Reason::FailsForWantOfMemory, evidence));
    }
    let share = |sample: &Sample| f64::from(sample.peak.0) / f64::from(sample.limit.0.max(1));
    let run_of = |holds: &dyn Fn(&Sample) -> bool| -> Vec<Sample> {
        let row = samples.clone().rev().take_while(|sample| holds(sample));
        let mut row: Vec<Sample> = row.copied().collect();
        row.reverse();
        row
    };
    let over = run_of(&|sample| share(sample) >= condition.over_ratio);
    if over.len() >= condition.runs_min {
        let to = scaled(effective, condition.step_up);
        return Some(condition.change(effective, to, Reason::UsesTooMuch, over));
    }
    let under = run_of(&|sample| sample.outcome == Outcome::Ok && share(sample) < condition.under_ratio);
    if under.len() >= condition.runs_min {
        let to = scaled(peak_p99(&under), condition.headroom);
        return Some(condition.change(effective, to, Reason::UsesTooLittle, under));
    }
    None
}

fn peak_p99(samples: &[Sample]) -> Mebibytes {
    let mut peaks: Vec<Mebibytes> = samples.iter().map(|sample| sample.peak).collect();
    peaks.sort_unstable();
    peaks[(peaks.len() * 99).div_ceil(100).max(1) - 1]
}

#[allow(clippy::cast_precision_loss, reason = "a window of runs is small")]
fn count(runs: usize) -> f64 {
    runs as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded up, not negative, and saturating"
)]
fn scaled(amount: Mebibytes, factor: f64) -> Mebibytes {
    Mebibytes((f64::from(amount.0) * factor).ceil() as u32)
}

impl AdjustmentCondition {
    fn change(&self, from: Mebibytes, wanted: Mebibytes, reason: Reason, evidence: Vec<Sample>) -> Change {
        let to = wanted.max(self.amount_min).min(self.amount_max);
        Change {
            from,
            to,
            reason,
            evidence,
            is_capped: wanted > self.amount_max,
        }
    }
}

impl Profile {
    /// The size as it was asked for.
    pub fn new(requested: Mebibytes, mode: Mode) -> Self {
        Self {
            requested,
            effective: requested,
            mode,
            samples: VecDeque::new(),
            runs_since_change: 0,
            suggestion: None,
            history: Vec::new(),
        }
    }

    pub fn requested(&self) -> Mebibytes {
        self.requested
    }

    /// What later runs get.
    pub fn effective(&self) -> Mebibytes {
        self.effective
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn suggestion(&self) -> Option<&Change> {
        self.suggestion.as_ref()
    }

    /// All changes so far, the latest last.
    pub fn history(&self) -> &[Change] {
        &self.history
    }

    /// The latest runs, oldest first.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> + Clone {
        self.samples.iter()
    }

    /// The same without samples: what is worth keeping, and what a new version begins with.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self {
            samples: VecDeque::new(),
            runs_since_change: 0,
            ..self.clone()
        }
    }

    /// Follows what was committed. The samples stay as long as they speak for the same size.
    pub fn follow(&mut self, committed: &Self) {
        let what = |profile: &Self| (profile.requested, profile.effective, profile.mode);
        if what(self) == what(committed) {
            self.suggestion.clone_from(&committed.suggestion);
            self.history.clone_from(&committed.history);
        } else {
            *self = committed.settled();
        }
    }

    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Accepts what was suggested; the change is returned, if there was one.
    pub fn accept(&mut self) -> Option<Change> {
        let change = self.suggestion.take().filter(|change| change.to != self.effective)?;
        self.apply(change.clone());
        Some(change)
    }

    /// Takes the latest change back, and leaves the mode at advice, lest it be made again at once.
    pub fn roll_back(&mut self) -> Option<Change> {
        let last = self.history.last()?;
        let back = Change {
            from: self.effective,
            to: last.from,
            reason: Reason::RolledBack,
            evidence: Vec::new(),
            is_capped: false,
        };
        self.apply(back.clone());
        if self.mode == Mode::Auto {
            self.mode = Mode::Suggest;
        }
        Some(back)
    }

    /// Takes note of a run; `unallocated` is what there is left to give.
    pub fn record(&mut self, condition: &AdjustmentCondition, sample: Sample, unallocated: Mebibytes) -> Option<Event> {
        if self.mode == Mode::Off || sample.limit != self.effective {
            // A run that began with another amount says nothing of this one.
            return None;
        }
        self.samples.push_back(sample);
        if self.samples.len() > condition.window {
            self.samples.pop_front();
        }
        self.runs_since_change += 1;
        if self.runs_since_change < condition.cooldown_runs {
            return None;
        }
        let change = judge(condition, self.effective, self.samples.iter())?;
        if change.to == self.effective && !change.is_capped {
            return None;
        }
        if change.reason == Reason::FailsForWantOfMemory && unallocated.0 == 0 {
            let amount = change.to;
            return Some(Event::Withheld { amount, unallocated });
        }
        match self.mode {
            Mode::Auto => {
                // At the cap there is nothing to change, but it is to be said, once.
                if change.to == self.effective {
                    return self.suggest(change);
                }
                self.apply(change.clone());
                Some(Event::Changed(change))
            }
            Mode::Suggest => self.suggest(change),
            Mode::Off => None,
        }
    }

    /// Advises a change, unless it is advised already, to a tenth.
    fn suggest(&mut self, change: Change) -> Option<Event> {
        let is_alike = |old: &Change| {
            let difference = u64::from(old.to.0.abs_diff(change.to.0));
            old.reason == change.reason && difference * 10 <= u64::from(old.to.0)
        };
        if self.suggestion.as_ref().is_some_and(is_alike) {
            return None;
        }
        self.suggestion = Some(change.clone());
        Some(Event::Suggested(change))
    }

    fn apply(&mut self, change: Change) {
        self.effective = change.to;
        self.samples.clear();
        self.runs_since_change = 0;
        self.suggestion = None;
        if self.history.len() == HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(change);
    }
}

/// The sizes of all functions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sizer {
    condition: AdjustmentCondition,
    mode: Mode,
    #[serde(with = "pairs")]
    profiles: BTreeMap<ProfileKey, Profile>,
}

impl Sizer {
    /// A sizer whose new profiles begin in `mode`.
    pub fn new(condition: AdjustmentCondition, mode: Mode) -> Self {
        Self {
            condition,
            mode,
            profiles: BTreeMap::new(),
        }
    }

    /// What a run gets.
    pub fn effective(&self, key: &ProfileKey) -> Mebibytes {
        self.profiles.get(key).map_or(key.requested, Profile::effective)
    }

    pub fn profile(&self, key: &ProfileKey) -> Option<&Profile> {
        self.profiles.get(key)
    }

    pub fn set_mode(&mut self, key: ProfileKey, mode: Mode) {
        self.entry(key).set_mode(mode);
    }

    /// Takes note of a run; `unallocated` is what its instance has left to give.
    pub fn record(&mut self, key: ProfileKey, sample: Sample, unallocated: Mebibytes) -> Option<Event> {
        let condition = self.condition.clone();
        self.entry(key).record(&condition, sample, unallocated)
    }

    /// Accepts what was suggested; the change is returned, if there was one.
    pub fn accept(&mut self, key: &ProfileKey) -> Option<Change> {
        self.profiles.get_mut(key)?.accept()
    }

    /// Takes the latest change back, and leaves the mode at advice, lest it be made again at once.
    pub fn roll_back(&mut self, key: &ProfileKey) -> Option<Change> {
        self.profiles.get_mut(key)?.roll_back()
    }

    /// A new version of a function begins with the sizes of the old one and counts of its own.
    pub fn succeed(&mut self, old: Code, new: Code) {
        let of_old: Vec<(ProfileKey, Profile)> = self
            .profiles
            .iter()
            .filter(|(key, _)| key.code == old)
            .map(|(key, profile)| {
                let heir = Profile {
                    effective: profile.effective,
                    ..Profile::new(profile.requested, profile.mode)
                };
                (ProfileKey { code: new, ..*key }, heir)
            })
            .collect();
        self.profiles.extend(of_old);
    }

    fn entry(&mut self, key: ProfileKey) -> &mut Profile {
        let mode = self.mode;
        self.profiles
            .entry(key)
            .or_insert_with(|| Profile::new(key.requested, mode))
    }
}

/// Maps whose keys are structures, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Profile, ProfileKey};

    pub fn serialize<S: Serializer>(map: &BTreeMap<ProfileKey, Profile>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<ProfileKey, Profile>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The amount of a second resource that goes with `amount` of the first: the same share of its maximum.
/// Rounded down; `None` if there is nothing to take a share of.
pub fn derived(amount: u64, maximum: u64, other_maximum: u64) -> Option<u64> {
    let product = u128::from(amount) * u128::from(other_maximum);
    let share = product.checked_div(u128::from(maximum))?;
    u64::try_from(share).ok()
}

#[cfg(test)]
mod tests;
