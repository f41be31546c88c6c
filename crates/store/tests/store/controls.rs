//! A store with a flaw on demand: each check of the suite must notice the flaws it is there for.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use async_trait::async_trait;
use bowline_store::conformance;
use bowline_store::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write, limits};
use futures_util::FutureExt;
use tokio::sync::RwLock;

use crate::fixtures::Lasting;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flaw {
    None,
    IgnoresConditions,
    JudgesAfterTheFirstWrite,
    JudgesLastConditionOnly,
    WritesOneByOne,
    LosesTheLastWrite,
    KeepsTheFirstWriteOfAKey,
    CountsVersionsPerKey,
    CountsFromWhatIsThere,
    AppliesNothingWithoutConditions,
    KeepsDeleted,
    ScansInReverse,
    ScansBeyondThePrefix,
    ScansFromAfterOn,
    ForgetsTheLimit,
    HasNoLimits,
    HasTightLimits,
}

impl Flaw {
    /// Those that one caller alone, within the limits, can notice.
    pub const VISIBLE_ALONE: [Self; 12] = [
        Self::IgnoresConditions,
        Self::JudgesAfterTheFirstWrite,
        Self::JudgesLastConditionOnly,
        Self::LosesTheLastWrite,
        Self::KeepsTheFirstWriteOfAKey,
        Self::CountsVersionsPerKey,
        Self::CountsFromWhatIsThere,
        Self::KeepsDeleted,
        Self::ScansInReverse,
        Self::ScansBeyondThePrefix,
        Self::ScansFromAfterOn,
        Self::ForgetsTheLimit,
    ];
}

#[derive(Debug)]
pub struct Flawed {
    flaw: Flaw,
    /// Keeps commits whole; passed by where that is the flaw.
    gate: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    version: u64,
}

impl Flawed {
    pub fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            gate: RwLock::default(),
            state: Mutex::default(),
        }
    }

    fn judge(&self, conditions: &[Condition]) -> Result<(), CommitError> {
        let state = self.state.lock().unwrap();
        let skipped = match self.flaw {
            Flaw::IgnoresConditions => conditions.len(),
            Flaw::JudgesLastConditionOnly => conditions.len().saturating_sub(1),
            _ => 0,
        };
        let broken = conditions[skipped..].iter().find(|condition| {
            let version = state.entries.get(condition.key()).map(|entry| entry.version);
            !condition.holds(version)
        });
        broken.map_or(Ok(()), |condition| Err(CommitError::Conflict(condition.key().clone())))
    }

    fn apply(&self, write: Write, version: Version) {
        let mut state = self.state.lock().unwrap();
        match write {
            Write::Put(key, value) => {
                let version = match self.flaw {
                    Flaw::CountsVersionsPerKey => Version(state.entries.get(&key).map_or(1, |old| old.version.0 + 1)),
                    _ => version,
                };
                let taken = state.entries.get(&key).is_some_and(|old| old.version == version);
                if self.flaw != Flaw::KeepsTheFirstWriteOfAKey || !taken {
                    state.entries.insert(key, Entry { value, version });
                }
            }
            Write::Delete(_) if self.flaw == Flaw::KeepsDeleted => {}
            Write::Delete(key) => drop(state.entries.remove(&key)),
        }
    }

    fn next_version(&self) -> Version {
        let mut state = self.state.lock().unwrap();
        if self.flaw == Flaw::CountsFromWhatIsThere {
            state.version = state.entries.values().map(|entry| entry.version.0).max().unwrap_or(0);
        }
        state.version += 1;
        Version(state.version)
    }
}

#[async_trait]
impl Store for Flawed {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        let _whole = self.gate.read().await;
        Ok(self.state.lock().unwrap().entries.get(key).cloned())
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        let _whole = self.gate.read().await;
        let state = self.state.lock().unwrap();
        let matches = |key: &Key| {
            let begins = key.starts_with(prefix) || (self.flaw == Flaw::ScansBeyondThePrefix && key > prefix);
            let comes_after =
                after.is_none_or(|after| key > after || (self.flaw == Flaw::ScansFromAfterOn && key == after));
            begins && comes_after
        };
        let found = state
            .entries
            .iter()
            .filter(|(key, _)| matches(key))
            .map(|(key, entry)| (key.clone(), entry.clone()));
        let limit = if self.flaw == Flaw::ForgetsTheLimit {
            usize::MAX
        } else {
            limit
        };
        if self.flaw == Flaw::ScansInReverse {
            return Ok(found.rev().take(limit).collect());
        }
        Ok(found.take(limit).collect())
    }

    async fn commit(&self, conditions: Vec<Condition>, mut writes: Vec<Write>) -> Result<Version, CommitError> {
        let _whole = match self.flaw {
            Flaw::WritesOneByOne => None,
            _ => Some(self.gate.write().await),
        };
        match self.flaw {
            Flaw::HasNoLimits => {}
            Flaw::HasTightLimits if writes.len() >= limits::WRITES_PER_COMMIT_MAX => {
                return Err(CommitError::TooLarge("tight".to_owned()));
            }
            _ => {
                limits::check(&conditions, &writes)?;
            }
        }
        if self.flaw == Flaw::AppliesNothingWithoutConditions && conditions.is_empty() {
            return Ok(self.next_version());
        }
        if self.flaw == Flaw::JudgesAfterTheFirstWrite && !writes.is_empty() {
            let version = self.next_version();
            self.apply(writes.remove(0), version);
        }
        self.judge(&conditions)?;
        if self.flaw == Flaw::WritesOneByOne {
            tokio::task::yield_now().await;
        }
        let version = self.next_version();
        if self.flaw == Flaw::LosesTheLastWrite && writes.len() > 1 {
            writes.pop();
        }
        for write in writes {
            self.apply(write, version);
            if self.flaw == Flaw::WritesOneByOne {
                tokio::task::yield_now().await;
            }
        }
        Ok(version)
    }
}

/// Expects that `check` passes without the flaw and panics with each of `flaws`.
macro_rules! noticed {
    ($($check:ident: $($flaw:ident)+;)*) => {
        $(
            // One thread, so that the tasks of a check take turns at every await, each time the same.
            #[tokio::test(flavor = "current_thread")]
            async fn $check() {
                conformance::$check(&mut Lasting::new(Flawed::new(Flaw::None))).await;
                for flaw in [$(Flaw::$flaw),+] {
                    let mut fixture = Lasting::new(Flawed::new(flaw));
                    let passed = AssertUnwindSafe(conformance::$check(&mut fixture)).catch_unwind().await;
                    assert!(passed.is_err(), "{flaw:?} went unnoticed");
                }
            }
        )*
    };
}

noticed! {
    a_get_sees_what_was_committed: AppliesNothingWithoutConditions LosesTheLastWrite;
    a_deleted_key_has_no_value: KeepsDeleted;
    a_broken_condition_applies_nothing: IgnoresConditions JudgesAfterTheFirstWrite JudgesLastConditionOnly;
    conditions_are_judged_before_the_writes: JudgesAfterTheFirstWrite IgnoresConditions;
    the_last_write_of_a_key_counts: KeepsTheFirstWriteOfAKey LosesTheLastWrite;
    a_commit_without_writes_only_judges: IgnoresConditions;
    all_keys_of_a_commit_share_its_version: CountsVersionsPerKey;
    versions_never_repeat: CountsFromWhatIsThere;
    what_was_committed_survives_reopening: KeepsDeleted AppliesNothingWithoutConditions;
    scans_agree_with_a_filter: ScansInReverse ScansBeyondThePrefix ScansFromAfterOn ForgetsTheLimit;
    pages_make_up_the_whole: ScansInReverse ScansBeyondThePrefix;
    one_of_many_creators_wins: IgnoresConditions WritesOneByOne;
    no_increment_is_lost: IgnoresConditions;
    a_scan_sees_whole_commits: WritesOneByOne;
    a_dropped_commit_is_whole_or_nothing: WritesOneByOne;
    many_commits_wait_together: AppliesNothingWithoutConditions;
    what_exceeds_a_limit_is_refused: HasNoLimits;
    what_reaches_a_limit_is_taken: HasTightLimits;
}
