//! Which of an account's instances can take a sandbox now: soft state that the drivers keep.

use std::collections::HashMap;

use bowline_agent::Link;
use bowline_foundation::id::AccountId;
use bowline_sandbox::SandboxKind;
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

/// Where a sandbox may be made.
pub(crate) enum Choice {
    Here(Link, Origin),
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
    accounts: Mutex<HashMap<AccountId, HashMap<String, Standing>>>,
    changes: watch::Sender<u64>,
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
                instances.insert(instance.to_owned(), standing);
            }
            None => {
                instances.remove(instance);
                if instances.is_empty() {
                    accounts.remove(account);
                }
            }
        }
        drop(accounts);
        self.changes.send_modify(|change| *change += 1);
    }

    /// Changes from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The account's instance with the most room for a sandbox of this kind, among those that were not passed.
    pub fn choose(&self, account: &AccountId, (kind, mib): (SandboxKind, u64), passed: &[(Link, Passed)]) -> Choice {
        let accounts = self.accounts.lock();
        let Some(instances) = accounts.get(account) else {
            return Choice::Nowhere;
        };
        let (mut ready, mut coming) = (false, false);
        let mut best: Option<(&Link, Origin)> = None;
        for standing in instances.values() {
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
            if why == Some(Passed::Failed) {
                continue;
            }
            ready = true;
            let fits = why.is_none() && link.kinds().contains(&kind) && link.room_mib() >= mib;
            if fits && best.is_none_or(|(best, _)| link.room_mib() > best.room_mib()) {
                best = Some((link, *origin));
            }
        }
        match best {
            Some((link, origin)) => Choice::Here(link.clone(), origin),
            None if coming => Choice::Coming,
            None if ready => Choice::Full,
            None => Choice::Nowhere,
        }
    }

    /// Whether the account has an instance that serves, or will.
    pub fn is_hopeful(&self, account: &AccountId) -> bool {
        let accounts = self.accounts.lock();
        let mut standings = accounts.get(account).into_iter().flat_map(HashMap::values);
        standings.any(|standing| matches!(standing, Standing::Coming | Standing::Ready(..)))
    }

    /// The link of an instance, if it has one.
    pub fn link(&self, account: &AccountId, instance: &str) -> Option<Link> {
        match self.accounts.lock().get(account)?.get(instance)? {
            Standing::Ready(link, ..) | Standing::Draining(link, _) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        }
    }

    /// Those with such names that have a link.
    pub fn seen(&self, is: impl Fn(&str) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (account, instances) in &*self.accounts.lock() {
            for (name, standing) in instances.iter().filter(|(name, _)| is(name)) {
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
        let standings = accounts.values().flat_map(HashMap::values);
        let links = standings.filter_map(|standing| match standing {
            Standing::Ready(link, ..) | Standing::Draining(link, _) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        });
        links.collect()
    }
}
