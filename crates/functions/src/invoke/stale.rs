//! An older version that answers while a newer one is made ready beside it.
//!
//! ```text
//!   wanted has stood ────────────────────────────────────────▶ wanted
//!   $LATEST changes ─── its former code, within the bound ───▶ former      else: wait, or an error
//!   version never stood ─ an older one is loaded, in bounds ─▶ older       else: wait
//! ```
//! A version has stood once there was a sandbox of it: its code has been delivered where it runs, and initialised. While an
//! older one answers, such a sandbox is made beside it.
//!
//! Without a bound `$LATEST` is as in Lambda: its former code answers until the new is ready, however long that
//! takes, and a numbered version is never answered by another. The answer names the version that ran.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_capacity::keeper::Standing;

use super::pool::Pool;
use super::resolve::{Readiness, Target};
use crate::error::Error;
use crate::model::{Configuration, LastUpdate};
use crate::name::Version;
use crate::operations::refusals;
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// The tag by which a function's owner says for how many seconds an older version may answer.
pub(crate) const STALE_SECONDS: &str = "bowline:stale-seconds";
/// After a failure a version is not made ready again for this long.
const PAUSE: Duration = Duration::from_secs(1);

impl Inner {
    /// Where an invocation runs; `None` while it has to wait.
    pub(super) fn serving<'a>(
        self: &Arc<Self>,
        entry: &'a FunctionEntry,
        found: &Target<'a>,
        is_strict: bool,
    ) -> Result<Option<&'a Arc<Pool>>, Error> {
        let wanted = found.configuration;
        let pool = match found.readiness() {
            Readiness::Ready(pool) if !is_settled(wanted) => return self.former(entry, (pool, wanted), is_strict),
            Readiness::Ready(pool) if pool.has_stood() => return Ok(Some(pool)),
            Readiness::Ready(pool) => Some(pool),
            Readiness::Pending => None,
            Readiness::Failed => return Err(refusals::in_state("Failed")),
        };
        let older = self.older(entry, wanted, is_strict);
        if let (Some(older), Some(pool)) = (older, pool) {
            self.ready_beside(older, pool);
        }
        Ok(older.or(pool))
    }

    /// The former code of `$LATEST`, as long as it may answer.
    fn former<'a>(
        &self,
        entry: &FunctionEntry,
        (pool, wanted): (&'a Arc<Pool>, &Configuration),
        is_strict: bool,
    ) -> Result<Option<&'a Arc<Pool>>, Error> {
        let bound = if is_strict { Some(Duration::ZERO) } else { bound(entry) };
        if bound.is_none_or(|bound| self.clock.now().since(wanted.last_modified) < bound) {
            return Ok(Some(pool));
        }
        match &wanted.last_update {
            LastUpdate::Failed { reason, .. } => Err(Error::Conflict(format!(
                "The function's last update failed, and its former code may not answer any longer: {reason}"
            ))),
            _ => Ok(None),
        }
    }

    /// The newest older version that is loaded, if it may answer.
    fn older<'a>(&self, entry: &'a FunctionEntry, wanted: &Configuration, is_strict: bool) -> Option<&'a Arc<Pool>> {
        let Version::Number(number) = wanted.version else {
            return None;
        };
        let bound = bound(entry).filter(|_| !is_strict)?;
        if self.clock.now().since(wanted.last_modified) >= bound {
            return None;
        }
        let older = entry.versions.range(..number).rev();
        let mut pools = older.filter_map(|(_, version)| version.pool.as_ref());
        pools.find(|pool| pool.prepared.initialized() && pool.standing() != Standing::Cold)
    }

    /// Makes a version ready, with a sandbox, while another answers for it.
    fn ready_beside(self: &Arc<Self>, older: &Pool, pool: &Arc<Pool>) {
        if pool.preparing.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::info!(function = %pool.parts.spec.function, version = %pool.version_text,
            code = %pool.parts.spec.code.digest, answers = %older.version_text,
            "a version is made ready; an older one answers for it");
        let (inner, pool) = (self.clone(), pool.clone());
        self.runtime.spawn(async move {
            match inner.ensure_prepared(&pool).await {
                Ok(()) => inner.clone().start_beside(pool.clone()).await,
                Err(error) => tracing::warn!(function = %pool.parts.spec.function, version = %pool.version_text,
                    error = &error as &dyn std::error::Error,
                    "a version cannot be made ready; an older one answers for it"),
            }
            if !pool.has_stood() {
                tokio::time::sleep(PAUSE).await;
            }
            pool.preparing.store(false, Ordering::Release);
        });
    }

    /// Starts as many sandboxes of a version that takes over as the one before it has, so that the switch does not
    /// make callers wait. What cannot be started within a while is left to the callers.
    pub(crate) async fn warm_beside(self: &Arc<Self>, before: Option<&Arc<Pool>>, after: &Arc<Pool>) {
        const BESIDE_MAX: u32 = 16;
        const WAIT_MAX: Duration = Duration::from_secs(5);
        let living = before.map_or(0, |pool| pool.living());
        let missing = living.min(BESIDE_MAX).saturating_sub(after.living());
        let starts = (0..missing).map(|_| self.clone().start_beside(after.clone()));
        let mut starting: tokio::task::JoinSet<()> = starts.collect();
        let all = async { while starting.join_next().await.is_some() {} };
        if tokio::time::timeout(WAIT_MAX, all).await.is_err() {
            tracing::info!(function = %after.parts.spec.function, version = %after.version_text,
                "a version takes over before its sandboxes are started");
        }
        starting.detach_all();
    }
}

/// Whether `$LATEST` is what is served for it.
fn is_settled(configuration: &Configuration) -> bool {
    configuration.version != Version::Latest || configuration.last_update == LastUpdate::Successful
}

/// For how long an older version may answer, if the owner has said so.
fn bound(entry: &FunctionEntry) -> Option<Duration> {
    entry.tags.get(STALE_SECONDS)?.parse().ok().map(Duration::from_secs)
}
