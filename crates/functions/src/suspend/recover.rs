//! Going on with runs whose node has died, from their last checkpoints.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_sandbox::{Deadline, FunctionError, Outcome};
use bowline_store::Sharing;
use bytes::Bytes;

use super::carry::{Chain, Seed};
use super::ledger::{LedgerError, Loaded};
use super::live::{About, Live, Turn};
use super::record::{Phase, RunRecord};
use crate::invoke::{Admission, Pool, Readiness, Target};
use crate::name::FunctionRef;
use crate::service::Inner;

/// How long an outcome is kept that nobody fetches, and a suspended run after its deadline.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often blobs without a record are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

impl Inner {
    /// Takes up what other nodes, or this one before its death, left running. Works until it is dropped.
    pub(crate) async fn recover_runs(self: Arc<Self>) {
        let mut collected = None;
        loop {
            if let Err(error) = self.recover_once().await {
                tracing::warn!(error = %Chain(&error), "runs that were left cannot be looked for");
            }
            let now = self.clock.monotonic();
            if collected.is_none_or(|at| now.since(at) >= COLLECT_EVERY) {
                collected = Some(now);
                if let Err(error) = self.suspends.ledger.collect().await {
                    tracing::warn!(error = %Chain(&error), "checkpoints that nobody needs are left for later");
                }
            }
            // Alone, this node can leave nothing running but by its own death.
            tokio::time::sleep(match self.suspends.sharing {
                Sharing::Exclusive => COLLECT_EVERY,
                Sharing::Shared => self.suspends.lease / 2,
            })
            .await;
        }
    }

    async fn recover_once(self: &Arc<Self>) -> Result<(), LedgerError> {
        for loaded in self.suspends.ledger.all().await? {
            let record = &loaded.record;
            let Ok(run) = record.run.parse::<RequestId>() else {
                continue;
            };
            let age = self
                .clock
                .now()
                .since(Timestamp::from_micros(record.deadline_ms.saturating_mul(1_000)));
            if self.suspends.get(&run).is_some() || record.node == self.suspends.node && record.outcome.is_none() {
                continue;
            }
            if age > KEPT_FOR {
                // Another node may have been faster.
                let _ = self.suspends.ledger.remove(&run, &loaded).await;
            } else if record.phase == Phase::Running && self.may_take_run(record) {
                tracing::info!(%run, function = record.function, "a run goes on from its last checkpoint");
                self.adopt_run(run, loaded, None);
            }
        }
        Ok(())
    }

    /// Goes on with a run that nobody here waits for.
    pub(super) fn adopt_run(self: &Arc<Self>, run: RequestId, loaded: Loaded, turn: Option<Turn>) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            let Some(_entered) = inner.running.enter() else { return };
            let about = about(run, &loaded.record);
            let deadline = inner.deadline_of_run(&loaded.record);
            let record = loaded.record.clone();
            let live = Live::new(about, false, Some(loaded));
            if let Some(turn) = turn {
                live.give_turn(turn);
            }
            let Ok(registered) = inner.suspends.register(live.clone()) else {
                return;
            };
            let outcome = match inner.pool_of_run(&record).await {
                Ok(pool) => {
                    let seed = Seed {
                        request_id: run,
                        // What is left of it is in the checkpoint, as is the rest of what the guest was told.
                        payload: Bytes::new(),
                        deadline,
                        invoked_arn: record.invoked_arn,
                        client_context: None,
                        trace_id: None,
                    };
                    inner.go_on_alone(&pool, (seed, registered)).await
                }
                Err(reason) => {
                    let message = format!("RequestId: {run} Error: {reason}");
                    let outcome = Outcome::Failed(FunctionError::new("Checkpoint.CannotResume", &message));
                    let mut held = live.loaded.lock().await;
                    if let Some(loaded) = held.as_mut()
                        && let Err(error) = inner.finish_run(&live, loaded, &outcome).await
                    {
                        tracing::warn!(%run, error = %Chain(&error), "the end of a run was not written");
                    }
                    live.end(outcome.clone());
                    outcome
                }
            };
            tracing::info!(%run, ended = describe(&outcome), "a run that was taken up has ended");
        });
    }

    fn deadline_of_run(&self, record: &RunRecord) -> Deadline {
        let wall = Timestamp::from_micros(record.deadline_ms.saturating_mul(1_000));
        Deadline {
            wall,
            monotonic: self.clock.monotonic().after(wall.since(self.clock.now())),
            budget: Duration::from_millis(record.limit_ms),
        }
    }

    /// Where the run's version runs here, if it is still the same code.
    async fn pool_of_run(&self, record: &RunRecord) -> Result<Arc<Pool>, String> {
        let account: AccountId = record
            .account
            .parse()
            .map_err(|_| "its account is damaged".to_owned())?;
        let target = FunctionRef::parse(&record.function, Some(&record.version), &account);
        let target = target.map_err(|error| error.to_string())?;
        let entry = self.entry(&target).map_err(|error| error.to_string())?;
        let found = Target::find(&entry, target.qualifier.as_ref(), &self.entropy);
        let found = found.ok_or("its version is gone")?;
        let Readiness::Ready(pool) = found.readiness() else {
            return Err("its version is not active".to_owned());
        };
        if pool.parts.spec.code.digest != record.code {
            return Err("its code was replaced; a checkpoint goes on with the code it was taken of".to_owned());
        }
        self.ensure_prepared(pool).await.map_err(|error| error.to_string())?;
        Ok(pool.clone())
    }

    async fn go_on_alone(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        (seed, registered): (Seed, super::engine::Registered<'_>),
    ) -> Outcome {
        let mut place: Option<Admission> = None;
        let created = crate::invoke::create_for_run(self, pool).await;
        let mut slot = match created {
            Ok(slot) => slot,
            Err(reason) => {
                let outcome = Outcome::Broken(reason);
                registered.live.end(outcome.clone());
                return outcome;
            }
        };
        slot.log.begin(&seed.request_id, &pool.version_text, false);
        let outcome = Box::pin(self.go_on(pool, &mut slot, (seed, registered), &mut place)).await;
        self.runtime.spawn(pool.clone().destroy(slot));
        outcome
    }

    /// Lets a run that was suspended back in.
    pub(super) fn readmit_run(&self, pool: &Pool) -> Option<Admission> {
        let spec = &pool.parts.spec;
        let name = spec.function.parse().ok()?;
        let reserved = self.registry.snapshot.get(&spec.account, &name)?.reserved;
        pool.parts.live.admit(reserved, &pool.quota.lane).ok()
    }
}

fn about(run: RequestId, record: &RunRecord) -> About {
    let millis = |millis: u64| Timestamp::from_micros(millis.saturating_mul(1_000));
    About {
        run,
        account: record.account.clone(),
        function: record.function.clone(),
        version: record.version.clone(),
        started: millis(record.started_ms),
        deadline: millis(record.deadline_ms),
    }
}

fn describe(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Success(_) => "success",
        Outcome::Failed(error) => &error.error_type,
        Outcome::Broken(reason) => reason,
        Outcome::Suspended(_) => "suspended",
    }
}
