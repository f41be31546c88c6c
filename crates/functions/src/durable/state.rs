//! An execution as a state machine, apart from all I/O; time, chance and other functions are handed in.
//!
//! ```text
//!             begin                     PENDING, or the invocation failed
//!   WANTED ──────────▶ INVOKED ──checkpoint──▶ INVOKED ─────────▶ SUSPENDED
//!     ▲                   │                                           │ a wait, a delay, a callback, a
//!     │                   │ SUCCEEDED, FAILED                         │ chained invocation is over
//!     │                   ▼                                           │
//!     │       ended: SUCCEEDED, FAILED, TIMED_OUT, STOPPED            │
//!     └───────────────────────────────────────────────────────────────┘
//! ```
//! Everything that happens is one method that leaves behind what has changed; the ledger commits that whole
//! or not at all.

mod begin;
mod callback;
mod checkpoint;
mod control;
mod finish;
#[cfg(test)]
mod tests;
pub(super) mod update;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bowline_foundation::clock::Timestamp;

pub(super) use begin::{Node, Step, Ticket};
pub(super) use callback::{CallbackRefusal, CallbackVerdict, ChildEnd};
pub(super) use checkpoint::{Chains, Refusal, Resolved, Unresolved};
pub(super) use control::{ControlRefusal, PauseRequest};
pub(super) use finish::{Delays, Outcome};

use super::event::{Event, EventType, Facts};
use super::head::{DurableConfig, ExecutionStatus, Head, Origin, Parent};
use super::id::ExecutionArn;
use super::limits::EXECUTION_SECONDS_MAX;
use super::operation::{ErrorObject, Operation, OperationStatus, OperationType, Payload};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An execution with all its operations, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Execution {
    pub head: Head,
    pub operations: Vec<Operation>,
    by_id: HashMap<String, usize>,
    pub changed: Changed,
}

/// What is not committed yet. The head always counts as changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Changed {
    pub operations: BTreeSet<usize>,
    pub events: Vec<Event>,
}

/// What an execution begins with.
pub(crate) struct Beginning {
    pub arn: ExecutionArn,
    pub origin: Origin,
    pub config: DurableConfig,
    pub trace_id: Option<String>,
    pub input: String,
    pub secret: u128,
    pub parent: Option<Parent>,
    pub is_plain: bool,
}

impl Execution {
    pub fn start(beginning: Beginning, now: Timestamp) -> Self {
        let Beginning { arn, config, .. } = beginning;
        let seconds = config.execution_timeout_seconds;
        let head = Head {
            origin: beginning.origin,
            status: ExecutionStatus::Running,
            started: now,
            ended: None,
            config,
            deadline: now.after(Duration::from_secs(seconds.into())),
            result: None,
            error: None,
            trace_id: beginning.trace_id,
            secret: beginning.secret,
            invocation: None,
            sequence: 0,
            last_checkpoint: None,
            changes: 0,
            seen: 0,
            wanted: true,
            retry_at: None,
            failures: 0,
            idle_pendings: 0,
            not_made: 0,
            pause: None,
            last_control: None,
            parent: beginning.parent,
            is_plain: beginning.is_plain,
            operations: 0,
            events: 0,
            texts: 0,
            stored_bytes: 0,
            due: Timestamp::default(),
            arn,
        };
        let mut this = Self::load(head, Vec::new());
        let mut first = Operation::new(this.head.arn.id.to_string(), OperationType::Execution, now);
        first.name = Some(this.head.arn.name.to_string());
        first.input = Some(Payload::Here(beginning.input.into()));
        let input = first.input.clone();
        this.add(first);
        let facts = Facts {
            input,
            seconds: Some(seconds),
            ..Facts::default()
        };
        this.tell_of(0, EventType::ExecutionStarted, now, facts);
        this
    }

    /// An execution as it was stored.
    pub fn load(head: Head, operations: Vec<Operation>) -> Self {
        let by_id = operations.iter().enumerate();
        let by_id = by_id.map(|(at, operation)| (operation.id.clone(), at)).collect();
        Self {
            head,
            operations,
            by_id,
            changed: Changed::default(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.head.status != ExecutionStatus::Running
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    fn add(&mut self, operation: Operation) -> usize {
        let at = self.operations.len();
        self.head.stored_bytes += operation.payload_bytes();
        self.by_id.insert(operation.id.clone(), at);
        self.operations.push(operation);
        self.head.operations = self.operations.len() as u64;
        self.touch(at);
        at
    }

    fn touch(&mut self, at: usize) {
        self.head.changes += 1;
        self.operations[at].touched = self.head.changes;
        self.changed.operations.insert(at);
    }

    fn tell(&mut self, kind: EventType, now: Timestamp, facts: Facts) {
        self.head.events += 1;
        self.changed.events.push(Event::new(self.head.events, kind, now, facts));
    }

    fn tell_of(&mut self, at: usize, kind: EventType, now: Timestamp, facts: Facts) {
        self.head.events += 1;
        let event = Event::of(&self.operations[at], self.head.events, kind, now, facts);
        self.changed.events.push(event);
    }

    /// Ends an operation that somebody else than the function completes.
    fn complete(
        &mut self,
        at: usize,
        status: OperationStatus,
        outcome: Result<Option<Payload>, Payload>,
        now: Timestamp,
    ) {
        let operation = &mut self.operations[at];
        operation.status = status;
        operation.ended = Some(now);
        (operation.due, operation.heartbeat_due) = (None, None);
        match outcome {
            Ok(result) => operation.result = result,
            Err(error) => operation.error = Some(error),
        }
        let facts = Facts {
            result: operation.result.clone(),
            error: operation.error.clone(),
            seconds: operation.seconds,
            ..Facts::default()
        };
        self.head.stored_bytes += [&facts.result, &facts.error]
            .into_iter()
            .flatten()
            .map(Payload::bytes)
            .sum::<u64>();
        let kind = ended_event(self.operations[at].kind, status);
        self.touch(at);
        self.tell_of(at, kind, now, facts);
    }

    /// Ends the execution.
    fn end(&mut self, status: ExecutionStatus, outcome: Result<Option<Payload>, ErrorObject>, now: Timestamp) {
        let (result, error) = match outcome {
            Ok(result) => (result, None),
            Err(error) => (None, Some(error.payload())),
        };
        self.head.status = status;
        self.head.ended = Some(now);
        (self.head.invocation, self.head.pause, self.head.retry_at) = (None, None, None);
        self.head.wanted = false;
        self.head.result.clone_from(&result);
        self.head.error.clone_from(&error);
        let first = &mut self.operations[0];
        first.ended = Some(now);
        let (kind, first_status) = match status {
            ExecutionStatus::Succeeded => (EventType::ExecutionSucceeded, OperationStatus::Succeeded),
            ExecutionStatus::TimedOut => (EventType::ExecutionTimedOut, OperationStatus::TimedOut),
            ExecutionStatus::Stopped => (EventType::ExecutionStopped, OperationStatus::Stopped),
            _ => (EventType::ExecutionFailed, OperationStatus::Failed),
        };
        first.status = first_status;
        self.touch(0);
        let facts = Facts {
            result,
            error,
            ..Facts::default()
        };
        self.tell_of(0, kind, now, facts);
    }

    /// Whether something changed that the function does not know.
    fn has_news(&self) -> bool {
        self.operations
            .iter()
            .any(|operation| operation.touched > self.head.seen)
    }

    fn has_awaited(&self) -> bool {
        self.operations.iter().any(Operation::is_awaited)
    }

    /// When the execution takes too long.
    pub fn deadline(&self) -> Timestamp {
        match &self.head.pause {
            Some(pause) if pause.timeout_paused => self.latest_deadline(),
            _ => self.head.deadline,
        }
    }

    fn latest_deadline(&self) -> Timestamp {
        self.head
            .started
            .after(Duration::from_secs(EXECUTION_SECONDS_MAX.into()))
    }

    /// How long the execution is kept after its end.
    fn retention(&self) -> Duration {
        if self.head.is_plain {
            Duration::ZERO
        } else {
            DAY * self.head.config.retention_days
        }
    }

    /// When somebody must look at the execution next; in the past if at once.
    pub fn next_due(&self) -> Timestamp {
        if let Some(ended) = self.head.ended {
            let is_owed = self.head.parent.as_ref().is_some_and(|parent| !parent.is_told);
            let at_once = is_owed || self.head.status == ExecutionStatus::Deleting;
            return if at_once { ended } else { ended.after(self.retention()) };
        }
        let timers = self.operations.iter().filter_map(Operation::next_due);
        let lease = self.head.invocation.as_ref().and_then(|running| running.lease);
        let dispatch = self.undispatched().next().map(|_| Timestamp::default());
        let invoke = self.wants_invocation().then(|| self.head.retry_at.unwrap_or_default());
        let next = timers.chain(lease).chain(dispatch).chain(invoke).min();
        self.deadline().min(next.unwrap_or(self.deadline()))
    }

    /// Whether the function is to be invoked, now or when it may be tried again.
    fn wants_invocation(&self) -> bool {
        !self.is_over()
            && self.head.invocation.is_none()
            && self.head.pause.is_none()
            && (self.head.wanted || self.has_news())
    }

    /// Chained invocations whose other end has not been made.
    pub fn undispatched(&self) -> impl Iterator<Item = usize> {
        let operations = self.operations.iter().enumerate();
        operations.filter_map(|(at, operation)| {
            let chained = operation.chained.as_ref()?;
            (!chained.is_dispatched && operation.is_awaited()).then_some(at)
        })
    }

    /// The operations a function needs to go on: not what lies within contexts that are over.
    pub fn replayed(&self) -> Vec<usize> {
        let mut hidden = vec![false; self.operations.len()];
        for at in 0..self.operations.len() {
            let parent = self.operations[at]
                .parent
                .as_deref()
                .and_then(|parent| self.find(parent));
            hidden[at] = parent.is_some_and(|parent| {
                let context = &self.operations[parent];
                hidden[parent] || (context.status.is_over() && !context.replays_children)
            });
        }
        (0..hidden.len()).filter(|at| !hidden[*at]).collect()
    }

    /// What a function does not know yet, and now does.
    fn take_news(&mut self) -> Vec<usize> {
        let seen = self.head.seen;
        self.head.seen = self.head.changes;
        self.changed_since(seen)
    }

    fn changed_since(&self, change: u64) -> Vec<usize> {
        let operations = self.operations.iter().enumerate();
        operations
            .filter(|(_, operation)| operation.touched > change)
            .map(|(at, _)| at)
            .collect()
    }
}

fn ended_event(kind: OperationType, status: OperationStatus) -> EventType {
    use EventType::*;
    use OperationStatus::{Cancelled, Failed, Stopped, TimedOut};
    match (kind, status) {
        (OperationType::Wait, Cancelled) => WaitCancelled,
        (OperationType::Wait, _) => WaitSucceeded,
        (OperationType::Step, Failed) => StepFailed,
        (OperationType::Step, _) => StepSucceeded,
        (OperationType::Context, Failed) => ContextFailed,
        (OperationType::Context, _) => ContextSucceeded,
        (OperationType::Callback, TimedOut) => CallbackTimedOut,
        (OperationType::Callback, Failed) => CallbackFailed,
        (OperationType::Callback, _) => CallbackSucceeded,
        (OperationType::ChainedInvoke, Failed) => ChainedInvokeFailed,
        (OperationType::ChainedInvoke, TimedOut) => ChainedInvokeTimedOut,
        (OperationType::ChainedInvoke, Stopped) => ChainedInvokeStopped,
        (OperationType::ChainedInvoke, _) => ChainedInvokeSucceeded,
        (OperationType::Execution, Failed) => ExecutionFailed,
        (OperationType::Execution, _) => ExecutionSucceeded,
    }
}
