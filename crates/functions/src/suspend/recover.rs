//! Going on with runs whose node has died, from their last checkpoints.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_sandbox::{Deadline, FunctionError, Outcome};
use bytes::Bytes;

use super::carry::{Chain, Seed};
use super::ledger::{LedgerError, Loaded};
use super::live::{About, Live, Turn};
use super::record::{Decision, Phase, RunRecord};
use super::seat::Seat;
use crate::error::Error;
use crate::invoke::{Admission, Pool, Readiness, Target};
use crate::name::FunctionRef;
use crate::service::Inner;

/// How long an outcome is kept that nobody fetches, and a suspended run after its deadline.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often blobs without a record are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// Why a run's version does not run here, as text.
enum NoPool {
    /// What the checkpoint was taken of is gone for good.
    Ever(String),
    Now(String),
}

impl Inner {
    /// Takes up what was left running: by other nodes, by this one before its death, or by a run here that could not go
    /// on for a while. Works until it is dropped.
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
            tokio::time::sleep(self.suspends.lease / 2).await;
        }
    }

    async fn recover_once(self: &Arc<Self>) -> Result<(), LedgerError> {
        // A run that ends while the records are read is not taken for one that was left.
        let before: HashSet<RequestId> = self.suspends.all().iter().map(|live| live.run).collect();
        for loaded in self.suspends.ledger.all().await? {
            if self.suspends.is_stopping() {
                break;
            }
            let record = &loaded.record;
            let Ok(run) = record.run.parse::<RequestId>() else {
                continue;
            };
            let age = self
                .clock
                .now()
                .since(Timestamp::from_micros(record.deadline_ms.saturating_mul(1_000)));
            if before.contains(&run) || self.suspends.get(&run).is_some() {
                continue;
            }
            if age > KEPT_FOR {
                // Another node may have been faster.
                let _ = self.suspends.ledger.remove(&run, &loaded).await;
            } else if record.phase == Phase::Running && self.may_take_run(record) {
                tracing::info!(%run, function = record.function, "a run goes on from its last checkpoint");
                self.adopt_run(run, loaded, None, None);
            }
        }
        Ok(())
    }

    /// Goes on with a run that nobody here waits for, for the reason given. What is returned is at its end if
    /// somebody here has the run already.
    pub(super) fn adopt_run(
        self: &Arc<Self>,
        run: RequestId,
        loaded: Loaded,
        turn: Option<Turn>,
        taken_for: Option<Decision>,
    ) -> Arc<Live> {
        let record = loaded.record.clone();
        let live = Live::new(about(run, &record), false, Some(loaded));
        live.set_taken_for(taken_for);
        if let Some(turn) = turn {
            live.set_phase(Phase::Suspended);
            live.give_turn(turn);
        }
        let (inner, adopted) = (self.clone(), live.clone());
        self.runtime.spawn(async move {
            let Some(_entered) = inner.running.enter() else {
                return live.end(None);
            };
            let deadline = inner.deadline_of_run(&record);
            let Ok(registered) = inner.suspends.register(live.clone()) else {
                return live.end(None);
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
                Err(no_pool) => inner.no_pool_for_run(&live, no_pool, deadline).await,
            };
            tracing::info!(%run, ended = describe(&outcome), "a run that was taken up has ended");
        });
        adopted
    }

    /// Why a run cannot be taken up here, if so.
    pub(super) async fn can_take_up(&self, record: &RunRecord) -> Result<(), String> {
        match self.pool_of_run(record).await {
            Ok(pool) if pool.suspend_mode().is_some() => Ok(()),
            Ok(_) => Err("its version cannot be checkpointed here".to_owned()),
            Err(NoPool::Ever(reason) | NoPool::Now(reason)) => Err(reason),
        }
    }

    /// Ends a run that can never go on; one that cannot now is left as it is, until its time is over.
    async fn no_pool_for_run(&self, live: &Live, no_pool: NoPool, deadline: Deadline) -> Outcome {
        let run = live.run;
        let outcome = match no_pool {
            NoPool::Ever(reason) => {
                let message = format!("RequestId: {run} Error: {reason}");
                Outcome::Failed(FunctionError::new("Checkpoint.CannotResume", &message))
            }
            NoPool::Now(_) if self.clock.now() >= deadline.wall => {
                Outcome::Failed(FunctionError::timed_out(run, deadline.budget))
            }
            NoPool::Now(reason) => Outcome::Broken(reason),
        };
        let mut held = live.loaded.lock().await;
        if let Some(loaded) = held.as_mut()
            && let Err(error) = self.finish_run(live, loaded, &outcome).await
        {
            tracing::warn!(%run, error = %Chain(&error), "the end of a run was not written");
        }
        live.end(Some(outcome.clone()));
        outcome
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
    async fn pool_of_run(&self, record: &RunRecord) -> Result<Arc<Pool>, NoPool> {
        let gone = || NoPool::Ever("its version is gone".to_owned());
        let account: AccountId = record
            .account
            .parse()
            .map_err(|_| NoPool::Now("its account is damaged".to_owned()))?;
        let target = FunctionRef::parse(&record.function, Some(&record.version), &account);
        let target = target.map_err(|error| NoPool::Now(error.to_string()))?;
        let entry = self.entry(&target).map_err(|_| gone())?;
        let found = Target::find(&entry, target.qualifier.as_ref(), &self.entropy).ok_or_else(gone)?;
        let Readiness::Ready(pool) = found.readiness() else {
            return Err(NoPool::Now("its version is not active".to_owned()));
        };
        if pool.parts.spec.code.digest != record.code {
            let reason = "its code was replaced; a checkpoint goes on with the code it was taken of";
            return Err(NoPool::Ever(reason.to_owned()));
        }
        if let Some(unmet) = self.unmet_of_run(record).await {
            return Err(NoPool::Now(unmet.to_string()));
        }
        self.ensure_prepared(pool).await.map_err(|error| match error {
            Error::InvalidRuntime(_) => NoPool::Ever(error.to_string()),
            error => NoPool::Now(error.to_string()),
        })?;
        Ok(pool.clone())
    }

    async fn go_on_alone(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        (seed, registered): (Seed, super::engine::Registered<'_>),
    ) -> Outcome {
        let mut place: Option<Admission> = None;
        let mut seat = Seat::none(self, pool);
        seat.log().begin(&seed.request_id, &pool.version_text, false);
        let outcome = Box::pin(self.go_on(pool, &mut seat, (seed, registered), &mut place)).await;
        seat.leave(self, pool);
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
