//! What is written down of a run: its checkpoints while it runs, and its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bowline_foundation::digest::Digest;
use bowline_sandbox::suspension::Kept as Answer;
use bowline_sandbox::{Frozen, Keeper, Outcome};

use super::carry::Chain;
use super::ledger::{LedgerError, Loaded};
use super::live::Live;
use super::record::{Ended, Kept, Phase, RunRecord};
use crate::service::Inner;

/// What a run's first record says of it.
pub(super) struct RecordSeed {
    pub code: Digest,
    pub invoked_arn: String,
    pub deadline_ms: u64,
    pub limit_ms: u64,
}

/// Keeps what a guest leaves while it goes on.
pub(super) struct KeeperOf {
    pub inner: Arc<Inner>,
    pub live: Arc<Live>,
    pub about: RecordSeed,
}

#[async_trait]
impl Keeper for KeeperOf {
    async fn keep(&self, frozen: Frozen) -> Answer {
        let kept = self
            .inner
            .keep_run(&self.live, &self.about, frozen, Phase::Running)
            .await;
        match kept {
            Err(LedgerError::Fenced) => {
                self.live.lost.store(true, Ordering::SeqCst);
                Answer::GiveUp
            }
            Err(error) => {
                tracing::warn!(run = %self.live.run, error = %Chain(&error), "a checkpoint was not kept");
                Answer::GoOn
            }
            Ok(()) => Answer::GoOn,
        }
    }

    fn not_taken(&self, reason: &str) {
        tracing::warn!(run = %self.live.run, reason, "a run that was to be suspended goes on");
        // Nobody waits for its memory, or offers it, any more.
        self.live.passing.store(false, Ordering::SeqCst);
        *self.live.bound_for.lock() = None;
        self.live.yields.store(false, Ordering::SeqCst);
        *self.live.rests.lock() = None;
        self.live.taken(Some(reason.to_owned()));
    }
}

impl Inner {
    /// Keeps a checkpoint: its bytes, then the record that names them.
    pub(super) async fn keep_run(
        self: &Arc<Self>,
        live: &Live,
        about: &RecordSeed,
        frozen: Frozen,
        phase: Phase,
    ) -> Result<(), LedgerError> {
        let kept = self.try_keep_run(live, about, frozen, phase).await;
        live.taken(kept.as_ref().err().map(|error| Chain(error).to_string()));
        kept
    }

    async fn try_keep_run(
        self: &Arc<Self>,
        live: &Live,
        about: &RecordSeed,
        frozen: Frozen,
        phase: Phase,
    ) -> Result<(), LedgerError> {
        let ledger = &self.suspends.ledger;
        let now = self.clock.now();
        let why = live.why(now);
        let mut held = live.loaded.lock().await;
        let bytes = frozen.bytes.len() as u64;
        let bound_for = live.bound_for.lock().take();
        let seen = |digest| {
            if let Some(node) = bound_for {
                self.announce(node, digest);
            }
        };
        let (naming, digest) = ledger.put_checkpoint(frozen.bytes, seen).await?;
        self.crash.reach("move.copied");
        let checkpoint = Kept {
            number: held.as_ref().map_or(0, |loaded| loaded.record.checkpoint.number) + 1,
            digest,
            naming,
            bytes,
            resident_bytes: frozen.resident_bytes,
            taken_ms: now.as_millis(),
            took_us: u64::try_from(frozen.took.as_micros()).unwrap_or(u64::MAX),
            reason: why.why.clone(),
            machine: frozen.machine.map(|machine| *machine),
        };
        // Stopped by the node's own end, it is as good as running: whoever comes next goes on with it.
        let is_stopped = phase == Phase::Suspended && live.stopping.load(Ordering::SeqCst);
        let lease_ms = now.after(self.suspends.lease).as_millis();
        let (phase, lease_ms) = match (is_stopped, live.passing.load(Ordering::SeqCst)) {
            (true, _) => (Phase::Running, 0),
            // Should this node die before somebody has it, another one takes it over.
            (false, true) => (Phase::Running, lease_ms),
            (false, false) => (phase, lease_ms),
        };
        let change = |record: &mut RunRecord| {
            record.phase = phase;
            record.checkpoint = checkpoint.clone();
            record.lease_ms = lease_ms;
            if why.what != "copy" {
                record.decided(why);
            }
        };
        match held.as_mut() {
            Some(loaded) => ledger.change(&live.run, loaded, change).await,
            None => {
                let mut record = RunRecord {
                    run: live.run.to_string(),
                    account: live.account.clone(),
                    function: live.function.clone(),
                    version: live.version.clone(),
                    code: about.code,
                    invoked_arn: about.invoked_arn.clone(),
                    phase,
                    epoch: 1,
                    node: self.suspends.node.clone(),
                    lease_ms,
                    started_ms: live.started.as_millis(),
                    deadline_ms: about.deadline_ms,
                    limit_ms: about.limit_ms,
                    checkpoint: checkpoint.clone(),
                    outcome: None,
                    decisions: Vec::new(),
                };
                change(&mut record);
                *held = Some(ledger.create(&live.run, record).await?);
                Ok(())
            }
        }
    }

    /// Writes the end of a run down, unless its caller takes it from here.
    pub(super) async fn finish_run(
        &self,
        live: &Live,
        loaded: &mut Loaded,
        outcome: &Outcome,
    ) -> Result<(), LedgerError> {
        let ledger = &self.suspends.ledger;
        let (error_type, payload) = match outcome {
            Outcome::Success(payload) => (None, payload),
            Outcome::Failed(error) => (Some(error.error_type.clone()), &error.payload),
            // The platform failed: the checkpoint is still good.
            Outcome::Broken(_) | Outcome::Suspended(_) => return Ok(()),
        };
        if live.has_caller {
            return ledger.remove(&live.run, loaded).await;
        }
        // With the run's name before it no two runs share a blob, and each may delete its own.
        let named = [live.run.as_str().as_bytes(), payload].concat();
        let ended = Ended {
            error_type,
            payload: ledger.put(named.into()).await?,
            at_ms: self.clock.now().as_millis(),
        };
        let change = |record: &mut RunRecord| {
            record.phase = Phase::Finished;
            record.outcome = Some(ended);
        };
        ledger.change(&live.run, loaded, change).await
    }
}
