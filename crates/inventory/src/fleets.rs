//! Fleets: an account's instances, each for versions that are called so often; a fleet is the manager of its band.
//!
//! ```text
//!   calls, told every few seconds ─▶ Router: bands, hysteresis ─▶ class ─▶ Roster::choose: the fleet's instances, then another's ─▶ Acquisition
//!                                      └─ every TICK and at the stop ─▶ a record a version ─▶ start: goes on from there
//! ```
//! There are fleets where an instance's file says `fleet = "high"` or, say, `"10+"`. Everything else costs an account without one nothing.
//! Each node keeps what it has seen itself, for it has instances of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bowline_capacity::fleet::{Class, Criteria, Router, Usage};
use bowline_capacity::identity::Code;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_sandbox::{Berth, Stand, VersionSpec};
use parking_lot::Mutex;

use crate::book::{BookError, Caller};
use crate::model::{FleetsRecord, UsageRecord};
use crate::roster::{Choice, Wanted};
use crate::service::{Error, Handle, Shared};

/// How often what was seen is written down, and the criteria are read again, which another node may have changed.
const TICK: Duration = Duration::from_secs(10);
/// So many of an account's latest acquisitions are told.
const ACQUIRED_MAX: usize = 100;

/// How often the versions of accounts with fleets are called.
#[derive(Default)]
pub(crate) struct Fleets(Mutex<State>);

#[derive(Default)]
struct State {
    accounts: HashMap<AccountId, Account>,
    /// Of those that have said any.
    criteria: HashMap<AccountId, Criteria>,
}

#[derive(Default)]
struct Account {
    router: Router,
    codes: HashMap<Name, Code>,
    next: u64,
    /// What the store has of each.
    kept: HashMap<Name, Usage>,
    /// The latest last.
    acquired: VecDeque<Acquisition>,
}

/// A function and its version.
type Name = (String, String);

/// By what an account's versions are sent to its fleets, and where they belong.
#[derive(Clone, Debug)]
pub struct FleetsView {
    /// Whether its instances are in fleets on this node.
    pub has_fleets: bool,
    pub criteria: Criteria,
    /// The lowest first; none where there are no fleets.
    pub fleets: Vec<FleetView>,
    pub versions: Vec<VersionView>,
    /// The latest last.
    pub acquired: Vec<Acquisition>,
}

/// A fleet and its band.
#[derive(Clone, Debug)]
pub struct FleetView {
    pub class: Class,
    /// The requests within the window with which its band begins; it ends where the next one's begins.
    pub from: u64,
    pub instances: Vec<String>,
}

/// A fleet had one of its instances make a sandbox of a version.
#[derive(Clone, Debug)]
pub struct Acquisition {
    pub at: Timestamp,
    pub function: String,
    pub version: String,
    /// Requests for it within the window.
    pub count: u64,
    pub stand: Stand,
    pub instance: String,
}

/// How often a version is called on this node.
#[derive(Clone, Debug)]
pub struct VersionView {
    pub function: String,
    pub version: String,
    pub class: Class,
    pub since: Timestamp,
    /// Requests within the window.
    pub count: u64,
    /// When each bucket of the window that has any began, and how many it has.
    pub buckets: Vec<(Timestamp, u64)>,
}

impl State {
    fn account(&mut self, account: &AccountId) -> &mut Account {
        let criteria = self.criteria.get(account);
        self.accounts.entry(account.clone()).or_insert_with(|| Account {
            router: Router::new(criteria.cloned().unwrap_or_default()),
            ..Account::default()
        })
    }

    fn set_criteria(&mut self, records: Vec<FleetsRecord>) {
        self.criteria = records
            .into_iter()
            .map(|record| (record.account, record.criteria))
            .collect();
        for (account, of) in &mut self.accounts {
            of.router
                .set_criteria(self.criteria.get(account).cloned().unwrap_or_default());
        }
    }
}

impl Account {
    /// The code of a version that was called; of any other nothing is known.
    fn known(&self, version: &VersionSpec) -> Option<Code> {
        let name = (version.function.clone(), version.version.clone());
        self.codes.get(&name).copied()
    }

    fn code(&mut self, function: &str, version: &str) -> Code {
        let name = (function.to_owned(), version.to_owned());
        *self.codes.entry(name).or_insert_with(|| {
            self.next += 1;
            Code(self.next)
        })
    }

    /// What the store does not have as it is: records to keep, and versions to forget.
    fn changes(&mut self, account: &AccountId, now: Timestamp) -> (Vec<UsageRecord>, Vec<Name>) {
        let idle = self.codes.extract_if(|_, code| self.router.forget_idle(*code, now));
        idle.for_each(drop);
        let gone = self.kept.keys().filter(|name| !self.codes.contains_key(*name));
        let gone = gone.cloned().collect();
        let mut changed = Vec::new();
        for ((function, version), code) in &self.codes {
            let Some(usage) = self.router.usage(*code) else {
                continue;
            };
            let name = (function.clone(), version.clone());
            if self.kept.get(&name) != Some(usage) {
                let (function, version) = name;
                changed.push(UsageRecord {
                    account: account.clone(),
                    function,
                    version,
                    usage: usage.clone(),
                });
            }
        }
        (changed, gone)
    }

    fn view(&self, instances: Option<BTreeMap<String, Class>>, now: Timestamp) -> FleetsView {
        let members = |class: Class| {
            let of = instances.iter().flatten();
            of.filter(|(_, other)| **other == class)
                .map(|(name, _)| name.clone())
                .collect()
        };
        let fleet = |(class, from)| FleetView {
            class,
            from,
            instances: members(class),
        };
        let bands = instances.as_ref().map(|_| self.router.bands());
        FleetsView {
            has_fleets: instances.is_some(),
            criteria: self.router.criteria().clone(),
            fleets: bands.into_iter().flatten().map(fleet).collect(),
            versions: self.versions(now),
            acquired: self.acquired.iter().cloned().collect(),
        }
    }

    fn versions(&self, now: Timestamp) -> Vec<VersionView> {
        let mut versions = Vec::new();
        let bucket_seconds = self.router.criteria().window.bucket_seconds;
        for ((function, version), code) in &self.codes {
            let Some(usage) = self.router.usage(*code) else {
                continue;
            };
            let began = |bucket: u64| Timestamp::from_micros(bucket * bucket_seconds * 1_000_000);
            versions.push(VersionView {
                function: function.clone(),
                version: version.clone(),
                class: usage.class(),
                since: usage.class_since(),
                count: self.router.count(*code, now),
                buckets: self
                    .router
                    .counts(*code, now)
                    .into_iter()
                    .map(|(bucket, count)| (began(bucket), count))
                    .collect(),
            });
        }
        versions.sort_by(|a, b| (&a.function, &a.version).cmp(&(&b.function, &b.version)));
        versions
    }
}

impl Shared {
    /// Goes on from what this node had seen before. A record that cannot be used is as good as none.
    pub(crate) async fn recall_usage(&self) -> Result<(), BookError> {
        let (records, criteria) = (self.book.usages(&self.node).await?, self.book.all_fleets().await?);
        let mut state = self.fleets.0.lock();
        state.set_criteria(criteria);
        for record in records {
            let account = state.account(&record.account);
            let code = account.code(&record.function, &record.version);
            if account.router.recall(code, record.usage.clone()) {
                account.kept.insert((record.function, record.version), record.usage);
            } else {
                account.codes.retain(|_, known| *known != code);
                tracing::warn!(
                    function = record.function,
                    version = record.version,
                    "what is known of its calls cannot be used: it is counted anew"
                );
            }
        }
        Ok(())
    }

    /// Writes down what was seen. What cannot be written now is written the next time.
    pub(crate) async fn keep_usage(&self) {
        let now = self.clock.now();
        let (mut kept, mut forgotten) = (Vec::new(), Vec::new());
        for (account, of) in &mut self.fleets.0.lock().accounts {
            self.set_fleets(account, of);
            let (changed, gone) = of.changes(account, now);
            kept.extend(changed);
            forgotten.extend(
                gone.into_iter()
                    .map(|(function, version)| (account.clone(), function, version)),
            );
        }
        if kept.is_empty() && forgotten.is_empty() {
            return;
        }
        if let Err(error) = self.book.put_usages(&self.node, &kept, &forgotten).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "how often versions are called cannot be kept now");
            return;
        }
        let mut state = self.fleets.0.lock();
        for (account, function, version) in forgotten {
            if let Some(of) = state.accounts.get_mut(&account) {
                of.kept.remove(&(function, version));
            }
        }
        for record in kept {
            if let Some(of) = state.accounts.get_mut(&record.account) {
                of.kept.insert((record.function, record.version), record.usage);
            }
        }
        state
            .accounts
            .retain(|account, of| !of.codes.is_empty() || self.roster.fleets(account).is_some());
    }

    /// Has an account's router know which fleets there are; returns their instances, if there are any.
    fn set_fleets(&self, account: &AccountId, of: &mut Account) -> Option<BTreeMap<String, Class>> {
        let instances = self.roster.fleets(account)?;
        of.router.set_fleets(instances.values().copied());
        Some(instances)
    }

    /// Reads by what fleets go: another node may have changed it.
    async fn read_criteria(&self) -> Result<(), BookError> {
        let found = self.book.all_fleets().await?;
        self.fleets.0.lock().set_criteria(found);
        Ok(())
    }
}

impl Handle {
    /// The fleet that a version belongs to, where its account has fleets. Of one that was never called nothing is known:
    /// it is rare.
    pub(crate) fn class(&self, version: &VersionSpec) -> Option<Class> {
        self.berth_of(version).map(|(class, _)| class)
    }

    pub(crate) fn berth(&self, version: &VersionSpec) -> Option<Berth> {
        let (class, idle_max) = self.berth_of(version)?;
        let wanted = Wanted {
            kind: version.kind,
            mib: version.memory.0.into(),
            class: Some(class),
            folders: &[],
        };
        Some(Berth {
            fleet: class,
            idle_max: (!class.practice().keeps_code).then_some(idle_max),
            has_room: matches!(self.roster().choose(&version.account, wanted, &[]), Choice::Here(found) if found.class == class),
        })
    }

    fn berth_of(&self, version: &VersionSpec) -> Option<(Class, Duration)> {
        self.roster().fleets(&version.account)?;
        let mut state = self.shared.fleets.0.lock();
        let of = state.account(&version.account);
        self.shared.set_fleets(&version.account, of);
        let idle_max = of.router.criteria().idle_max;
        let Some(code) = of.known(version) else {
            return Some((Class::Low, idle_max));
        };
        let before = of.router.usage(code).map_or(Class::Low, Usage::class);
        let class = of.router.class(code, self.shared.clock.now());
        self.note_move(version, before, class);
        Some((class, idle_max))
    }

    /// A version was called so often from `since` on.
    pub(crate) fn called(&self, version: &VersionSpec, count: u64, since: Timestamp) {
        if count == 0 || self.roster().fleets(&version.account).is_none() {
            return;
        }
        let now = self.shared.clock.now();
        let mut state = self.shared.fleets.0.lock();
        let of = state.account(&version.account);
        self.shared.set_fleets(&version.account, of);
        let code = of.code(&version.function, &version.version);
        let before = of.router.usage(code).map_or(Class::Low, Usage::class);
        of.router.counted(code, count, since);
        self.note_move(version, before, of.router.class(code, now));
    }

    fn note_move(&self, version: &VersionSpec, before: Class, class: Class) {
        if class == before {
            return;
        }
        self.metrics().moved(class).inc();
        tracing::info!(account = %version.account, function = version.function, version = version.version,
            fleet = %class, "a version comes to another fleet by how often it is called");
    }

    /// An instance made a sandbox of a version: which fleet had it do so, and whether that is the version's.
    pub(crate) fn note_acquired(&self, version: &VersionSpec, instance: String, stand: Option<Stand>) {
        let Some(stand) = stand.filter(|_| self.roster().fleets(&version.account).is_some()) else {
            return;
        };
        let now = self.shared.clock.now();
        let mut state = self.shared.fleets.0.lock();
        let of = state.account(&version.account);
        let (count, meant_for) = of.known(version).map_or((0, Class::Low), |code| {
            (of.router.count(code, now), of.router.class(code, now))
        });
        tracing::info!(account = %version.account, function = version.function, version = version.version,
            count, fleet = %stand.fleet, instance, is_spilled = stand.is_spilled, "a fleet acquired an instance for a version");
        if stand.is_spilled {
            self.metrics().spilled(meant_for).inc();
        }
        if of.acquired.len() == ACQUIRED_MAX {
            of.acquired.pop_front();
        }
        of.acquired.push_back(Acquisition {
            at: now,
            function: version.function.clone(),
            version: version.version.clone(),
            count,
            stand,
            instance,
        });
    }

    /// Writes down how often versions are called, for as long as the node runs.
    pub async fn follow_fleets(self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.shared.keep_usage().await;
            // Another node may have changed them.
            let read = match self.shared.read_criteria().await {
                Ok(()) => self.shared.read_schedules().await,
                failure => failure,
            };
            if let Err(error) = read {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "criteria and schedules cannot be read: they stay as they were");
            }
        }
    }

    /// By what an account's versions are sent to its fleets, and where they belong now.
    pub async fn fleets(&self, account: &AccountId) -> Result<FleetsView, Error> {
        self.shared.read_criteria().await?;
        let mut state = self.shared.fleets.0.lock();
        let of = state.account(account);
        let instances = self.shared.set_fleets(account, of);
        Ok(of.view(instances, self.shared.clock.now()))
    }

    /// Changes by what an account's versions are sent to its fleets. They move once they have dwelt where they are.
    pub async fn set_criteria(&self, caller: &Caller, criteria: Criteria) -> Result<FleetsView, Error> {
        if let Some(objection) = criteria.objection() {
            return Err(Error::Invalid(objection));
        }
        let old = self.shared.book.fleets(&caller.account).await?;
        let new = FleetsRecord {
            account: caller.account.clone(),
            criteria,
        };
        self.shared.book.put_fleets(caller, old.as_ref(), &new).await?;
        self.fleets(&caller.account).await
    }
}

#[cfg(test)]
mod tests;
