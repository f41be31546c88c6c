//! What is due: time that has passed, an invocation to make, a parent to tell, an end to clear away.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::Execution;
use crate::durable::event::{EventType, Facts};
use crate::durable::head::{ExecutionStatus, Parent, Running};
use crate::durable::id::CheckpointToken;
use crate::durable::limits::FIRED_MAX;
use crate::durable::operation::{ErrorObject, OperationStatus, OperationType, Payload};

/// The node that looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// Drawn when it started.
    pub number: u64,
    /// How long others believe it alive, if there are others.
    pub lease: Option<Duration>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing until the execution is due again.
    Rest,
    /// There is more of the same.
    Again,
    Invoke(Ticket),
    /// Make the other ends of these operations.
    Dispatch(Vec<usize>),
    TellParent(Parent),
    Remove,
}

/// The right to run one invocation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ticket {
    pub token: CheckpointToken,
    /// Operations that changed without the function.
    pub news: Vec<usize>,
}

impl Execution {
    /// Does what is due, and claims what is to be done next; `chance` is a number nobody can guess.
    pub fn begin(&mut self, node: Node, chance: u128, request_id: &str, now: Timestamp) -> Step {
        if self.is_over() {
            return self.after_end(now);
        }
        self.recover(node, now);
        if now >= self.deadline() {
            let seconds = self.head.config.execution_timeout_seconds;
            let message = format!("Execution timed out after {seconds} seconds.");
            self.end(
                ExecutionStatus::TimedOut,
                Err(ErrorObject::new("Execution.Timeout", message)),
                now,
            );
            return Step::Again;
        }
        let all_fired = self.fire(now);
        let undispatched: Vec<usize> = self.undispatched().collect();
        if !undispatched.is_empty() {
            return Step::Dispatch(undispatched);
        }
        if self.wants_invocation() && self.head.retry_at.is_none_or(|at| at <= now) {
            return Step::Invoke(self.claim(node, chance, request_id, now));
        }
        if all_fired { Step::Rest } else { Step::Again }
    }

    fn claim(&mut self, node: Node, chance: u128, request_id: &str, now: Timestamp) -> Ticket {
        let news = if self.head.seen == 0 {
            Vec::new()
        } else {
            self.changed_since(self.head.seen)
        };
        self.head.seen = self.head.changes;
        self.head.wanted = false;
        self.head.retry_at = None;
        self.head.last_checkpoint = None;
        self.head.invocation = Some(Running {
            id: chance,
            request_id: request_id.to_owned(),
            since: now,
            node: node.number,
            lease: node.lease.map(|lease| now.after(lease)),
            changes: self.head.changes,
        });
        let token = self.head.token().expect("an invocation was just set");
        Ticket { token, news }
    }

    /// Keeps an invocation; false if it is not wanted any more.
    pub fn renew(&mut self, token: CheckpointToken, node: Node, now: Timestamp) -> bool {
        match &mut self.head.invocation {
            Some(running) if running.id == token.invocation => {
                running.lease = node.lease.map(|lease| now.after(lease));
                true
            }
            _ => false,
        }
    }

    /// Whether the node that runs the invocation is gone.
    fn is_abandoned(&self, node: Node, now: Timestamp) -> bool {
        self.head.invocation.as_ref().is_some_and(|running| {
            running.node != node.number && running.lease.is_none_or(|lease| node.lease.is_none() || lease <= now)
        })
    }

    /// Takes an invocation away from a node that is gone; its checkpoints are refused from now on. This node's
    /// own are kept: it lives.
    fn recover(&mut self, node: Node, now: Timestamp) {
        if let Some(running) = &mut self.head.invocation
            && running.node == node.number
            && running.lease.is_some_and(|lease| lease <= now)
        {
            running.lease = node.lease.map(|lease| now.after(lease));
        }
        if self.is_abandoned(node, now) {
            let error = ErrorObject::new("Sandbox.Failure", "The node that ran the invocation is gone.");
            self.invocation_over(Some(error.payload()), now);
            self.head.wanted = true;
            self.settle_pause(now);
        }
    }

    /// Lets the time complete what it completes; false if that was too much for one commit.
    pub(super) fn fire(&mut self, now: Timestamp) -> bool {
        if self.is_over() {
            return true;
        }
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let mut fired = 0;
        for at in 0..self.operations.len() {
            let operation = &mut self.operations[at];
            if !operation.is_awaited() || !due(operation.next_due()) {
                continue;
            }
            if fired == FIRED_MAX {
                return false;
            }
            fired += 1;
            match operation.kind {
                OperationType::Step => {
                    operation.status = OperationStatus::Ready;
                    operation.due = None;
                    self.touch(at);
                }
                OperationType::Callback => {
                    let error = if due(operation.due) {
                        ErrorObject::new("Callback.Timeout", "Callback timed out")
                    } else {
                        ErrorObject::new("Callback.Heartbeat", "Callback timed out on heartbeat")
                    };
                    self.complete(at, OperationStatus::TimedOut, Err(error.payload()), now);
                }
                _ => self.complete(at, OperationStatus::Succeeded, Ok(None), now),
            }
        }
        true
    }

    /// Notes that the other ends of chained invocations have been made.
    pub fn dispatched(&mut self, operations: &[usize]) {
        for at in operations {
            if let Some(chained) = &mut self.operations[*at].chained {
                chained.is_dispatched = true;
                self.changed.operations.insert(*at);
            }
        }
    }

    fn after_end(&mut self, now: Timestamp) -> Step {
        if let Some(parent) = self.head.parent.as_ref().filter(|parent| !parent.is_told) {
            return Step::TellParent(parent.clone());
        }
        let Some(ended) = self.head.ended else {
            return Step::Rest;
        };
        if self.head.status == ExecutionStatus::Deleting {
            return Step::Remove;
        }
        if now >= ended.after(self.retention()) {
            self.head.status = ExecutionStatus::Deleting;
            return Step::Remove;
        }
        Step::Rest
    }

    /// Notes that the parent knows of the end.
    pub fn told_parent(&mut self) {
        if let Some(parent) = &mut self.head.parent {
            parent.is_told = true;
        }
    }

    /// Says in the history that the invocation is over, and forgets it.
    pub(super) fn invocation_over(&mut self, error: Option<Payload>, now: Timestamp) {
        let Some(running) = self.head.invocation.take() else {
            return;
        };
        let facts = Facts {
            since: Some(running.since),
            request_id: Some(running.request_id),
            error,
            ..Facts::default()
        };
        self.tell(EventType::InvocationCompleted, now, facts);
    }
}
