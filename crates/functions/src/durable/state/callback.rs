//! Completions from outside: callbacks, and the ends of chained invocations.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::Execution;
use crate::durable::head::ExecutionStatus;
use crate::durable::id::CallbackId;
use crate::durable::operation::{ErrorObject, OperationStatus, OperationType, Payload};

/// What somebody outside says of a callback.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CallbackVerdict {
    Succeeded(Option<String>),
    Failed(ErrorObject),
    /// It goes on.
    Heartbeat,
}

/// Why nobody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallbackRefusal {
    #[error("the callback id is not genuine")]
    Unknown,
    #[error("the callback is over")]
    Closed,
}

impl Execution {
    pub fn call_back(
        &mut self,
        id: &CallbackId,
        verdict: CallbackVerdict,
        now: Timestamp,
    ) -> Result<(), CallbackRefusal> {
        let operation = self
            .operations
            .get(id.operation)
            .filter(|operation| operation.kind == OperationType::Callback);
        if operation.is_none() || !id.is_genuine(self.head.secret) {
            return Err(CallbackRefusal::Unknown);
        }
        self.fire(now);
        if self.is_over() || now >= self.deadline() || self.operations[id.operation].status.is_over() {
            return Err(CallbackRefusal::Closed);
        }
        match verdict {
            CallbackVerdict::Succeeded(result) => {
                let result = result.map(|text| Payload::Here(text.into()));
                self.complete(id.operation, OperationStatus::Succeeded, Ok(result), now);
            }
            CallbackVerdict::Failed(error) => {
                self.complete(id.operation, OperationStatus::Failed, Err(error.payload()), now);
            }
            CallbackVerdict::Heartbeat => {
                let operation = &mut self.operations[id.operation];
                let seconds = operation.heartbeat_seconds;
                operation.heartbeat_due = seconds.map(|seconds| now.after(Duration::from_secs(seconds.into())));
                self.changed.operations.insert(id.operation);
            }
        }
        Ok(())
    }

    /// The other end of a chained invocation is over. Nothing happens if that is known.
    pub fn chained_over(&mut self, operation: &str, end: ChildEnd, now: Timestamp) {
        let open = self.find(operation).filter(|at| self.operations[*at].is_awaited());
        let Some(at) = open.filter(|_| !self.is_over()) else {
            return;
        };
        let (status, outcome) = match end.status {
            ExecutionStatus::Succeeded => (OperationStatus::Succeeded, Ok(end.result)),
            ExecutionStatus::TimedOut => {
                let message = format!("CHAINED_INVOKE timed out after {} seconds.", end.timeout_seconds);
                let error = ErrorObject::new("ChainedInvoke.Timeout", message);
                (OperationStatus::TimedOut, Err(error.payload()))
            }
            ExecutionStatus::Stopped => (OperationStatus::Stopped, Err(end.error.unwrap_or_else(no_error))),
            _ => (OperationStatus::Failed, Err(end.error.unwrap_or_else(no_error))),
        };
        self.complete(at, status, outcome, now);
    }
}

/// How the other end of a chained invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChildEnd {
    pub status: ExecutionStatus,
    pub result: Option<Payload>,
    pub error: Option<Payload>,
    pub timeout_seconds: u32,
}

fn no_error() -> Payload {
    ErrorObject::default().payload()
}
