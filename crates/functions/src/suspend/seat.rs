//! Where a run sits: in a sandbox while it runs, in none while it rests or runs elsewhere.

use std::sync::Arc;

use bowline_sandbox::{Invocation, Outcome};
use tokio::sync::oneshot;

use crate::invoke::{Pool, Slot, seat_for_run};
use crate::logs::SandboxLog;
use crate::service::Inner;

/// What a run leaves behind: its sandbox, or its log alone if it has none.
pub(crate) type Left = Result<Slot, Arc<SandboxLog>>;

pub(crate) struct Seat {
    slot: Option<Slot>,
    /// A sandbox that is on its way.
    coming: Option<oneshot::Receiver<Result<Slot, String>>>,
    /// Whether the sandbox may serve others after what it ran last.
    pub reusable: bool,
    /// The run's log; while it sits, its sandbox's.
    log: Arc<SandboxLog>,
}

impl Seat {
    pub fn taken(slot: Slot) -> Self {
        Self {
            log: slot.log.clone(),
            slot: Some(slot),
            coming: None,
            reusable: true,
        }
    }

    /// Of a run that comes from elsewhere and is yet to sit down.
    pub fn none(inner: &Inner, pool: &Pool) -> Self {
        Self {
            log: inner.sandbox_log(pool),
            slot: None,
            coming: None,
            reusable: true,
        }
    }

    pub fn log(&self) -> &Arc<SandboxLog> {
        &self.log
    }

    /// Whether what runs in the sandbox can be suspended, if there is one.
    pub fn can_suspend(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| slot.sandbox.can_suspend())
    }

    /// Runs in the sandbox.
    pub async fn invoke(&mut self, invocation: Invocation) -> Outcome {
        let slot = self.slot.as_mut().expect("a run sits down before it runs");
        let report = slot.sandbox.invoke(invocation).await;
        self.reusable = report.reusable;
        report.outcome
    }

    /// Gives the sandbox back, with the memory that it may have; the log stays the run's.
    pub fn leave(&mut self, inner: &Arc<Inner>, pool: &Arc<Pool>) {
        if let Some(coming) = self.coming.take() {
            let (inner, pool) = (inner.clone(), pool.clone());
            inner.runtime.clone().spawn(async move {
                if let Ok(Ok(slot)) = coming.await {
                    inner.sweeper.give_back(&pool, slot);
                }
            });
        }
        let Some(mut slot) = self.slot.take() else { return };
        let log = inner.sandbox_log(pool);
        log.take_over(&slot.log);
        self.log = log;
        if std::mem::replace(&mut self.reusable, true) && slot.sandbox.is_alive() {
            inner.sweeper.give_back(pool, slot);
        } else {
            inner.runtime.spawn(pool.clone().destroy(slot));
        }
    }

    /// Waits for a sandbox. Whoever stops waiting may wait again.
    pub async fn sit(&mut self, inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<(), String> {
        if self.slot.is_some() {
            return Ok(());
        }
        let coming = self.coming.get_or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            let (inner, pool) = (inner.clone(), pool.clone());
            inner.runtime.clone().spawn(async move {
                if let Err(Ok(slot)) = sender.send(seat_for_run(&inner, &pool).await) {
                    inner.sweeper.give_back(&pool, slot);
                }
            });
            receiver
        });
        let came = coming.await;
        self.coming = None;
        let slot = came.map_err(|_| "the node stops".to_owned())??;
        slot.log.take_over(&self.log);
        self.log = slot.log.clone();
        self.slot = Some(slot);
        Ok(())
    }

    /// The end of the run here.
    pub fn end(mut self, inner: &Arc<Inner>, pool: &Arc<Pool>) -> Left {
        if self.coming.is_some() {
            self.leave(inner, pool);
        }
        self.slot.ok_or(self.log)
    }
}
