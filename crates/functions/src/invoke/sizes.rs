//! Sizes that follow what runs use: told in batches, judged by `capacity`, committed, then in force.
//!
//! ```text
//!   run ─▶ sample, kept by its pool ─ every ten ─▶ Inbox ─▶ Profile::record ─▶ change ─ commit ─▶ new sandboxes
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use bowline_capacity::sizing::{AdjustmentCondition, Event, Profile};
use bowline_foundation::units::Mebibytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pool::Pool;
use crate::operations::sizing;
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// Samples are looked at no more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Pools whose samples nobody has looked at.
#[derive(Default)]
pub(crate) struct Inbox {
    pools: Mutex<Vec<Weak<Pool>>>,
    news: Notify,
}

impl Inbox {
    /// A pool has samples.
    pub fn tell(&self, pool: &Arc<Pool>) {
        self.pools.lock().push(Arc::downgrade(pool));
        self.news.notify_one();
    }
}

impl Inner {
    /// Has sizes follow what runs use, for as long as the service lives.
    pub async fn follow_use(self: Arc<Self>) {
        loop {
            self.used.news.notified().await;
            let pools = std::mem::take(&mut *self.used.pools.lock());
            for pool in pools.iter().filter_map(Weak::upgrade) {
                self.judge(&pool).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn judge(self: &Arc<Self>, pool: &Arc<Pool>) {
        let condition = AdjustmentCondition::default();
        let left = Mebibytes(self.room.budget().0 - self.room.claimed().0);
        for sample in pool.take_samples() {
            let (event, base, after) = {
                let mut profile = pool.sizing.lock();
                let base = profile.settled();
                let event = profile.record(&condition, sample, left);
                (event, base, profile.settled())
            };
            match event {
                None => continue,
                Some(Event::Withheld { amount, .. }) => {
                    tracing::info!(function = %pool.parts.spec.function, wanted_mib = amount.0,
                        "a function needs more memory than is left");
                    continue;
                }
                Some(Event::Changed(_) | Event::Suggested(_)) => {}
            }
            if let Err(error) = sizing::observed(self, pool, (&base, after)).await {
                tracing::warn!(function = %pool.parts.spec.function, error = &error as &dyn std::error::Error,
                    "a size cannot be kept; it is judged again");
            }
            // The rest of the samples had another limit.
            return;
        }
    }

    /// Has the pools of a function follow their profiles.
    pub fn apply_sizes(&self, entry: &FunctionEntry) {
        for pool in entry.pools() {
            self.set_sizing(pool, &entry.sizing(pool.parts.version, pool.parts.spec.memory));
        }
    }

    /// Has a pool follow a profile; its idle sandboxes of another size end.
    pub(crate) fn set_sizing(&self, pool: &Arc<Pool>, sizing: &Profile) {
        for slot in pool.set_sizing(sizing) {
            self.runtime.spawn(pool.clone().destroy(slot));
        }
    }
}
