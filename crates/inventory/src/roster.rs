//! Which of an account's instances can take a sandbox now: soft state that the drivers keep.

use std::collections::{BTreeMap, HashMap};

use bowline_agent::{Folder, Link};
use bowline_capacity::draining::Placement;
use bowline_capacity::fleet::Class;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Crowded, SandboxKind};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How an instance stands for new sandboxes.
#[derive(Clone)]
pub(crate) enum Standing {
    /// It will be ready, if all goes well.
    Coming,
    Ready(Link, Origin, Owner),
    /// It takes nothing new.
    Draining(Link, Owner),
    /// Somebody must look after it first.
    Held,
}

/// Who may take an instance away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Whoever asked for it, drained it or has something in it.
    Person,
    /// The node, when little of it is used.
    Node,
}

/// Where an instance's server came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was made when it was wanted.
    Made,
    /// It had waited for whoever wants one.
    Waited,
}

/// What is wanted for a sandbox.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub kind: SandboxKind,
    pub mib: u64,
    /// The fleet that it belongs to, where the account has fleets.
    pub class: Option<Class>,
    /// What it shares with others on the node.
    pub folders: &'a [Folder],
}

impl Wanted<'_> {
    /// Whether such sandboxes can be made there at all.
    fn is_offered(&self, link: &Link) -> bool {
        link.kinds().contains(&self.kind)
    }

    /// What one takes on an instance that has none of its folders.
    pub fn mib_anew(&self) -> u64 {
        let folders: u64 = self.folders.iter().map(|folder| folder.mib).sum();
        self.mib.saturating_add(folders)
    }

    /// What one takes there, with the folders that come with it.
    pub fn mib_at(&self, link: &Link) -> u64 {
        self.mib.saturating_add(link.missing_mib(self.folders))
    }
}

/// An instance with room.
pub(crate) struct Found {
    pub name: String,
    pub link: Link,
    pub origin: Origin,
    /// The fleet that it is, or would be, in.
    pub class: Class,
}

/// Where a sandbox may be made.
pub(crate) enum Choice {
    Here(Found),
    /// Those that are ready have too little room, or make no such sandboxes.
    Full,
    /// One will be ready.
    Coming,
    /// The account has no instance that will ever take it.
    Nowhere,
}

/// Why a request goes past an instance that it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It had no room after all.
    Full,
    /// It failed, or did not answer.
    Failed,
}

/// An instance that has a link.
pub(crate) struct Seen {
    pub account: AccountId,
    pub name: String,
    pub link: Link,
    pub drained: bool,
    pub owner: Owner,
}

#[derive(Default)]
pub(crate) struct Roster {
    accounts: Mutex<HashMap<AccountId, Instances>>,
    changes: watch::Sender<u64>,
}

/// Those of one account.
#[derive(Default)]
struct Instances {
    standings: HashMap<String, Standing>,
    /// Of those that are in one.
    fleets: HashMap<String, Class>,
}

impl Instances {
    /// Where all are in the low fleet, there are none. Who is in none is in the low one then.
    fn has_fleets(&self) -> bool {
        self.fleets.values().any(|class| *class != Class::Low)
    }

    fn class(&self, instance: &str) -> Class {
        self.fleets.get(instance).copied().unwrap_or_default()
    }

    /// The fleets that take what belongs to one, in order.
    fn places(&self, class: Class) -> Vec<Class> {
        class.places(self.fleets.values().copied().chain([Class::Low]))
    }
}

impl Roster {
    /// Says how an instance stands; `None` if it is gone.
    pub fn set(&self, account: &AccountId, instance: &str, standing: Option<Standing>) {
        let mut accounts = self.accounts.lock();
        let instances = accounts.entry(account.clone()).or_default();
        match standing {
            Some(standing) => {
                if let Standing::Draining(link, _) | Standing::Ready(link, ..) = &standing {
                    link.drain(matches!(standing, Standing::Draining(..)));
                }
                instances.standings.insert(instance.to_owned(), standing);
            }
            None => {
                instances.standings.remove(instance);
                instances.fleets.remove(instance);
                if instances.standings.is_empty() {
                    accounts.remove(account);
                }
            }
        }
        drop(accounts);
        self.changes.send_modify(|change| *change += 1);
    }

    /// Says which fleet an instance is in; before it stands.
    pub fn belong(&self, account: &AccountId, instance: &str, class: Option<Class>) {
        let mut accounts = self.accounts.lock();
        let fleets = &mut accounts.entry(account.clone()).or_default().fleets;
        match class {
            Some(class) => fleets.insert(instance.to_owned(), class),
            None => fleets.remove(instance),
        };
    }

    /// The account's instances with the fleet of each, if they are in fleets.
    pub fn fleets(&self, account: &AccountId) -> Option<BTreeMap<String, Class>> {
        let accounts = self.accounts.lock();
        let instances = accounts.get(account).filter(|instances| instances.has_fleets())?;
        let of_each = |name: &String| (name.clone(), instances.class(name));
        Some(
            instances
                .standings
                .keys()
                .chain(instances.fleets.keys())
                .map(of_each)
                .collect(),
        )
    }

    /// Whether any account's instances are.
    pub fn has_any_fleets(&self) -> bool {
        self.accounts.lock().values().any(Instances::has_fleets)
    }

    /// Changes from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The account's instance with the most room for such a sandbox, among those that were not passed. Where there are
    /// fleets, one of its fleet: the low one is packed. If none of them has room, one of another fleet. One that has its folders goes
    /// before all that have not.
    pub fn choose(&self, account: &AccountId, wanted: Wanted<'_>, passed: &[(Link, Passed)]) -> Choice {
        let accounts = self.accounts.lock();
        let Some(instances) = accounts.get(account) else {
            return Choice::Nowhere;
        };
        let (mut ready, mut coming) = (false, false);
        let mut fitting: Vec<(&str, &Link, Origin)> = Vec::new();
        for (name, standing) in &instances.standings {
            coming |= matches!(standing, Standing::Coming);
            let Standing::Ready(link, origin, _) = standing else {
                continue;
            };
            if link.is_closed() {
                // Its driver is about to replace it.
                coming = true;
                continue;
            }
            let why = passed.iter().find(|(other, _)| other.is(link)).map(|(_, why)| *why);
            if why == Some(Passed::Failed) || !wanted.folders.is_empty() && !wanted.is_offered(link) {
                continue;
            }
            ready = true;
            if why.is_none() && wanted.is_offered(link) && link.room_mib() >= wanted.mib_at(link) {
                fitting.push((name, link, *origin));
            }
        }
        if fitting.iter().any(|(_, link, _)| link.has(wanted.folders)) {
            fitting.retain(|(_, link, _)| link.has(wanted.folders));
        }
        let best = match wanted.class {
            None => roomiest(fitting.into_iter()),
            Some(class) => instances.places(class).into_iter().find_map(|class| {
                let is_in = |(name, ..): &(&str, &Link, Origin)| instances.class(name) == class;
                let own = fitting.iter().copied().filter(is_in);
                match class.practice().placement {
                    Placement::Spread => roomiest(own),
                    Placement::Pack => own.min_by_key(|(name, link, _)| (link.room_mib(), *name)),
                }
            }),
        };
        match best {
            Some((name, link, origin)) => Choice::Here(Found {
                name: name.to_owned(),
                link: link.clone(),
                origin,
                class: instances.class(name),
            }),
            None if coming => Choice::Coming,
            None if ready => Choice::Full,
            None => Choice::Nowhere,
        }
    }

    /// Where such a sandbox would have room if others ended: the account's instances that are ready, make such and are large
    /// enough.
    pub fn crowded(&self, account: &AccountId, wanted: Wanted<'_>, passed: &[(Link, Passed)]) -> Vec<Crowded> {
        let accounts = self.accounts.lock();
        let standings = accounts
            .get(account)
            .into_iter()
            .flat_map(|instances| instances.standings.values());
        let crowded = standings.filter_map(|standing| {
            let Standing::Ready(link, ..) = standing else {
                return None;
            };
            let has_failed = |(other, why): &(Link, Passed)| *why == Passed::Failed && other.is(link);
            let (room, mib) = (link.room_mib(), wanted.mib_at(link));
            let is_able = !link.is_closed()
                && wanted.is_offered(link)
                && link.held_mib().saturating_add(room) >= mib
                && !passed.iter().any(has_failed);
            let missing = mib.saturating_sub(room).max(1);
            is_able.then(|| Crowded {
                site: link.site().clone(),
                missing: Mebibytes(u32::try_from(missing).unwrap_or(u32::MAX)),
            })
        });
        crowded.collect()
    }

    /// Whether the account has an instance that serves, or will.
    pub fn is_hopeful(&self, account: &AccountId) -> bool {
        let accounts = self.accounts.lock();
        let mut standings = accounts
            .get(account)
            .into_iter()
            .flat_map(|instances| instances.standings.values());
        standings.any(|standing| matches!(standing, Standing::Coming | Standing::Ready(..)))
    }

    /// The link of an instance, if it has one.
    pub fn link(&self, account: &AccountId, instance: &str) -> Option<Link> {
        match self.accounts.lock().get(account)?.standings.get(instance)? {
            Standing::Ready(link, ..) | Standing::Draining(link, _) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        }
    }

    /// Those with such names that have a link.
    pub fn seen(&self, is: impl Fn(&str) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (account, instances) in &*self.accounts.lock() {
            for (name, standing) in instances.standings.iter().filter(|(name, _)| is(name)) {
                if let Standing::Ready(link, _, owner) | Standing::Draining(link, owner) = standing {
                    seen.push(Seen {
                        account: account.clone(),
                        name: name.clone(),
                        link: link.clone(),
                        drained: matches!(standing, Standing::Draining(..)),
                        owner: *owner,
                    });
                }
            }
        }
        seen
    }

    /// All links.
    pub fn links(&self) -> Vec<Link> {
        let accounts = self.accounts.lock();
        let standings = accounts.values().flat_map(|instances| instances.standings.values());
        let links = standings.filter_map(|standing| match standing {
            Standing::Ready(link, ..) | Standing::Draining(link, _) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        });
        links.collect()
    }
}

fn roomiest<'a>(instances: impl Iterator<Item = (&'a str, &'a Link, Origin)>) -> Option<(&'a str, &'a Link, Origin)> {
    instances.max_by_key(|(_, link, _)| link.room_mib())
}
