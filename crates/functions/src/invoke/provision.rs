//! Sandboxes that are kept initialised, whether they are asked for or not.
//!
//! ```text
//!   settings ─▶ a pool's quota ─▶ keeper: creates what is missing, ends what is too much or dead
//!                                    ▲ woken by changes, and every TICK while anything is kept
//!   Invoke ─▶ a kept sandbox first ─▶ back to its pool's kept ones
//! ```
//! What is kept is soft state: the settings are durable, and a start keeps anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Monotonic;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::create::{NotCreated, create_to_keep};
use super::pool::{Kept, Pool};
use crate::error::{Error, Throttle};
use crate::model::attached::ProvisionedStatus;
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// How often it is looked whether a kept sandbox has died.
const TICK: Duration = Duration::from_millis(500);
/// After the platform could not create a sandbox, it is tried again after this time.
const PAUSE: Duration = Duration::from_secs(5);
/// The same where there was no memory for it, which does not pass as fast.
const FULL_PAUSE: Duration = Duration::from_secs(60);
/// Sandboxes that are initialised at once to be kept.
const INITIALISING_MAX: usize = 4;
/// What the service calls a function that fails while it initialises.
const INIT_FAILURE: &str = "FUNCTION_ERROR_INIT_FAILURE";

/// A pool's share of the account's concurrency, apart from what functions share.
#[derive(Default)]
pub(crate) struct Lane {
    max: AtomicU32,
    running: AtomicU32,
}

impl Lane {
    /// Lets an invocation in if there is a lane and it is not full. Where nothing is kept this is one load.
    pub fn enter(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        if max == 0 {
            return false;
        }
        let entered = self.running.fetch_add(1, Ordering::AcqRel) < max;
        if !entered {
            self.leave();
        }
        entered
    }

    /// Gives the place back.
    pub fn leave(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many sandboxes a pool keeps, and how far that is.
#[derive(Default)]
pub(crate) struct Quota {
    pub lane: Arc<Lane>,
    state: Mutex<QuotaState>,
}

#[derive(Default)]
struct QuotaState {
    wanted: u32,
    /// Initialised to be kept and not ended yet, busy ones included.
    living: u32,
    /// Being initialised.
    coming: u32,
    failure: Option<Failure>,
}

struct Failure {
    reason: String,
    /// When it is tried again; never, if the function is at fault.
    again: Option<Monotonic>,
}

impl Quota {
    /// Says how many are wanted; whether that is news.
    fn set(&self, wanted: u32) -> bool {
        let mut state = self.state.lock();
        if state.wanted == wanted {
            return false;
        }
        state.wanted = wanted;
        state.failure = None;
        self.lane.max.store(wanted, Ordering::Relaxed);
        true
    }

    /// How many must be created now; they are counted as coming.
    fn claim(&self, now: Monotonic) -> u32 {
        let mut state = self.state.lock();
        match &state.failure {
            Some(failure) if failure.again.is_none_or(|again| now < again) => return 0,
            _ => {}
        }
        let missing = state.wanted.saturating_sub(state.living + state.coming);
        state.coming += missing;
        missing
    }

    pub(super) fn came(&self) {
        let mut state = self.state.lock();
        state.coming -= 1;
        state.living += 1;
        state.failure = None;
    }

    fn failed(&self, reason: String, again: Option<Monotonic>) {
        let mut state = self.state.lock();
        state.coming -= 1;
        state.failure = Some(Failure { reason, again });
    }

    pub(super) fn ended(&self) {
        self.state.lock().living -= 1;
    }

    /// How many live that are not wanted any more.
    pub(super) fn surplus(&self) -> u32 {
        let state = self.state.lock();
        state.living.saturating_sub(state.wanted)
    }

    /// Whether the keeper has something to do here.
    fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.wanted == 0 && state.living == 0 && state.coming == 0
    }

    /// Forgets a failure, so that it is tried again.
    pub fn forgive(&self) {
        self.state.lock().failure = None;
    }

    /// Initialised sandboxes, and how far `requested` of them are.
    pub fn status(&self, requested: u32) -> (u32, ProvisionedStatus) {
        let state = self.state.lock();
        let status = match &state.failure {
            _ if state.living >= requested => ProvisionedStatus::Ready,
            Some(failure) => ProvisionedStatus::Failed(failure.reason.clone()),
            None => ProvisionedStatus::InProgress,
        };
        (state.living.min(requested), status)
    }
}

/// The pools that keep sandboxes.
#[derive(Default)]
pub(crate) struct Keeper {
    pools: Mutex<Vec<Arc<Pool>>>,
    wake: Notify,
    permits: Permits,
}

struct Permits(Semaphore);

impl Default for Permits {
    fn default() -> Self {
        Self(Semaphore::new(INITIALISING_MAX))
    }
}

impl Keeper {
    /// Has every pool of a function keep what its settings say.
    pub fn apply(&self, entry: &FunctionEntry) {
        for (number, version) in &entry.versions {
            if let Some(pool) = &version.pool {
                self.want(pool, entry.provisioned_of(*number));
            }
        }
    }

    fn want(&self, pool: &Arc<Pool>, wanted: u32) {
        if !pool.quota.set(wanted) {
            return;
        }
        let mut pools = self.pools.lock();
        if !pools.iter().any(|known| Arc::ptr_eq(known, pool)) {
            pools.push(pool.clone());
        }
        drop(pools);
        self.wake.notify_one();
    }

    /// Has the keeper look now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The pools with something to do; the others are forgotten.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools.lock();
        pools.retain(|pool| !pool.is_retired() && !pool.quota.is_idle());
        pools.clone()
    }
}

impl Inner {
    /// Keeps what is to be kept, for as long as the service lives.
    pub async fn keep_provisioned(self: Arc<Self>) {
        loop {
            let pools = self.keeper.pools();
            for pool in &pools {
                self.keep_in(pool);
            }
            let woken = self.keeper.wake.notified();
            if pools.is_empty() {
                woken.await;
            } else {
                let _ = tokio::time::timeout(TICK, woken).await;
            }
        }
    }

    fn keep_in(self: &Arc<Self>, pool: &Arc<Pool>) {
        for slot in pool.take_dead().into_iter().chain(pool.take_surplus()) {
            self.runtime.spawn(pool.clone().destroy(slot));
        }
        let missing = pool.quota.claim(self.clock.monotonic());
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        for _ in 0..missing {
            tasks.spawn_on(provision(self.clone(), pool.clone()), &self.runtime);
        }
    }
}

async fn provision(inner: Arc<Inner>, pool: Arc<Pool>) {
    let _permit = inner.keeper.permits.0.acquire().await;
    match create_to_keep(&inner, &pool).await {
        Ok(slot) => {
            if let Kept::No(slot) = inner.sweeper.keep(&pool, slot) {
                pool.destroy(slot).await;
            }
        }
        Err(NotCreated::Init(error, ..)) => {
            tracing::warn!(function = %pool.parts.spec.function, error_type = error.error_type,
                "a function fails to initialise, so that none of its sandboxes can be kept");
            pool.quota.failed(INIT_FAILURE.to_owned(), None);
        }
        Err(NotCreated::Refused(error)) => {
            let pause = match &error {
                Error::Throttled(Throttle::Memory) => FULL_PAUSE,
                _ => PAUSE,
            };
            let again = inner.clock.monotonic().after(pause);
            pool.quota.failed(error.to_string(), Some(again));
        }
    }
}
