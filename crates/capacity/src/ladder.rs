//! Where a request runs: the ladder from the fastest place to the slowest.
//!
//! ```text
//! a sandbox with this version, free ──▶ an instance of this owner with room ──▶ the warming pool ──▶ a new instance
//! ```
//! A sandbox serves one version of one owner, and an instance one owner, until it has been emptied and
//! given back. The inventory is what the decisions stand on; it is soft state, rebuilt from what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::identity::{Code, InstanceId, Owner, SandboxId};

/// A request for capacity, as it came: what it does not say may be known from the registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub code: Option<Code>,
    pub owner: Option<Owner>,
    pub memory: Option<Mebibytes>,
    pub language: Option<String>,
}

/// What was said of code before any request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub memory: Option<Mebibytes>,
    pub language: String,
}

/// A request that says all that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub code: Code,
    pub owner: Owner,
    pub memory: Mebibytes,
}

/// A request that is refused before any look-up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request does not say which code is to run")]
    NoCode,
    #[error("the request does not say for whom it runs")]
    NoOwner,
    #[error("neither the request nor the registration says how much memory it needs")]
    NoAmount,
    #[error("the code is registered for `{registered}`, the request names `{asked}`")]
    OtherLanguage { registered: String, asked: String },
}

impl Asked {
    /// Fills in what the registration says.
    ///
    /// # Errors
    /// If something is still missing, or contradicts it.
    pub fn complete(self, registration: &Registration) -> Result<Request, Refusal> {
        let code = self.code.ok_or(Refusal::NoCode)?;
        let owner = self.owner.ok_or(Refusal::NoOwner)?;
        let memory = self.memory.or(registration.memory).filter(|memory| memory.0 > 0);
        if let Some(asked) = self.language.filter(|asked| *asked != registration.language) {
            let registered = registration.language.clone();
            return Err(Refusal::OtherLanguage { registered, asked });
        }
        Ok(Request {
            code,
            owner,
            memory: memory.ok_or(Refusal::NoAmount)?,
        })
    }
}

/// The rung of the ladder that served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// A sandbox that has the version loaded.
    Loaded,
    /// A new sandbox on the owner's instance.
    Owned,
    /// A new sandbox on an instance from the warming pool.
    Warming,
    /// An instance has to be made first.
    New,
}

/// Where the bytes of the code come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The sandbox has them.
    Loaded,
    /// The instance's cache has them.
    Cache,
    /// They are to be fetched from the store, once the instance is the owner's.
    Store,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    pub rung: Rung,
    pub instance: InstanceId,
    pub sandbox: SandboxId,
    pub source: Source,
}

/// All instances and sandboxes that exist.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    instances: BTreeMap<InstanceId, Instance>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// Free and healthy sandboxes of each code and owner, the latest used last.
    free: BTreeMap<(Code, Owner), Vec<SandboxId>>,
    owned: BTreeMap<Owner, BTreeSet<InstanceId>>,
    /// Instances without an owner, by their size.
    warming: BTreeSet<(Mebibytes, InstanceId)>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Instance {
    capacity: Mebibytes,
    allocated: Mebibytes,
    owner: Option<Owner>,
    sandboxes: u32,
    /// Codes whose bytes lie on it.
    cached: BTreeSet<Code>,
}

#[derive(Clone, Debug)]
struct Sandbox {
    code: Code,
    owner: Owner,
    instance: InstanceId,
    memory: Mebibytes,
    is_free: bool,
    is_stale: bool,
    used: Timestamp,
}

impl Instance {
    fn room(&self) -> Mebibytes {
        Mebibytes(self.capacity.0 - self.allocated.0)
    }
}

impl Inventory {
    /// An instance has booted and waits for an owner.
    pub fn add_warm(&mut self, capacity: Mebibytes) -> InstanceId {
        let id = InstanceId(self.draw());
        self.instances.insert(
            id,
            Instance {
                capacity,
                allocated: Mebibytes(0),
                owner: None,
                sandboxes: 0,
                cached: BTreeSet::new(),
            },
        );
        self.warming.insert((capacity, id));
        id
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Walks the ladder. If there is no instance with room, one of at least `size_min` is taken to be made.
    pub fn acquire(&mut self, request: &Request, size_min: Mebibytes, now: Timestamp) -> Acquired {
        if let Some(sandbox) = self.take_loaded(request) {
            let instance = self.sandboxes[&sandbox].instance;
            return Acquired {
                rung: Rung::Loaded,
                instance,
                sandbox,
                source: Source::Loaded,
            };
        }
        let (rung, instance) = match self.owned_with_room(request) {
            Some(instance) => (Rung::Owned, instance),
            None => match self.warm_with_room(request.memory) {
                Some(instance) => (Rung::Warming, instance),
                None => (Rung::New, self.add_warm(size_min.max(request.memory))),
            },
        };
        if rung != Rung::Owned {
            self.assign(instance, request.owner);
        }
        let (sandbox, source) = self.create(request, instance, now);
        Acquired {
            rung,
            instance,
            sandbox,
            source,
        }
    }

    fn take_loaded(&mut self, request: &Request) -> Option<SandboxId> {
        let free = self.free.get_mut(&(request.code, request.owner))?;
        // A sandbox that is smaller than asked, as before its size was changed, does not serve.
        let place = free.iter().rposition(|id| {
            self.sandboxes
                .get(id)
                .is_some_and(|sandbox| sandbox.memory >= request.memory)
        })?;
        let id = free.remove(place);
        if let Some(sandbox) = self.sandboxes.get_mut(&id) {
            sandbox.is_free = false;
        }
        Some(id)
    }

    /// The owner's instance with the code on it, else the one with the least room that is enough.
    fn owned_with_room(&self, request: &Request) -> Option<InstanceId> {
        let owned = self.owned.get(&request.owner)?.iter();
        let fitting = owned.filter(|id| self.instances[id].room() >= request.memory);
        let best = fitting.min_by_key(|id| {
            let instance = &self.instances[id];
            (!instance.cached.contains(&request.code), instance.room(), **id)
        });
        best.copied()
    }

    fn warm_with_room(&self, amount: Mebibytes) -> Option<InstanceId> {
        let mut fitting = self.warming.range((amount, InstanceId(0))..);
        fitting.next().map(|(_, id)| *id)
    }

    fn assign(&mut self, id: InstanceId, owner: Owner) {
        let instance = self.instances.get_mut(&id).expect("it was just found");
        instance.owner = Some(owner);
        self.warming.remove(&(instance.capacity, id));
        self.owned.entry(owner).or_default().insert(id);
    }

    fn create(&mut self, request: &Request, id: InstanceId, now: Timestamp) -> (SandboxId, Source) {
        let sandbox = SandboxId(self.draw());
        let instance = self.instances.get_mut(&id).expect("it was just found");
        instance.allocated.0 += request.memory.0;
        instance.sandboxes += 1;
        let is_new = instance.cached.insert(request.code);
        self.sandboxes.insert(
            sandbox,
            Sandbox {
                code: request.code,
                owner: request.owner,
                instance: id,
                memory: request.memory,
                is_free: false,
                is_stale: false,
                used: now,
            },
        );
        (sandbox, if is_new { Source::Store } else { Source::Cache })
    }

    /// A run has ended. The sandbox is free again, or goes: if it is stale, or is not to be kept.
    pub fn release(&mut self, id: SandboxId, keep: bool, now: Timestamp) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        if sandbox.is_stale || !keep {
            self.destroy(id);
            return;
        }
        (sandbox.is_free, sandbox.used) = (true, now);
        let key = (sandbox.code, sandbox.owner);
        self.free.entry(key).or_default().push(id);
    }

    /// A sandbox is not to be offered again: its agent is silent, it failed, or its version is old. A free
    /// one goes at once, a running one with its run.
    pub fn mark_stale(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        sandbox.is_stale = true;
        if sandbox.is_free {
            self.destroy(id);
        }
    }

    /// Removes a sandbox and gives its room back; the instance keeps its owner and its cache.
    pub fn destroy(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.remove(&id) else {
            return;
        };
        let key = (sandbox.code, sandbox.owner);
        if let Some(free) = self.free.get_mut(&key) {
            free.retain(|other| *other != id);
            if free.is_empty() {
                self.free.remove(&key);
            }
        }
        if let Some(instance) = self.instances.get_mut(&sandbox.instance) {
            instance.allocated.0 -= sandbox.memory.0;
            instance.sandboxes -= 1;
        }
    }

    /// Destroys the sandboxes that have been free for longer than `idle_max`, and removes the instances
    /// that are empty then: one that has had an owner is never given to another.
    pub fn expire(&mut self, now: Timestamp, idle_max: Duration) -> (Vec<SandboxId>, Vec<InstanceId>) {
        let sandboxes = self.sandboxes.iter();
        let idle: Vec<SandboxId> = sandboxes
            .filter(|(_, sandbox)| sandbox.is_free && now.since(sandbox.used) > idle_max)
            .map(|(id, _)| *id)
            .collect();
        idle.iter().for_each(|id| self.destroy(*id));
        let instances = self.instances.iter();
        let empty: Vec<InstanceId> = instances
            .filter(|(_, instance)| instance.owner.is_some() && instance.sandboxes == 0)
            .map(|(id, _)| *id)
            .collect();
        empty.iter().for_each(|id| self.remove(*id));
        (idle, empty)
    }

    /// An instance is gone, with all that was on it.
    pub fn remove(&mut self, id: InstanceId) {
        let sandboxes = self.sandboxes.iter().filter(|(_, sandbox)| sandbox.instance == id);
        let lost: Vec<SandboxId> = sandboxes.map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.destroy(id));
        let Some(instance) = self.instances.remove(&id) else {
            return;
        };
        self.warming.remove(&(instance.capacity, id));
        if let Some(owned) = instance.owner.and_then(|owner| self.owned.get_mut(&owner)) {
            owned.remove(&id);
        }
    }

    /// What an instance has given out.
    pub fn allocated(&self, id: InstanceId) -> Option<Mebibytes> {
        self.instances.get(&id).map(|instance| instance.allocated)
    }

    pub fn owner(&self, id: InstanceId) -> Option<Owner> {
        self.instances.get(&id)?.owner
    }

    /// Whether the bytes of code lie on an instance.
    pub fn has_code(&self, id: InstanceId, code: Code) -> bool {
        self.instances
            .get(&id)
            .is_some_and(|instance| instance.cached.contains(&code))
    }

    /// How many instances wait for an owner.
    pub fn warm(&self) -> usize {
        self.warming.len()
    }
}

#[cfg(test)]
mod tests;
