//! Sandboxes in the fleet that their version belongs to, where an account's instances are in fleets.
//!
//! ```text
//!   invocation ─▶ a count of its pool, under the lock that it takes anyway
//!   TICK ─▶ counts ─▶ Backend::called, Backend::berth ─▶ another fleet? ─▶ some are started there ─▶ the others end when idle
//! ```
//! What runs is never moved. One that found no room in its fleet goes there, when it is idle, once there is. Where nobody has fleets, nothing of this is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bowline_capacity::fleet::Class;
use bowline_foundation::clock::Timestamp;
use bowline_sandbox::{Berth, Stand};

use super::create::create_ahead;
use super::pool::{Kept, Pool, Slot};
use crate::service::Inner;

/// How often it is told how often versions were called.
const TICK: Duration = Duration::from_secs(5);
/// So many sandboxes at most are started in a busy version's new fleet before those in its old one end.
const AHEAD_MAX: u32 = 4;

/// Which fleet a pool's sandboxes belong to.
#[derive(Default)]
pub(crate) struct Mooring {
    /// Zero for none, or else [`mark`].
    fleet: AtomicU64,
    /// How long they may be idle there, in milliseconds; zero if they may stay.
    idle_ms_max: AtomicU64,
    /// Whether some are being started elsewhere.
    is_moving: AtomicBool,
}

fn mark(fleet: Class) -> u64 {
    match fleet {
        Class::Low => 1,
        Class::High => 2,
        Class::From(count) => 2 + u64::from(count.get()),
    }
}

impl Mooring {
    /// Whether a sandbox that was made there may be used again: anywhere, unless its fleet is another one. One that
    /// found no room in its own stays.
    pub fn has_place_for(&self, stand: Option<Stand>) -> bool {
        let fleet = self.fleet.load(Ordering::Relaxed);
        fleet == 0 || stand.is_none_or(|stand| stand.is_spilled || mark(stand.fleet) == fleet)
    }

    /// Whether they belong to any.
    pub fn is_set(&self) -> bool {
        self.fleet.load(Ordering::Relaxed) != 0
    }

    fn is(&self, berth: Option<Berth>) -> bool {
        let same = |berth: Berth| {
            mark(berth.fleet) == self.fleet.load(Ordering::Relaxed)
                && millis(berth) == self.idle_ms_max.load(Ordering::Relaxed)
        };
        berth.map_or(!self.is_set(), same)
    }

    pub fn set(&self, berth: Option<Berth>) {
        self.idle_ms_max.store(berth.map_or(0, millis), Ordering::Relaxed);
        self.fleet
            .store(berth.map_or(0, |berth| mark(berth.fleet)), Ordering::Relaxed);
    }

    /// How long a sandbox may be idle, `otherwise` where its fleet does not say.
    pub fn idle_max(&self, otherwise: Duration) -> Duration {
        match self.idle_ms_max.load(Ordering::Relaxed) {
            0 => otherwise,
            millis => otherwise.min(Duration::from_millis(millis)),
        }
    }

    /// How many idle ones stay however long nobody calls.
    pub fn residents(&self) -> usize {
        let stays = self.fleet.load(Ordering::Relaxed) != 0 && self.idle_ms_max.load(Ordering::Relaxed) == 0;
        usize::from(stays)
    }
}

fn millis(berth: Berth) -> u64 {
    let millis = |idle: Duration| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).max(1);
    berth.idle_max.map_or(0, millis)
}

/// Up to where it was told how often versions were called.
pub(crate) struct Tally {
    since: Timestamp,
    /// Whether it was told then; what pools had counted before that is from no time that is known.
    was_told: bool,
}

impl Tally {
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            was_told: true,
        }
    }
}

impl Inner {
    /// Keeps sandboxes in the fleets of their versions, for as long as the service lives.
    pub async fn follow_fleets(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.look_at_fleets();
        }
    }

    /// Tells how often versions were called, and has their sandboxes follow.
    pub fn look_at_fleets(self: &Arc<Self>) {
        if self.tell_calls() {
            for entry in self.registry.snapshot.all() {
                for pool in entry.pools() {
                    self.follow_berth(pool, pool.parts.backend.berth(&pool.parts.spec));
                }
            }
        }
    }

    /// Tells how often versions were called; says whether anybody has fleets, or had them when it was told last.
    pub fn tell_calls(&self) -> bool {
        let now = self.clock.now();
        let has_fleets = self.backends.iter().any(|backend| backend.has_fleets());
        let mut tally = self.foresight.tally.lock();
        let since = std::mem::replace(&mut tally.since, now);
        let was_told = std::mem::replace(&mut tally.was_told, has_fleets);
        drop(tally);
        if !has_fleets && !was_told {
            return false;
        }
        for entry in self.registry.snapshot.all() {
            for pool in entry.pools() {
                let uses = pool.take_uses();
                if was_told && uses > 0 {
                    pool.parts.backend.called(&pool.parts.spec, uses, since);
                }
            }
        }
        true
    }

    /// Has the sandbox that a pool is about to get belong somewhere, be it the first since there are fleets.
    pub(super) fn moor_first(&self, pool: &Pool) {
        if !pool.mooring.is_set() {
            pool.mooring.set(pool.parts.backend.berth(&pool.parts.spec));
        }
    }

    fn follow_berth(self: &Arc<Self>, pool: &Arc<Pool>, berth: Option<Berth>) {
        let comes_home = berth.is_some_and(|berth| berth.has_room) && pool.has_spilled();
        let moves = !pool.mooring.is(berth);
        if !(moves || comes_home) || pool.mooring.is_moving.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        match moves {
            true => tasks.spawn_on(move_to(self.clone(), pool.clone(), berth), &self.runtime),
            false => tasks.spawn_on(bring_home(self.clone(), pool.clone()), &self.runtime),
        };
    }
}

/// Has one sandbox be where it belongs that found no room there when it was made. A busy version has the new one first.
async fn bring_home(inner: Arc<Inner>, pool: Arc<Pool>) {
    let is_busy = pool.mooring.residents() > 0;
    let ahead = if is_busy {
        create_ahead(&inner, &pool).await
    } else {
        None
    };
    let is_there = |slot: &Slot| slot.stand.is_some_and(|stand| !stand.is_spilled);
    // Otherwise the room went to somebody else.
    let may_go = !is_busy || ahead.as_ref().is_some_and(is_there);
    if let Some(slot) = may_go.then(|| pool.take_spilled()).flatten() {
        inner.runtime.spawn(pool.clone().destroy(slot));
    }
    keep_or_destroy(&inner, &pool, ahead).await;
    pool.mooring.is_moving.store(false, Ordering::Release);
}

async fn keep_or_destroy(inner: &Arc<Inner>, pool: &Arc<Pool>, slots: impl IntoIterator<Item = Slot>) {
    for slot in slots {
        if let Kept::No(slot) = inner.sweeper.keep(pool, slot) {
            pool.clone().destroy(slot).await;
        }
    }
}

/// Has a pool's sandboxes be in another fleet. A busy version has some there before those that it had end.
async fn move_to(inner: Arc<Inner>, pool: Arc<Pool>, berth: Option<Berth>) {
    let mut ahead = Vec::new();
    if pool.mooring.is_set() && berth.is_some_and(|berth| berth.idle_max.is_none()) {
        for _ in 0..pool.living().min(AHEAD_MAX) {
            ahead.extend(create_ahead(&inner, &pool).await);
        }
    }
    for slot in pool.moor(berth) {
        inner.runtime.spawn(pool.clone().destroy(slot));
    }
    keep_or_destroy(&inner, &pool, ahead).await;
    inner.sweeper.look();
    pool.mooring.is_moving.store(false, Ordering::Release);
}
