//! Instances that accounts got without asking: one more when they are full, one fewer when they stand idle.
//!
//! ```text
//!   full ─▶ one that is drained is taken back ─▶ otherwise one more, `default-N`, from a server that waits
//!   for a minute little of them used ─▶ one more than `default`: drained, though it runs ─▶ empty: removed
//! ```
//! Little is used where little of the memory is given out, and little of it and of the processors is really used.
//! Since when they were drained is soft state, but the record of each says that it was for this reason: one that an earlier
//! life of the node drained goes as well when nothing runs on it. What a person drained is that person's, and so is one whose
//! file has services or volumes. No account waits for another's driver.

mod metering;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bowline_agent::Link;
use bowline_capacity::draining::{ActiveSet, DrainRules, Event};
use bowline_capacity::identity::InstanceId;
use bowline_foundation::clock::Clock;
use bowline_foundation::id::AccountId;
use tokio::time::timeout;

use crate::file::Kind;
use crate::roster::{Choice, Owner, Passed, Seen, Wanted};
use crate::service::{Caller, Creation, DEFAULT_INSTANCE, Error, Handle, default_server};
use metering::Metering;

/// How often it is looked how much of them is used.
const TICK: Duration = Duration::from_secs(1);
/// The most that an account gets without asking, where the machine has the memory.
const DEFAULTS_MAX: u64 = 4;

/// How long a driver may take to answer; it does what it was told later.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Where there is room after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nowhere.
    None,
    /// On an instance that is there.
    Here,
    /// On one that is coming.
    Coming,
}

/// The instances of each account that it got without asking.
#[derive(Default)]
pub(crate) struct Tended(HashMap<AccountId, Group>);

/// Those of one account.
struct Group {
    active: ActiveSet,
    ids: BTreeMap<String, InstanceId>,
    meterings: HashMap<InstanceId, Metering>,
    next: u64,
}

/// What is to be done about an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Drain {
        utilisation: f64,
    },
    /// Nothing runs on it.
    Remove,
    /// What runs on it is over any time limit.
    Force,
}

/// Whether an instance of this name was made because the others were full: `default-2` and on, as numbers are written.
pub(crate) fn is_more(name: &str) -> bool {
    let text = name
        .strip_prefix(DEFAULT_INSTANCE)
        .and_then(|rest| rest.strip_prefix('-'));
    let number = text.and_then(|text| text.parse::<u8>().ok());
    number.is_some_and(|number| number > 1 && text == Some(&number.to_string()))
}

fn is_unasked(name: &str) -> bool {
    name == DEFAULT_INSTANCE || is_more(name)
}

impl Seen {
    /// Whether it is one that the node drained and may remove, now as far as it goes.
    fn is_to_go(&self, step: Step) -> bool {
        let is_idle = self.link.sandboxes() == 0 && self.link.held_mib() == 0;
        is_more(&self.name) && self.owner == Owner::Node && self.drained && (is_idle || step == Step::Force)
    }
}

impl Group {
    fn new() -> Self {
        Self {
            active: ActiveSet::new(DrainRules::default()),
            ids: BTreeMap::new(),
            meterings: HashMap::new(),
            next: 0,
        }
    }

    /// Takes in how the instances are; says which are to go.
    fn observe(&mut self, there: &[Seen], clock: &Clock) -> Vec<(String, Step)> {
        let gone: Vec<String> = self
            .ids
            .keys()
            .filter(|name| !there.iter().any(|seen| seen.name == **name))
            .cloned()
            .collect();
        for id in gone.iter().filter_map(|name| self.ids.remove(name)) {
            self.active.remove(id);
            self.meterings.remove(&id);
        }
        let mut events = Vec::new();
        for Seen {
            name,
            link,
            drained,
            owner,
            ..
        } in there
        {
            let id = *self.ids.entry(name.clone()).or_insert_with(|| {
                self.next += 1;
                InstanceId(self.next)
            });
            let is_persons = *owner == Owner::Person;
            if is_persons && *drained {
                // It has no room for anybody, and is not taken back, be it that it was to go anyhow.
                self.active.remove(id);
                continue;
            }
            if !self.active.contains(id) || is_persons && self.active.is_draining(id) {
                self.active.add(id, link.held_mib() + link.room_mib());
            }
            // The first one stays, and so does what is a person's.
            let stays = name == DEFAULT_INSTANCE || is_persons || *drained && !self.active.is_draining(id);
            self.active.set_holds_state(id, stays);
            // An only one is not drained, whatever it uses.
            if there.len() > 1 {
                let metering = self.meterings.entry(id).or_default();
                metering.take(link.read_meters(), link.maxima(), clock.monotonic());
                self.active.set_measured(id, metering.measured);
            }
            events.extend(self.active.set_allocated(id, link.held_mib()));
        }
        events.extend(self.active.observe(clock.now()));
        let named = events.into_iter().filter_map(|event| {
            let (id, step) = match event {
                Event::Marked { instance, utilisation } => (instance, Step::Drain { utilisation }),
                Event::Terminate { instance } => (instance, Step::Remove),
                Event::Force { instance } => (instance, Step::Force),
                Event::Unmarked { .. } => return None,
            };
            let name = self.ids.iter().find(|(_, other)| **other == id)?.0.clone();
            Some((name, step))
        });
        named.collect()
    }
}

impl Tended {
    /// Takes one of the account's back that was to go and has this much room.
    fn take_back(&mut self, account: &AccountId, mib: u64) -> Option<String> {
        let group = self.0.get_mut(account)?;
        let id = group.active.take_back(mib)?;
        Some(group.ids.iter().find(|(_, other)| **other == id)?.0.clone())
    }

    fn observe(&mut self, there: Vec<Seen>, clock: &Clock) -> Vec<(AccountId, String, Step)> {
        let mut accounts: HashMap<AccountId, Vec<Seen>> = HashMap::new();
        for seen in there {
            accounts.entry(seen.account.clone()).or_default().push(seen);
        }
        self.0.retain(|account, _| accounts.contains_key(account));
        let mut steps = Vec::new();
        for (account, instances) in accounts {
            let group = self.0.entry(account.clone()).or_insert_with(Group::new);
            let due = group.observe(&instances, clock);
            steps.extend(due.into_iter().map(|(name, step)| (account.clone(), name, step)));
        }
        steps
    }
}

fn caller(account: &AccountId) -> Caller {
    Caller {
        account: account.clone(),
        request_id: "tender".to_owned(),
    }
}

impl Handle {
    /// Makes room for a sandbox of an account whose instances are full, if it may have more.
    pub(crate) async fn ensure_room(
        &self,
        account: &AccountId,
        kind: Kind,
        (wanted, passed): (Wanted<'_>, &[(Link, Passed)]),
    ) -> Result<Room, Error> {
        let _one = self.shared.defaults.lock(account).await;
        match self.roster().choose(account, wanted, passed) {
            Choice::Full => {}
            Choice::Here(..) => return Ok(Room::Here),
            Choice::Coming | Choice::Nowhere => return Ok(Room::Coming),
        }
        let there = self.roster().seen(is_unasked);
        let own: Vec<&Link> = there
            .iter()
            .filter(|seen| seen.account == *account)
            .map(|seen| &seen.link)
            .collect();
        // Another one would be as they are.
        if !own
            .iter()
            .any(|link| link.kinds().contains(&wanted.kind) && link.held_mib() + link.room_mib() >= wanted.mib_at(link))
        {
            return Ok(Room::None);
        }
        if self.take_one_back(account, wanted.mib).await {
            return Ok(Room::Here);
        }
        let Some(name) = self.next_name(account, kind).await? else {
            return Ok(Room::None);
        };
        let creation = Creation {
            file: DEFAULT_INSTANCE.to_owned(),
            name: Some(name),
            role: None,
            token: None,
        };
        self.create_named(&caller(account), &creation).await?;
        Ok(Room::Coming)
    }

    /// Takes an instance back that was to go and has this much room. Who asked looks again, also if it is not there after
    /// all.
    pub(crate) async fn take_one_back(&self, account: &AccountId, mib: u64) -> bool {
        let back = self.shared.tended.lock().take_back(account, mib);
        let Some(name) = back else { return false };
        tracing::info!(%account, instance = name, "an instance that was to go is wanted again");
        self.mark(account, &name, false).await;
        true
    }

    /// The name of one more instance, if the account may have it.
    pub(crate) async fn next_name(&self, account: &AccountId, kind: Kind) -> Result<Option<String>, Error> {
        let Some(provider) = self.shared.provider(kind) else {
            return Ok(None);
        };
        let offer = provider.offer();
        let most = offer.memory_mib / u64::from(default_server(kind, &offer).memory_mib);
        let taken: Vec<String> = self
            .list(account)
            .await?
            .into_iter()
            .map(|view| view.instance.name)
            .collect();
        let mut names = (2..=most.min(DEFAULTS_MAX)).map(|number| format!("{DEFAULT_INSTANCE}-{number}"));
        Ok(names.find(|name| !taken.contains(name)))
    }

    /// Looks after these instances for as long as the node runs.
    pub async fn tend(self) {
        loop {
            self.tend_once().await;
            tokio::time::sleep(TICK).await;
        }
    }

    async fn tend_once(&self) {
        let there = self.roster().seen(is_unasked);
        let idle = there.iter().filter(|seen| seen.is_to_go(Step::Remove));
        let idle: Vec<_> = idle
            .map(|seen| (seen.account.clone(), seen.name.clone(), Step::Remove))
            .collect();
        let mut steps = self.shared.tended.lock().observe(there, &self.shared.clock);
        for known in idle {
            if !steps.contains(&known) {
                steps.push(known);
            }
        }
        for (account, name, step) in steps {
            match step {
                Step::Drain { utilisation } => {
                    tracing::info!(%account, instance = name, utilisation, "little is used: an instance is drained");
                    self.metrics().drained.inc();
                    self.mark(&account, &name, true).await;
                }
                Step::Remove | Step::Force => self.take_away(&account, &name, step).await,
            }
        }
    }

    /// Drains an instance because little is used, or takes it back.
    async fn mark(&self, account: &AccountId, name: &str, draining: bool) {
        let marked = timeout(ANSWER_MAX, self.drain_for(&caller(account), name, (draining, true))).await;
        let failure = match marked {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its driver did not answer within {ANSWER_MAX:?}"),
        };
        tracing::warn!(%account, instance = name, draining, failure, "an instance is not drained, or not taken back");
    }

    /// Removes an instance if it is still to go.
    async fn take_away(&self, account: &AccountId, name: &str, step: Step) {
        let failure = match timeout(ANSWER_MAX, self.try_take_away(account, name, step)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not gone within {ANSWER_MAX:?}"),
        };
        tracing::warn!(%account, instance = name, failure, "an instance is not removed");
    }

    async fn try_take_away(&self, account: &AccountId, name: &str, step: Step) -> Result<(), Error> {
        // Nobody takes it back meanwhile.
        let one = self.shared.defaults.lock(account).await;
        let is_to_go = || {
            let there = self.roster().seen(|other| other == name);
            there.iter().any(|seen| seen.account == *account && seen.is_to_go(step))
        };
        let ended = self.begin_removal(&caller(account), name, is_to_go).await?;
        drop(one);
        if let Some(ended) = ended {
            if step == Step::Force {
                self.metrics().forced.inc();
            }
            tracing::info!(%account, instance = name, is_forced = step == Step::Force, "a drained instance is removed");
            ended.closed().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
