//! The sandboxes of one version: the idle ones, newest on top.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bowline_capacity::keeper::{Observed, Standing};
use bowline_capacity::sizing::{Profile, Sample};
use bowline_foundation::clock::Monotonic;
use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Backend, Berth, CheckpointMode, Sandbox, Site, Stand, Suspendable, VersionSpec};
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::admission::FunctionLive;
use super::fleets::Mooring;
use super::foresight::Arrivals;
use super::inline;
use super::mounted::Turns;
use super::provision::Quota;
use super::room::Claim;
use super::rung::Rung;
use super::sizes::Inbox;
use crate::cluster;
use crate::logs::SandboxLog;
use crate::metrics::FunctionMetrics;
use crate::name::{FunctionName, Version};
use crate::package::cache::CodeHold;

/// The variable that tells a function why it was initialised; an owner cannot set it.
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";

/// So many runs are noted until somebody looks at them.
const SAMPLES_MAX: usize = 100;
/// With so many somebody is told.
const SAMPLES_SEEN: usize = 10;

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
    /// Who is told of what runs have used.
    pub used: Arc<Inbox>,
    /// Who is told that there is a sandbox which was not among the ordinary idle ones.
    pub arrivals: Arc<Arrivals>,
    /// The layers whose combination the specification names.
    pub layers: Vec<Digest>,
    /// Keeps the code and the layers on disk.
    pub held: Vec<Arc<CodeHold>>,
    /// Whether the code came with a request, and is nowhere else.
    pub is_brought: bool,
}

/// Where one version, as configured at one moment, runs. A change of code or configuration makes another
/// pool and retires this one.
pub(crate) struct Pool {
    pub parts: PoolParts,
    pub version_text: Box<str>,
    /// What the version is, the same on every node.
    pub identity: u64,
    /// The version's ARN, which stays when its code or configuration changes.
    pub key: Box<str>,
    /// Set once the backend has prepared the version in this process.
    pub prepared: OnceCell<()>,
    /// Whether it is being made ready while another version answers.
    pub preparing: AtomicBool,
    /// Whether requests may bring the code that is to run.
    pub takes_code: bool,
    /// Set once a sandbox of it has stood, or has failed by its own fault: no other version answers for it any more.
    has_stood: AtomicBool,
    /// How many sandboxes are kept initialised.
    pub quota: Quota,
    /// Told when a sandbox becomes idle while invocations of the version wait for room.
    pub freed: Notify,
    waiting: AtomicU32,
    /// How long the last start took, in microseconds.
    start_micros: AtomicU32,
    /// What a new sandbox is allowed, in mebibytes.
    size: AtomicU32,
    /// How that follows the use.
    pub sizing: Mutex<Profile>,
    /// How invocations are suspended, once it is known whether they can be.
    suspend: OnceLock<Option<CheckpointMode>>,
    /// Which fleet its sandboxes belong to.
    pub mooring: Mooring,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Longest idle first.
    slots: Vec<Slot>,
    /// Idle ones that are out to be told so, and come back in a moment.
    trimming: u32,
    /// Idle ones that are kept whether they are used or not.
    kept: Vec<Slot>,
    /// Nothing is kept any more.
    retired: bool,
    /// The sweeper knows of this pool.
    enlisted: bool,
    /// Invocations since somebody asked for a fleet's sake, those that kept sandboxes served among them.
    uses: u64,
    /// Invocations since the minute began, apart from those that kept sandboxes served.
    calls: u32,
    /// Sandboxes that serve invocations, apart from those that are kept.
    busy: u32,
    /// The most of them since the minute began.
    peak: u32,
    /// What runs have used, as far as nobody has looked at it.
    samples: Vec<Sample>,
}

impl Idle {
    /// The idle ones that are not kept, those that are being told so among them.
    fn resting(&self) -> u32 {
        u32::try_from(self.slots.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.trimming)
    }

    /// Counts a sandbox in that serves an invocation from now on.
    fn works(&mut self, slot: &mut Slot) {
        self.uses += 1;
        slot.working = !slot.kept;
        if slot.working {
            self.calls = self.calls.saturating_add(1);
            self.busy += 1;
            self.peak = self.peak.max(self.busy);
        }
    }

    /// Counts it out; says whether somebody should look at what runs have used.
    fn rests(&mut self, slot: &mut Slot) -> bool {
        self.busy -= u32::from(std::mem::take(&mut slot.working));
        let Some(sample) = slot.used.take() else { return false };
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample);
        }
        self.samples.len() == SAMPLES_SEEN
    }
}

/// A sandbox that lives, with its log.
pub(crate) struct Slot {
    pub sandbox: Box<dyn Sandbox>,
    pub log: Arc<SandboxLog>,
    idle_since: Monotonic,
    trimmed: bool,
    /// Whether it counts against the pool's quota.
    kept: bool,
    /// Whether it is counted as serving.
    working: bool,
    /// Whether it was started ahead of a call, and has served none yet.
    unused: bool,
    /// What its invocation has used.
    pub used: Option<Sample>,
    /// The turns to write of its invocation; they are over once it stands still, or is gone.
    pub turns: Turns,
    /// What the memory gauge counts for it.
    memory_bytes: u64,
    /// The memory that it may have.
    claim: Claim,
    /// The fleet that it was made in, where there are any.
    pub stand: Option<Stand>,
}

impl Slot {
    fn is_at(&self, site: &Site) -> bool {
        self.sandbox.site() == Some(site)
    }

    fn is_spilled(&self) -> bool {
        self.stand.is_some_and(|stand| stand.is_spilled)
    }

    /// The memory that it may have.
    pub fn memory(&self) -> Mebibytes {
        self.claim.amount()
    }
}

/// A sandbox that was made, and what goes with it.
pub(crate) struct Created {
    pub sandbox: Box<dyn Sandbox>,
    pub log: Arc<SandboxLog>,
    pub claim: Claim,
    /// How long it took.
    pub init: Duration,
}

/// When the sweeper has something to do in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    At(Monotonic),
    /// Nothing, as long as nothing happens there.
    Resting,
    /// Nothing: nothing is idle.
    Never,
}

/// What became of a sandbox that was given back.
pub(crate) enum Kept {
    Yes,
    /// The sweeper must be told of the pool.
    AndEnlist,
    /// The pool is retired or its size another; the sandbox is to be destroyed.
    No(Slot),
}

impl Pool {
    /// `sizing` is for the memory that the specification asks for.
    pub fn new(parts: PoolParts, sizing: Profile) -> Arc<Self> {
        Arc::new(Self {
            version_text: parts.version.to_string().into(),
            identity: cluster::identity(&parts.spec),
            key: format!("{}:{}", parts.arn, parts.version).into(),
            prepared: OnceCell::new(),
            preparing: AtomicBool::new(false),
            takes_code: inline::is_asked_for(&parts.spec.environment),
            has_stood: AtomicBool::new(false),
            quota: Quota::default(),
            freed: Notify::new(),
            waiting: AtomicU32::new(0),
            start_micros: AtomicU32::new(0),
            size: AtomicU32::new(sizing.effective().0),
            sizing: Mutex::new(sizing),
            suspend: OnceLock::new(),
            mooring: Mooring::default(),
            idle: Mutex::default(),
            parts,
        })
    }

    /// A place where other code runs by the same settings.
    pub fn beside(&self, spec: VersionSpec, code: Arc<CodeHold>, metrics: FunctionMetrics) -> Arc<Self> {
        let parts = &self.parts;
        let parts = PoolParts {
            name: parts.name.clone(),
            spec: Arc::new(spec),
            arn: parts.arn.clone(),
            backend: parts.backend.clone(),
            metrics,
            live: parts.live.clone(),
            used: parts.used.clone(),
            arrivals: parts.arrivals.clone(),
            layers: parts.layers.clone(),
            held: parts.held.iter().cloned().chain([code]).collect(),
            is_brought: true,
            ..*parts
        };
        Self::new(parts, self.sizing.lock().clone())
    }

    /// How invocations are suspended, if they can be; the version has been prepared.
    pub fn suspend_mode(&self) -> Option<CheckpointMode> {
        *self.suspend.get_or_init(|| {
            let spec = &self.parts.spec;
            let mode = CheckpointMode::of(&spec.environment).ok().flatten()?;
            (self.parts.backend.suspendable(spec) == Suspendable::Yes).then_some(mode)
        })
    }

    /// Takes a sandbox that is kept, or else the one that was used last, for an invocation.
    pub fn take(&self) -> Option<(Slot, Rung)> {
        let mut idle = self.idle.lock();
        let mut slot = idle.kept.pop().or_else(|| idle.slots.pop())?;
        idle.works(&mut slot);
        drop(idle);
        self.parts.metrics.idle.dec();
        self.parts.metrics.busy.inc();
        let rung = match (slot.kept, std::mem::take(&mut slot.unused)) {
            (true, _) => Rung::Provisioned,
            (false, true) => Rung::Prewarmed,
            (false, false) => Rung::Warm,
        };
        Some((slot, rung))
    }

    /// Counts a new sandbox in, as busy with the invocation that it was made for.
    pub fn created(&self, created: Created) -> Slot {
        let mut slot = self.counted(created);
        self.idle.lock().works(&mut slot);
        slot
    }

    /// Counts a new sandbox in that nobody has called for yet.
    pub fn created_ahead(&self, created: Created) -> Slot {
        let mut slot = self.counted(created);
        slot.unused = true;
        slot
    }

    /// Counts a new sandbox in that is to be kept.
    pub fn created_to_keep(&self, created: Created) -> Slot {
        self.quota.came();
        let mut slot = self.counted(created);
        slot.kept = true;
        slot
    }

    /// Whether invocations find it as ready as it gets.
    pub fn has_stood(&self) -> bool {
        self.has_stood.load(Ordering::Acquire)
    }

    /// Says that it is: a sandbox of it stands, or cannot by the function's own fault.
    pub fn stands(&self) {
        self.has_stood.store(true, Ordering::Release);
    }

    fn counted(&self, created: Created) -> Slot {
        self.stands();
        self.parts.metrics.busy.inc();
        let micros = u32::try_from(created.init.as_micros()).unwrap_or(u32::MAX);
        self.start_micros.store(micros, Ordering::Relaxed);
        let mut slot = Slot {
            log: created.log,
            idle_since: Monotonic::default(),
            trimmed: false,
            kept: false,
            working: false,
            unused: false,
            used: None,
            turns: Turns::new(),
            memory_bytes: 0,
            stand: created.sandbox.stand(),
            sandbox: created.sandbox,
            claim: created.claim,
        };
        self.measure(&mut slot);
        slot
    }

    /// The memory that a new sandbox gets.
    pub fn size(&self) -> Mebibytes {
        Mebibytes(self.size.load(Ordering::Relaxed))
    }

    /// Has sizes follow another profile from now on; sandboxes of another size end with their invocation.
    /// Returns those that are idle, which are to be destroyed.
    #[must_use]
    pub fn set_sizing(&self, sizing: &Profile) -> Vec<Slot> {
        let mut current = self.sizing.lock();
        current.follow(sizing);
        let before = self.size.swap(sizing.effective().0, Ordering::Relaxed);
        drop(current);
        if before == sizing.effective().0 {
            return Vec::new();
        }
        let mut idle = self.idle.lock();
        let other = |slot: &mut Slot| slot.memory() != sizing.effective();
        let mut taken: Vec<Slot> = idle.slots.extract_if(.., other).collect();
        taken.extend(idle.kept.extract_if(.., other));
        drop(idle);
        self.taken(taken)
    }

    /// Has sandboxes belong elsewhere from now on; those in another fleet end with their invocation, unless they are there
    /// because their own had no room. Returns those that are idle, which are to be destroyed.
    #[must_use]
    pub fn moor(&self, berth: Option<Berth>) -> Vec<Slot> {
        self.mooring.set(berth);
        let mut idle = self.idle.lock();
        let other = |slot: &mut Slot| !self.mooring.has_place_for(slot.stand);
        let mut taken: Vec<Slot> = idle.slots.extract_if(.., other).collect();
        taken.extend(idle.kept.extract_if(.., other));
        drop(idle);
        self.taken(taken)
    }

    /// Whether an idle sandbox is in the other fleet since its own had no room.
    pub fn has_spilled(&self) -> bool {
        self.idle.lock().slots.iter().any(Slot::is_spilled)
    }

    /// Takes such a one.
    pub fn take_spilled(&self) -> Option<Slot> {
        let mut idle = self.idle.lock();
        let at = idle.slots.iter().position(Slot::is_spilled);
        let slot = at.map(|at| idle.slots.remove(at));
        drop(idle);
        self.taken(slot.into_iter().collect()).pop()
    }

    /// How often it was invoked since this was asked last.
    pub fn take_uses(&self) -> u64 {
        std::mem::take(&mut self.idle.lock().uses)
    }

    /// Takes what runs have used since this was asked last.
    pub fn take_samples(&self) -> Vec<Sample> {
        self.idle.lock().samples.drain(..).collect()
    }

    /// What a sandbox must know that is made now.
    pub fn spec(&self) -> Arc<VersionSpec> {
        let size = self.size();
        if size == self.parts.spec.memory {
            return self.parts.spec.clone();
        }
        let mut spec = VersionSpec::clone(&self.parts.spec);
        spec.memory = size;
        Arc::new(spec)
    }

    /// How long the last start took.
    pub fn start_time(&self) -> Duration {
        Duration::from_micros(self.start_micros.load(Ordering::Relaxed).into())
    }

    /// How long the last start took in an earlier life of the node, unless there was one in this.
    pub fn recall_start_time(&self, micros: u32) {
        let unknown = self
            .start_micros
            .compare_exchange(0, micros, Ordering::Relaxed, Ordering::Relaxed);
        unknown.ok();
    }

    /// What was seen since this was asked last, and what there is now.
    pub fn observe(&self) -> Observed {
        let mut idle = self.idle.lock();
        let seen = Observed {
            calls: std::mem::take(&mut idle.calls),
            peak: idle.peak,
            busy: idle.busy,
            idle: idle.resting(),
        };
        idle.peak = idle.busy;
        seen
    }

    /// Sandboxes that wait or work, apart from those that are kept.
    pub fn living(&self) -> u32 {
        let idle = self.idle.lock();
        idle.busy + idle.resting()
    }

    /// What it looks like to whom needs its room.
    pub fn standing(&self) -> Standing {
        let idle = self.idle.lock();
        match (idle.slots.is_empty(), idle.busy > 0 || idle.trimming > 0) {
            (false, _) if idle.calls > 0 => Standing::Called,
            (false, _) => Standing::Idle,
            (true, true) => Standing::Busy,
            (true, false) => Standing::Cold,
        }
    }

    /// The same where only sandboxes in one place would help.
    pub fn standing_at(&self, site: &Site) -> Standing {
        let idle = self.idle.lock();
        match (idle.slots.iter().any(|slot| slot.is_at(site)), idle.calls > 0) {
            (true, true) => Standing::Called,
            (true, false) => Standing::Idle,
            (false, _) => Standing::Busy,
        }
    }

    /// Counts an invocation in that waits for a sandbox, as long as what is returned lives.
    pub fn wait(&self) -> impl Drop + use<'_> {
        struct Waits<'a>(&'a AtomicU32);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waits(&self.waiting)
    }

    /// Tells one who waits for a sandbox of this version that there is one.
    pub fn tell(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_one();
        }
    }

    /// What a sandbox that is kept must know: the function is told why it was initialised.
    pub fn kept_spec(&self) -> Arc<VersionSpec> {
        let mut spec = VersionSpec::clone(&self.parts.spec);
        spec.memory = self.size();
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
    pub fn give_back(self: &Arc<Self>, mut slot: Slot, now: Monotonic) -> Kept {
        slot.idle_since = now;
        slot.trimmed = false;
        let mut idle = self.idle.lock();
        if idle.rests(&mut slot) {
            self.parts.used.tell(self);
        }
        if idle.retired || slot.claim.amount() != self.size() || !self.mooring.has_place_for(slot.stand) {
            return Kept::No(slot);
        }
        if slot.kept && self.quota.surplus() > 0 {
            // It goes on as any other.
            slot.kept = false;
            self.quota.ended();
            self.parts.arrivals.tell(self);
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
    pub fn put_back(self: &Arc<Self>, mut slot: Slot) -> Kept {
        slot.trimmed = true;
        self.measure(&mut slot);
        let mut idle = self.idle.lock();
        idle.trimming -= 1;
        if idle.retired || slot.claim.amount() != self.size() || !self.mooring.has_place_for(slot.stand) {
            return Kept::No(slot);
        }
        let at = idle.slots.partition_point(|other| other.idle_since <= slot.idle_since);
        idle.slots.insert(at, slot);
        let enlist = !std::mem::replace(&mut idle.enlisted, true);
        drop(idle);
        self.parts.arrivals.tell(self);
        self.parts.metrics.busy.dec();
        self.parts.metrics.idle.inc();
        if enlist { Kept::AndEnlist } else { Kept::Yes }
    }

    /// Takes all that have been idle for `keep_alive`, or for as long as they may in their fleet.
    pub fn take_expired(&self, now: Monotonic, keep_alive: Duration) -> Vec<Slot> {
        let keep_alive = self.mooring.idle_max(keep_alive);
        let mut idle = self.idle.lock();
        let count = idle
            .slots
            .partition_point(|slot| now.since(slot.idle_since) >= keep_alive);
        let count = count.min(idle.slots.len().saturating_sub(self.mooring.residents()));
        let taken: Vec<Slot> = idle.slots.drain(..count).collect();
        drop(idle);
        self.taken(taken)
    }

    /// Takes all that have been idle for `quiet` and were not told so yet; each comes back by [`Self::put_back`].
    pub fn take_untrimmed(&self, now: Monotonic, quiet: Duration) -> Vec<Slot> {
        let mut idle = self.idle.lock();
        let due = |slot: &mut Slot| !slot.trimmed && now.since(slot.idle_since) >= quiet;
        let taken: Vec<Slot> = idle.slots.extract_if(.., due).collect();
        idle.trimming += u32::try_from(taken.len()).unwrap_or(u32::MAX);
        drop(idle);
        self.taken(taken)
    }

    /// Takes the one that has been idle longest, of those in one place if it is said.
    pub fn take_oldest(&self, there: Option<&Site>) -> Option<Slot> {
        let mut idle = self.idle.lock();
        let is_there = |slot: &Slot| there.is_none_or(|site| slot.is_at(site));
        let at = idle.slots.iter().position(is_there);
        let slot = at.map(|at| idle.slots.remove(at));
        drop(idle);
        self.taken(slot.into_iter().collect()).pop()
    }

    /// How many are idle.
    pub fn idle(&self) -> u32 {
        let idle = self.idle.lock();
        u32::try_from(idle.slots.len() + idle.kept.len()).unwrap_or(u32::MAX)
    }

    /// The memory, in mebibytes, of those that are idle and not kept.
    pub fn idle_memory(&self) -> u64 {
        let idle = self.idle.lock();
        idle.slots.iter().map(|slot| u64::from(slot.memory().0)).sum()
    }

    /// The same of those in one place.
    pub fn idle_memory_at(&self, site: &Site) -> u64 {
        let idle = self.idle.lock();
        let there = idle.slots.iter().filter(|slot| slot.is_at(site));
        there.map(|slot| u64::from(slot.memory().0)).sum()
    }

    /// Since when the longest idle one waits.
    pub fn oldest(&self) -> Option<Monotonic> {
        self.idle.lock().slots.first().map(|slot| slot.idle_since)
    }

    /// When the sweeper has something to do here next; without anything to do ever, the pool is struck
    /// off its list.
    pub fn next_due(&self, quiet: Duration, keep_alive: Duration) -> Due {
        let keep_alive = self.mooring.idle_max(keep_alive);
        let mut idle = self.idle.lock();
        let mortal = idle.slots.len().saturating_sub(self.mooring.residents());
        let due = |(at, slot): (usize, &Slot)| match (slot.trimmed, at < mortal) {
            (false, _) => Some(slot.idle_since.after(quiet.min(keep_alive))),
            (true, true) => Some(slot.idle_since.after(keep_alive)),
            // It stays, and has been told that it is idle.
            (true, false) => None,
        };
        let next = idle.slots.iter().enumerate().filter_map(due).min();
        idle.enlisted = !idle.slots.is_empty();
        match (next, idle.enlisted) {
            (Some(next), _) => Due::At(next),
            (None, true) => Due::Resting,
            (None, false) => Due::Never,
        }
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
    pub async fn destroy(self: Arc<Self>, mut slot: Slot) {
        if slot.kept {
            self.quota.ended();
        }
        if (slot.working || slot.used.is_some()) && self.idle.lock().rests(&mut slot) {
            self.parts.used.tell(&self);
        }
        if slot.unused {
            self.parts.metrics.wasted.inc();
        }
        slot.sandbox.destroy().await;
        self.parts.metrics.busy.dec();
        self.parts.metrics.memory.dec_by(signed(slot.memory_bytes));
        // Its memory is another's from here on.
        slot.claim.vacate();
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
