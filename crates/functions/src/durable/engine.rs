//! What the work on executions at this node shares.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_sandbox::Platform;
use bowline_store::{CommitError, Sharing, Store};
use parking_lot::Mutex;
use tokio::runtime::Handle as RuntimeHandle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::head::Head;
use super::id::{ExecutionArn, ExecutionKey};
use super::ledger::{Ledger, LedgerError, LedgerOutcome, Loaded};
use super::state::{Delays, Execution, Node};
use crate::error::Error;
use crate::service::{Handle, Inner};
use bowline_foundation::clock::Timestamp;

/// How often a change that others overtake is tried again.
const TRIES_MAX: u32 = 20;

/// How long things wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before the function is invoked again after it failed.
    pub retry: Duration,
    /// Before a function that could not be invoked is tried again; doubled each time.
    pub backoff_first: Duration,
    /// See `backoff_first`.
    pub backoff_longest: Duration,
    /// How long a node that shares its store may be silent before others take its invocations over.
    pub lease: Duration,
    /// How often such a node looks for what others have left to do.
    pub look_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(5),
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(300),
            lease: Duration::from_secs(30),
            look_every: Duration::from_secs(1),
        }
    }
}

/// What durable executions are built from.
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub timing: Timing,
    /// Makes what functions ask while they work on an execution; without it they cannot checkpoint.
    pub guests: Option<fn(Handle) -> Arc<dyn Guests>>,
}

/// Gives functions their way to the platform while they work on an execution.
pub trait Guests: Send + Sync + 'static {
    /// What a function may ask while it works on this execution, and on no other.
    fn of(&self, execution: &ExecutionArn) -> Arc<dyn Platform>;
}

/// The work on executions at this node.
pub(crate) struct Engine {
    pub ledger: Ledger,
    pub timing: Timing,
    pub node: Node,
    guests: Mutex<Option<Arc<dyn Guests>>>,
    /// Woken when something may be due earlier than was known.
    pub wake: Notify,
    slots: Mutex<HashMap<ExecutionKey, Arc<Slot>>>,
    /// Executions that somebody here looks after right now.
    working: Mutex<HashSet<ExecutionKey>>,
    stopping: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    runtime: RuntimeHandle,
}

/// An execution that somebody here has in hand.
pub(super) struct Slot {
    /// As it was committed last, while an invocation of it runs here.
    loaded: tokio::sync::Mutex<Option<Loaded>>,
    /// Counts changes made here.
    pub changes: watch::Sender<u64>,
}

impl Engine {
    pub fn new(store: Arc<dyn Store>, sharing: Sharing, timing: Timing, number: u64) -> Self {
        Self {
            ledger: Ledger::new(store),
            timing,
            node: Node {
                number,
                lease: (sharing == Sharing::Shared).then_some(timing.lease),
            },
            guests: Mutex::default(),
            wake: Notify::new(),
            slots: Mutex::default(),
            working: Mutex::default(),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            runtime: RuntimeHandle::current(),
        }
    }

    /// From now on functions ask these.
    pub fn serve(&self, guests: Arc<dyn Guests>) {
        *self.guests.lock() = Some(guests);
    }

    pub fn guests(&self) -> Option<Arc<dyn Guests>> {
        self.guests.lock().clone()
    }

    pub fn delays(&self) -> Delays {
        Delays {
            retry: self.timing.retry,
            backoff_first: self.timing.backoff_first,
            backoff_longest: self.timing.backoff_longest,
        }
    }

    /// Whether other nodes use the store too.
    pub fn is_shared(&self) -> bool {
        self.node.lease.is_some()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Takes nothing new up from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Completes when the engine is told to stop.
    pub async fn stopped(&self) {
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Waits; says whether the engine still runs.
    pub async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stopped() => false,
            () = tokio::time::sleep(time) => !self.is_stopping(),
        }
    }

    /// Waits for everything that was taken up.
    pub async fn join(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.tasks.lock());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    /// Lets go of what holds the node, after everything has ended.
    pub fn close(&self) {
        *self.guests.lock() = None;
    }

    /// Says that somebody looks after an execution; false if somebody does already, or enough is in hand.
    pub fn take_up(&self, key: &ExecutionKey, most: usize) -> bool {
        let mut working = self.working.lock();
        working.len() < most && working.insert(key.clone())
    }

    pub fn put_down(&self, key: &ExecutionKey) {
        self.working.lock().remove(key);
        self.wake.notify_one();
    }

    pub(super) fn slot(&self, key: &ExecutionKey) -> Arc<Slot> {
        let fresh = || {
            Arc::new(Slot {
                loaded: tokio::sync::Mutex::default(),
                changes: watch::Sender::new(0),
            })
        };
        self.slots.lock().entry(key.clone()).or_insert_with(fresh).clone()
    }

    /// Forgets an execution that nobody else has in hand.
    pub(super) fn release(&self, key: &ExecutionKey, slot: Arc<Slot>) {
        let mut slots = self.slots.lock();
        // The map's and ours.
        let is_last = Arc::strong_count(&slot) == 2;
        if is_last && slot.loaded.try_lock().is_ok_and(|loaded| loaded.is_none()) {
            slots.remove(key);
        }
    }
}

impl Inner {
    /// Changes an execution, and commits the change; tries again where others were faster.
    pub(crate) async fn change_execution<T>(
        &self,
        key: &ExecutionKey,
        mut change: impl FnMut(&mut Execution, Timestamp) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let engine = &self.durable;
        let slot = engine.slot(key);
        let mut held = slot.loaded.lock().await;
        let mut tries = 0;
        let changed = loop {
            tries += 1;
            let loaded = match held.take() {
                Some(loaded) => Ok(Some(loaded)),
                None => engine.ledger.load(key).await,
            };
            let mut loaded = match loaded {
                Ok(Some(loaded)) => loaded,
                Ok(None) => break Err(no_execution(key)),
                Err(error) => break Err(Error::service(error)),
            };
            let before = loaded.execution.head.clone();
            let done = match change(&mut loaded.execution, self.clock.now()) {
                Ok(done) => done,
                Err(refusal) => break Err(refusal),
            };
            let committed = match is_changed(&loaded.execution, &before) {
                true => engine.ledger.commit(&mut loaded).await,
                false => Ok(()),
            };
            match committed {
                Ok(()) => {
                    let runs_here = loaded.execution.head.invocation.as_ref();
                    if runs_here.is_some_and(|running| running.node == engine.node.number) {
                        *held = Some(loaded);
                    }
                    break Ok(done);
                }
                Err(CommitError::Conflict(_)) if tries < TRIES_MAX => {}
                Err(error) => break Err(Error::service(error)),
            }
        };
        drop(held);
        slot.changes.send_modify(|changes| *changes += 1);
        engine.release(key, slot);
        engine.wake.notify_one();
        changed
    }

    /// Looks at an execution as it was committed last.
    pub(crate) async fn look_at_execution<T>(
        &self,
        key: &ExecutionKey,
        look: impl FnOnce(&Execution) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let engine = &self.durable;
        let slot = engine.slot(key);
        let held = slot.loaded.lock().await;
        // Where others change it too, what is held may be old.
        let looked = match &*held {
            Some(loaded) if !engine.is_shared() => look(&loaded.execution),
            _ => match engine.ledger.load(key).await {
                Ok(Some(loaded)) => look(&loaded.execution),
                Ok(None) => Err(no_execution(key)),
                Err(error) => Err(Error::service(error)),
            },
        };
        drop(held);
        engine.release(key, slot);
        looked
    }

    pub(crate) async fn execution_head(&self, key: &ExecutionKey) -> Result<Head, Error> {
        let head = self.durable.ledger.head(key).await.map_err(Error::service)?;
        head.ok_or_else(|| no_execution(key))
    }
}

fn is_changed(execution: &Execution, before: &Head) -> bool {
    !execution.changed.operations.is_empty()
        || !execution.changed.events.is_empty()
        || execution.head != *before
        || execution.next_due() != before.due
}

/// Tells the node's log of a failure of the platform.
pub(super) fn warn(key: &ExecutionKey, error: &Error, what: &str) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(execution = %key, error, "{what}");
}

pub(super) fn no_execution(key: &ExecutionKey) -> Error {
    Error::NotFound(format!(
        "The durable execution {} of function {} does not exist.",
        key.id, key.function
    ))
}

impl From<LedgerError> for Error {
    fn from(error: LedgerError) -> Self {
        Self::service(error)
    }
}

impl From<LedgerOutcome> for Error {
    fn from(error: LedgerOutcome) -> Self {
        Self::service(error)
    }
}
