//! The sandboxes of one version: the idle ones, newest on top.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bowline_foundation::clock::Monotonic;
use bowline_foundation::digest::Digest;
use bowline_sandbox::{Backend, CheckpointMode, Sandbox, Suspendable, VersionSpec};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::admission::FunctionLive;
use super::provision::Quota;
use crate::cluster;
use crate::logs::SandboxLog;
use crate::metrics::FunctionMetrics;
use crate::name::{FunctionName, Version};
use crate::package::cache::CodeHold;

/// The variable that tells a function why it was initialised; an owner cannot set it.
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";

/// What a pool is made of.
pub(crate) struct PoolParts {
    pub name: FunctionName,
    pub version: Version,
    pub spec: Arc<VersionSpec>,
    /// The function's ARN without a qualifier.
    pub arn: Box<str>,
    pub backend: Arc<dyn Backend>,
    pub metrics: FunctionMetrics,
    pub live: Arc<FunctionLive>,
    /// Whether invocations are durable executions.
    pub is_durable: bool,
    /// The layers whose combination the specification names.
    pub layers: Vec<Digest>,
    /// Keeps the code and the layers on disk.
    pub _code: Vec<Arc<CodeHold>>,
}

/// Where one version, as configured at one moment, runs. A change of code or configuration makes another
/// pool and retires this one.
pub(crate) struct Pool {
    pub parts: PoolParts,
    pub version_text: Box<str>,
    /// What the version is, the same on every node.
    pub identity: u64,
    /// Set once the backend has prepared the version in this process.
    pub prepared: OnceCell<()>,
    /// How many sandboxes are kept initialised.
    pub quota: Quota,
    /// How invocations are suspended, once it is known whether they can be.
    suspend: OnceLock<Option<CheckpointMode>>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Longest idle first.
    slots: Vec<Slot>,
    /// Idle ones that are kept whether they are used or not.
    kept: Vec<Slot>,
    /// Nothing is kept any more.
    retired: bool,
    /// The sweeper knows of this pool.
    enlisted: bool,
}

/// A sandbox that lives, with its log.
pub(crate) struct Slot {
    pub sandbox: Box<dyn Sandbox>,
    pub log: Arc<SandboxLog>,
    idle_since: Monotonic,
    trimmed: bool,
    /// Whether it counts against the pool's quota.
    kept: bool,
    /// What the memory gauge counts for it.
    memory_bytes: u64,
}

/// What became of a sandbox that was given back.
pub(crate) enum Kept {
    Yes,
    /// The sweeper must be told of the pool.
    AndEnlist,
    /// The pool is retired; the sandbox is to be destroyed.
    No(Slot),
}

impl Pool {
    pub fn new(parts: PoolParts) -> Arc<Self> {
        Arc::new(Self {
            version_text: parts.version.to_string().into(),
            identity: cluster::identity(&parts.spec),
            parts,
            prepared: OnceCell::new(),
            quota: Quota::default(),
            suspend: OnceLock::new(),
            idle: Mutex::default(),
        })
    }

    /// How invocations are suspended, if they can be; the version has been prepared.
    pub fn suspend_mode(&self) -> Option<CheckpointMode> {
        *self.suspend.get_or_init(|| {
            let spec = &self.parts.spec;
            let mode = CheckpointMode::of(&spec.environment).ok().flatten()?;
            (self.parts.backend.suspendable(spec) == Suspendable::Yes).then_some(mode)
        })
    }

    /// Takes a sandbox that is kept, or else the one that was used last.
    pub fn take(&self) -> Option<Slot> {
        let mut idle = self.idle.lock();
        let slot = idle.kept.pop().or_else(|| idle.slots.pop())?;
        drop(idle);
        self.parts.metrics.idle.dec();
        self.parts.metrics.busy.inc();
        Some(slot)
    }

    /// Counts a new sandbox in, as busy.
    pub fn created(&self, sandbox: Box<dyn Sandbox>, log: Arc<SandboxLog>) -> Slot {
        self.parts.metrics.busy.inc();
        let mut slot = Slot {
            sandbox,
            log,
            idle_since: Monotonic::default(),
            trimmed: false,
            kept: false,
            memory_bytes: 0,
        };
        self.measure(&mut slot);
        slot
    }

    /// Counts a new sandbox in that is to be kept.
    pub fn created_to_keep(&self, sandbox: Box<dyn Sandbox>, log: Arc<SandboxLog>) -> Slot {
        self.quota.came();
        let mut slot = self.created(sandbox, log);
        slot.kept = true;
        slot
    }

    /// What a sandbox that is kept must know: the function is told why it was initialised.
    pub fn kept_spec(&self) -> Arc<VersionSpec> {
        let mut spec = VersionSpec::clone(&self.parts.spec);
        let kind = "provisioned-concurrency".to_owned();
        spec.environment.insert(INITIALIZATION_TYPE.to_owned(), kind);
        Arc::new(spec)
    }

    /// Takes kept sandboxes that have died.
    pub fn take_dead(&self) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        let dead = idle.kept.extract_if(.., |slot| !slot.sandbox.is_alive()).collect();
        drop(idle);
        self.taken(dead)
    }

    /// Takes idle kept sandboxes that are not wanted any more.
    pub fn take_surplus(&self) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        let count = idle.kept.len().min(self.quota.surplus() as usize);
        let surplus = idle.kept.drain(..count).collect();
        drop(idle);
        self.taken(surplus)
    }

    pub fn is_retired(&self) -> bool {
        self.idle.lock().retired
    }

    /// Gives a sandbox back after an invocation.
    pub fn give_back(&self, mut slot: Slot, now: Monotonic) -> Kept {
        slot.idle_since = now;
        slot.trimmed = false;
        let mut idle = self.idle.lock();
        if idle.retired {
            return Kept::No(slot);
        }
        if slot.kept && self.quota.surplus() > 0 {
            // It goes on as any other.
            slot.kept = false;
            self.quota.ended();
        }
        let enlist = if slot.kept {
            idle.kept.push(slot);
            false
        } else {
            idle.slots.push(slot);
            !std::mem::replace(&mut idle.enlisted, true)
        };
        drop(idle);
        self.parts.metrics.busy.dec();
        self.parts.metrics.idle.inc();
        if enlist { Kept::AndEnlist } else { Kept::Yes }
    }

    /// Puts a sandbox back in its place that was taken by [`Self::take_untrimmed`].
    pub fn put_back(&self, mut slot: Slot) -> Kept {
        slot.trimmed = true;
        self.measure(&mut slot);
        let mut idle = self.idle.lock();
        if idle.retired {
            return Kept::No(slot);
        }
        let at = idle.slots.partition_point(|other| other.idle_since <= slot.idle_since);
        idle.slots.insert(at, slot);
        let enlist = !std::mem::replace(&mut idle.enlisted, true);
        drop(idle);
        self.parts.metrics.busy.dec();
        self.parts.metrics.idle.inc();
        if enlist { Kept::AndEnlist } else { Kept::Yes }
    }

    /// Takes all that have been idle for `keep_alive`.
    pub fn take_expired(&self, now: Monotonic, keep_alive: Duration) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        let count = idle
            .slots
            .partition_point(|slot| now.since(slot.idle_since) >= keep_alive);
        let taken: Vec<Slot> = idle.slots.drain(..count).collect();
        drop(idle);
        self.taken(taken)
    }

    /// Takes all that have been idle for `quiet` and were not told so yet.
    pub fn take_untrimmed(&self, now: Monotonic, quiet: Duration) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        let due = |slot: &mut Slot| !slot.trimmed && now.since(slot.idle_since) >= quiet;
        let taken: Vec<Slot> = idle.slots.extract_if(.., due).collect();
        drop(idle);
        self.taken(taken)
    }

    /// Takes the one that has been idle longest.
    pub fn take_oldest(&self) -> Option<Slot> {
        let mut idle = self.idle.lock();
        let slot = (!idle.slots.is_empty()).then(|| idle.slots.remove(0));
        drop(idle);
        self.taken(slot.into_iter().collect()).pop()
    }

    /// How many are idle.
    pub fn idle(&self) -> u32 {
        let idle = self.idle.lock();
        u32::try_from(idle.slots.len() + idle.kept.len()).unwrap_or(u32::MAX)
    }

    /// Since when the longest idle one waits.
    pub fn oldest(&self) -> Option<Monotonic> {
        self.idle.lock().slots.first().map(|slot| slot.idle_since)
    }

    /// When the sweeper has something to do here next; without anything to do ever, the pool is struck
    /// off its list.
    pub fn next_due(&self, quiet: Duration, keep_alive: Duration) -> Option<Monotonic> {
        let mut idle = self.idle.lock();
        let due = |slot: &Slot| {
            let after = if slot.trimmed {
                keep_alive
            } else {
                quiet.min(keep_alive)
            };
            slot.idle_since.after(after)
        };
        let next = idle.slots.iter().map(due).min();
        idle.enlisted = next.is_some();
        next
    }

    /// Keeps nothing from now on; returns what was idle.
    pub fn retire(&self) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        idle.retired = true;
        let mut taken = std::mem::take(&mut idle.slots);
        taken.append(&mut idle.kept);
        drop(idle);
        self.taken(taken)
    }

    /// Ends a sandbox that was taken or never given back.
    pub async fn destroy(self: Arc<Self>, slot: Slot) {
        if slot.kept {
            self.quota.ended();
        }
        slot.sandbox.destroy().await;
        self.parts.metrics.busy.dec();
        self.parts.metrics.memory.dec_by(signed(slot.memory_bytes));
    }

    fn taken(&self, slots: Vec<Slot>) -> Vec<Slot> {
        let count = signed(slots.len() as u64);
        self.parts.metrics.idle.dec_by(count);
        self.parts.metrics.busy.inc_by(count);
        slots
    }

    fn measure(&self, slot: &mut Slot) {
        let bytes = slot.sandbox.resident_bytes();
        self.parts
            .metrics
            .memory
            .inc_by(signed(bytes) - signed(slot.memory_bytes));
        slot.memory_bytes = bytes;
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
