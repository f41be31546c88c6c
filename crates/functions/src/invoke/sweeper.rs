//! Ends sandboxes that are idle for long, and tells those that become idle.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Crowded, SandboxKind};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pool::{Due, Kept, Pool, Slot};
use super::room::Room;

/// After this time without an invocation a sandbox is told that it is idle.
const QUIET: Duration = Duration::from_secs(2);
/// Sandboxes that become due within this time are handled together.
const GRAIN: Duration = Duration::from_millis(20);

/// The pools that hold idle sandboxes.
pub(crate) struct Sweeper {
    pools: Mutex<Vec<Arc<Pool>>>,
    wake: Notify,
    clock: Clock,
    /// However likely the next call is, nothing is idle for longer.
    keep_alive: Duration,
    room: Arc<Room>,
}

impl Sweeper {
    pub fn new(clock: Clock, keep_alive: Duration, room: Arc<Room>) -> Self {
        Self {
            pools: Mutex::default(),
            wake: Notify::new(),
            clock,
            keep_alive,
            room,
        }
    }

    /// The pools that hold idle sandboxes, those that are kept in any case left out.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().clone()
    }

    /// Gives a sandbox back to its pool, or ends it if the pool is retired.
    pub fn give_back(&self, pool: &Arc<Pool>, slot: Slot) {
        if let Kept::No(slot) = self.keep(pool, slot) {
            tokio::spawn(pool.clone().destroy(slot));
        }
    }

    /// The same, but leaves it to the caller to end it.
    pub fn keep(&self, pool: &Arc<Pool>, slot: Slot) -> Kept {
        let kept = pool.give_back(slot, self.clock.monotonic());
        match kept {
            Kept::No(_) => return kept,
            Kept::Yes => {}
            Kept::AndEnlist => self.enlist(pool),
        }
        self.idled(pool);
        Kept::Yes
    }

    /// Forgets a pool that keeps nothing any more, and with it its code.
    pub fn forget(&self, pool: &Arc<Pool>) {
        self.pools.lock().retain(|known| !Arc::ptr_eq(known, pool));
    }

    /// Has it looked again when something is due: how long sandboxes may be idle has changed.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// Works until it is dropped; sleeps while there is nothing to do.
    pub async fn run(self: Arc<Self>) {
        loop {
            let wait = self.sweep();
            let woken = self.wake.notified();
            match wait {
                None => woken.await,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait.max(GRAIN), woken).await;
                }
            }
        }
    }

    /// Takes the sandbox of this kind that has been idle longest of all.
    pub fn evict(&self, kind: SandboxKind) -> Option<(Arc<Pool>, Slot)> {
        let pools = self.pools.lock().clone();
        let alike = pools.into_iter().filter(|pool| pool.parts.backend.kind() == kind);
        let aged = alike.filter_map(|pool| Some((pool.oldest()?, pool)));
        let (_, pool) = aged.min_by_key(|(since, _)| *since)?;
        let slot = pool.take_oldest(None)?;
        Some((pool, slot))
    }

    /// Whether there would be room for so much if all that are idle ended.
    pub fn can_make_room(&self, wanted: Mebibytes) -> bool {
        let (budget, claimed) = (self.room.budget(), self.room.claimed());
        let left = u64::from(budget.0.saturating_sub(claimed.0));
        let idle: u64 = self.pools().iter().map(|pool| pool.idle_memory()).sum();
        wanted <= budget && left + idle >= u64::from(wanted.0)
    }

    /// One of these places that would have room if some that are idle there ended: the one that lacks least.
    pub fn roomy<'a>(&self, crowded: &'a [Crowded]) -> Option<&'a Crowded> {
        let pools = self.pools();
        let has_enough = |at: &&Crowded| {
            let idle: u64 = pools.iter().map(|pool| pool.idle_memory_at(&at.site)).sum();
            idle >= u64::from(at.missing.0)
        };
        crowded.iter().filter(has_enough).min_by_key(|at| at.missing)
    }

    /// Does what is due; returns how long nothing will be.
    fn sweep(self: &Arc<Self>) -> Option<Duration> {
        let pools = self.pools.lock().clone();
        for pool in &pools {
            let now = self.clock.monotonic();
            for slot in pool.take_expired(now, self.keep_alive) {
                tokio::spawn(pool.clone().destroy(slot));
            }
            for slot in pool.take_untrimmed(now, QUIET) {
                tokio::spawn(self.clone().trim(pool.clone(), slot));
            }
        }
        let mut next: Option<Monotonic> = None;
        self.pools.lock().retain(|pool| {
            let due = pool.next_due(QUIET, self.keep_alive);
            if let Due::At(at) = due {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            due != Due::Never
        });
        next.map(|next| next.since(self.clock.monotonic()))
    }

    async fn trim(self: Arc<Self>, pool: Arc<Pool>, mut slot: Slot) {
        slot.sandbox.idle().await;
        match pool.put_back(slot) {
            Kept::Yes => {}
            Kept::AndEnlist => self.enlist(&pool),
            Kept::No(slot) => return pool.destroy(slot).await,
        }
        self.idled(&pool);
    }

    /// A pool has one more idle sandbox. Whoever waits for its room is told as well as who waits for the sandbox
    /// itself: that one may have got another meanwhile.
    fn idled(&self, pool: &Pool) {
        pool.tell();
        self.room.idled();
    }

    fn enlist(&self, pool: &Arc<Pool>) {
        self.pools.lock().push(pool.clone());
        self.wake.notify_one();
    }
}
