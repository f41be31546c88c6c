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
    Ready(Link),
    /// It takes nothing new.
    Draining(Link),
    /// Somebody must look after it first.
    Held,
}

/// Where a sandbox may be made.
pub(crate) enum Choice {
    Here(Link),
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
                if let Standing::Draining(link) | Standing::Ready(link) = &standing {
                    link.drain(matches!(standing, Standing::Draining(_)));
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
        let mut best: Option<&Link> = None;
        for standing in instances.values() {
            coming |= matches!(standing, Standing::Coming);
            let Standing::Ready(link) = standing else { continue };
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
            if fits && best.is_none_or(|best| link.room_mib() > best.room_mib()) {
                best = Some(link);
            }
        }
        match best {
            Some(link) => Choice::Here(link.clone()),
            None if coming => Choice::Coming,
            None if ready => Choice::Full,
            None => Choice::Nowhere,
        }
    }

    /// Whether the account has an instance that serves, or will.
    pub fn is_hopeful(&self, account: &AccountId) -> bool {
        let accounts = self.accounts.lock();
        let mut standings = accounts.get(account).into_iter().flat_map(HashMap::values);
        standings.any(|standing| matches!(standing, Standing::Coming | Standing::Ready(_)))
    }

    /// The link of an instance, if it has one.
    pub fn link(&self, account: &AccountId, instance: &str) -> Option<Link> {
        match self.accounts.lock().get(account)?.get(instance)? {
            Standing::Ready(link) | Standing::Draining(link) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        }
    }

    /// All links.
    pub fn links(&self) -> Vec<Link> {
        let accounts = self.accounts.lock();
        let standings = accounts.values().flat_map(HashMap::values);
        let links = standings.filter_map(|standing| match standing {
            Standing::Ready(link) | Standing::Draining(link) => Some(link.clone()),
            Standing::Coming | Standing::Held => None,
        });
        links.collect()
    }
}
