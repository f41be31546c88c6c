//! Moving a run to another node of the cluster. All nodes share the ledger and the blobs, so that what goes from
//! node to node is the offer alone.
//!
//! ```text
//!   source                                                         target
//!    │ facts? ───────────────────────────────────────────────────▶ │
//!    │ ◀────────────────────────────────────────── what it has     │
//!    │ fits? then the guest leaves; its checkpoint is written      │
//!    │ P digest ─────────────────────────────────────────────────▶ │ reads the checkpoint
//!    │ it is durable, and in the ledger                            │
//!    │ R run, epoch, needs, decision ────────────────────────────▶ │ fits? the very same code? a place, a sandbox
//!    │                                                             │ one commit: epoch + 1, a lease, the decision
//!    │ ◀───────────────────────── running │ M clause │ D reason    │ runs
//!    │ lets go, or goes on itself: one commit, epoch + 1           │
//! ```
//! Whoever commits first has the run, and the other one is refused: there are never two. Until then the source has
//! its copy in hand. An answer that is lost costs nothing: the source tries to go on, and finds out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_foundation::id::RequestId;
use bowline_sandbox::{SandboxKind, Wish};

use super::carry::Chain;
use super::fit::{Candidate, Facts, Misfit, Needs, choose, fit};
use super::ledger::LedgerError;
use super::live::{Live, Turn};
use super::operations::Refused;
use super::record::{Decision, Phase, RunRecord};
use super::relieve::with_values;
use crate::cluster::wire::{Offer, Told};
use crate::service::Inner;

/// How long a target may take until it runs what it was offered.
const TAKE_MAX: Duration = Duration::from_secs(20);

/// Where a run is to go.
#[derive(Clone, Debug)]
pub struct MoveRequest {
    /// A node by its identifier or its address; by criteria if it is not given.
    pub to: Option<String>,
    pub reason: String,
    /// What was looked at before, for the record.
    pub values: BTreeMap<String, String>,
}

/// What is to be sent where.
struct Errand {
    target: u64,
    needs: Needs,
    decision: Decision,
}

impl Inner {
    /// Takes a run that is in hand here to another node. Without a node in `request` this one may be chosen too.
    pub(super) async fn move_live(self: &Arc<Self>, live: &Arc<Live>, request: &MoveRequest) -> Result<(), Refused> {
        let was_running = live.phase() == Phase::Running;
        if live
            .pool
            .get()
            .is_some_and(|pool| pool.parts.spec.kind == SandboxKind::Linux)
        {
            let reason =
                "it runs in a virtual machine, which other nodes are not offered: suspend it here, and resume it there";
            let (run, reason) = (live.run, reason.to_owned());
            return Err(Refused::NotTaken { run, reason });
        }
        if was_running && live.loaded.lock().await.is_none() {
            // What it needs is in its checkpoint; it goes on meanwhile.
            let decision = self.decision("copy", &request.reason, BTreeMap::new());
            self.checkpoint_live(live, Wish::Copy, decision).await?;
        }
        let (needs, record) = self.needs_of(live).await?;
        let errand = match self.decide_where((live, &record), needs, request).await? {
            Some(errand) => errand,
            None if was_running => return Ok(()),
            None => {
                live.give_turn(Turn::Resume);
                return Ok(());
            }
        };
        self.crash.reach("move.fitted");
        if was_running {
            live.passing.store(true, Ordering::SeqCst);
            *live.bound_for.lock() = Some(errand.target);
            let decision = self.decision("suspend", &request.reason, BTreeMap::new());
            if let Err(refused) = self.checkpoint_live(live, Wish::Leave, decision).await {
                *live.bound_for.lock() = None;
                // Should it leave later, it goes on at once.
                live.give_turn(Turn::Resume);
                return Err(refused);
            }
        }
        self.crash.reach("move.left");
        match self.offer(live, errand).await {
            Ok(()) => {
                self.crash.reach("move.told");
                live.give_turn(Turn::LetGo);
                Ok(())
            }
            Err(reason) => {
                self.note(live, self.decision("stay", &reason, BTreeMap::new())).await;
                if was_running {
                    live.give_turn(Turn::Resume);
                }
                Err(Refused::NotTaken { run: live.run, reason })
            }
        }
    }

    /// Chooses; nothing if the run is to stay.
    async fn decide_where(
        self: &Arc<Self>,
        (live, record): (&Arc<Live>, &RunRecord),
        needs: Needs,
        request: &MoveRequest,
    ) -> Result<Option<Errand>, Refused> {
        let cluster = self.cluster.as_ref().ok_or(Refused::NoCluster)?;
        self.crash.reach("move.asked");
        let mut candidates = cluster.asked_for_facts().await;
        if let Some(wanted) = &request.to {
            let known = cluster.named_node(wanted);
            let known = known.ok_or_else(|| Refused::NoSuchNode(wanted.clone()))?;
            candidates.retain(|candidate| candidate.node == known);
            // What is asked for by name may be busy.
            for candidate in &mut candidates {
                if let Ok(facts) = &mut candidate.facts {
                    facts.load_percent = 0;
                }
            }
        } else {
            candidates.push(Candidate {
                node: cluster.own_id(),
                is_source: true,
                facts: Ok(self.own_facts(live.phase() == Phase::Running)),
            });
        }
        let (chosen, values) = choose(&needs, &candidates);
        let values = with_values(values, &request.values);
        let is_here = chosen == Some(cluster.own_id());
        let what = if chosen.is_some() && !is_here { "move" } else { "stay" };
        let mut decision = self.decision(what, &request.reason, values);
        tracing::info!(run = %record.run, what, why = request.reason, values = ?decision.values, "a decision about a run");
        let Some(target) = chosen else {
            let verdicts: Vec<_> = (decision.values.iter())
                .map(|(node, verdict)| format!("node {node}: {verdict}"))
                .collect();
            self.note(live, decision).await;
            return Err(Refused::NobodyFits {
                run: live.run,
                verdicts: verdicts.join("; "),
            });
        };
        if is_here {
            self.note(live, decision).await;
            return Ok(None);
        }
        decision.values.insert("to".to_owned(), target.to_string());
        Ok(Some(Errand {
            target,
            needs,
            decision,
        }))
    }

    /// Offers the run, and returns once the target runs it.
    async fn offer(self: &Arc<Self>, live: &Live, errand: Errand) -> Result<(), String> {
        let epoch = live.loaded.lock().await.as_ref().map(|loaded| loaded.record.epoch);
        let offer = Offer {
            run: live.run,
            epoch: epoch.ok_or("it has no checkpoint")?,
            needs: errand.needs,
            decision: serde_json::to_string(&errand.decision).map_err(|error| error.to_string())?,
        };
        let cluster = self.cluster.as_ref().ok_or("this node is alone")?;
        match cluster.offer_run(errand.target, offer).await {
            Ok(Told::Running) => Ok(()),
            Ok(Told::Misfit(misfit)) => Err(misfit.to_string()),
            Ok(Told::Denied(reason)) => Err(format!("node {} refuses: {reason}", errand.target)),
            Ok(_) => Err(format!("node {} says something else than was asked", errand.target)),
            Err(reason) => Err(format!("node {} does not answer: {reason}", errand.target)),
        }
    }

    /// Takes a run that another node offers, if it fits; answers when it runs.
    pub(crate) async fn take_offered(self: &Arc<Self>, offer: Offer) -> Told {
        self.crash.reach("take.offered");
        if let Err(misfit) = fit(&offer.needs, &self.own_facts(false)) {
            return Told::Misfit(misfit);
        }
        self.crash.reach("take.fitted");
        match self.try_take(offer).await {
            Ok(()) => Told::Running,
            Err(TakeError::Misfit(misfit)) => Told::Misfit(misfit),
            Err(TakeError::Denied(reason)) => Told::Denied(reason),
        }
    }

    async fn try_take(self: &Arc<Self>, offer: Offer) -> Result<(), TakeError> {
        let denied = |reason: &str| TakeError::Denied(reason.to_owned());
        let loaded = self.suspends.ledger.load(&offer.run).await.map_err(ledger)?;
        let loaded = loaded.ok_or_else(|| denied("there is no such run"))?;
        if loaded.record.phase == Phase::Finished || loaded.record.epoch != offer.epoch {
            return Err(denied("the run has another epoch: somebody else has it"));
        }
        if let Err(reason) = self.can_take_up(&loaded.record).await {
            return Err(TakeError::Misfit(Misfit::new(
                "code",
                "the code it was taken of",
                reason,
            )));
        }
        let decision = serde_json::from_str(&offer.decision).map_err(|error| denied(&error.to_string()))?;
        let live = self.adopt_run(offer.run, loaded, Some(Turn::Resume), Some(decision));
        let waited = live.until(|live| live.phase() != Phase::Suspended || live.failure().is_some());
        let _ = tokio::time::timeout(TAKE_MAX, waited).await;
        if live.went_on() {
            return Ok(());
        }
        let reason = live.failure().or_else(|| live.broken());
        // Nobody else waits for it here.
        live.give_turn(Turn::LetGo);
        live.until(|live| live.phase() != Phase::Suspended).await;
        match live.went_on() {
            true => Ok(()),
            false => Err(TakeError::Denied(reason.unwrap_or_else(|| {
                "there is no place for it, or somebody else has it".to_owned()
            }))),
        }
    }

    /// What this node is able to take. A run that is to leave it is not counted.
    pub(crate) fn own_facts(&self, leaves: bool) -> Facts {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let running = self.suspends.running_here().saturating_sub(usize::from(leaves));
        let versions = self.backends.iter().find_map(|backend| backend.checkpoint_versions());
        let (format_version, pass_version) = versions.unwrap_or_default();
        let idle: u64 = self.sweeper.pools().iter().map(|pool| pool.idle_memory()).sum();
        let left = self.room.budget().0.saturating_sub(self.room.claimed().0);
        Facts {
            is_stopping: self.running.is_closing() || self.suspends.is_leaving(),
            format_version,
            pass_version,
            memory_free_mib: left.saturating_add(u32::try_from(idle).unwrap_or(u32::MAX)),
            load_percent: u32::try_from(running * 100 / processors).unwrap_or(u32::MAX),
            processors: u32::try_from(processors).unwrap_or(u32::MAX),
            wanted_percent: self.suspends.wanted_percent.load(Ordering::Relaxed),
        }
    }

    /// What its last checkpoint needs.
    async fn needs_of(&self, live: &Live) -> Result<(Needs, RunRecord), Refused> {
        let record = live.loaded.lock().await.as_ref().map(|loaded| loaded.record.clone());
        let record = record.ok_or(Refused::NoCheckpoint(live.run))?;
        let bytes = self.suspends.ledger.checkpoint(&record.checkpoint).await?;
        let backends = self.backends.clone();
        let inspected = tokio::task::spawn_blocking(move || {
            let facts = backends.iter().map(|backend| backend.inspect(&bytes));
            facts.filter_map(Result::ok).next()
        });
        let facts = inspected.await.ok().flatten();
        let facts = facts.ok_or_else(|| Refused::Unavailable("its checkpoint is damaged".to_owned()))?;
        let needs = Needs {
            format_version: facts.format_version,
            pass_version: facts.pass_version,
            memory_mib: live.pool.get().map_or(0, |pool| pool.size().0),
        };
        Ok((needs, record))
    }

    pub(super) fn decision(&self, what: &str, why: &str, values: BTreeMap<String, String>) -> Decision {
        Decision {
            at_ms: self.clock.now().as_millis(),
            what: what.to_owned(),
            why: why.to_owned(),
            values,
        }
    }

    /// Writes a decision down.
    async fn note(&self, live: &Live, decision: Decision) {
        let mut held = live.loaded.lock().await;
        let Some(loaded) = held.as_mut() else { return };
        let written = (self.suspends.ledger).change(&live.run, loaded, |record| record.decided(decision));
        if let Err(error) = written.await {
            tracing::warn!(run = %live.run, error = %Chain(&error), "a decision was not written down");
        }
    }

    /// Offers all runs that are in hand to other nodes, because this one is about to stop.
    pub(crate) async fn move_all_away(self: &Arc<Self>) {
        self.suspends.leave();
        if self.cluster.is_none() {
            return;
        }
        let request = MoveRequest {
            to: None,
            reason: super::engine::SHUTDOWN.to_owned(),
            values: BTreeMap::new(),
        };
        let mut moving = tokio::task::JoinSet::new();
        for live in self.suspends.all() {
            // One that an operator has suspended stays so.
            if live.phase() != Phase::Running {
                continue;
            }
            let (inner, request) = (self.clone(), request.clone());
            moving.spawn(async move {
                let run: RequestId = live.run;
                if let Err(error) = inner.move_live(&live, &request).await {
                    tracing::info!(%run, error = %Chain(&error), "a run stays until the node is back");
                }
            });
        }
        while moving.join_next().await.is_some() {}
    }
}

enum TakeError {
    Misfit(Misfit),
    Denied(String),
}

fn ledger(error: LedgerError) -> TakeError {
    TakeError::Denied(Chain(&error).to_string())
}
