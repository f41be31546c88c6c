//! What an invocation's end means for its execution.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::Execution;
use crate::durable::envelope::Answer;
use crate::durable::head::{ExecutionStatus, Origin};
use crate::durable::id::CheckpointToken;
use crate::durable::limits::{FAILURES_MAX, IDLE_PENDING_MAX, PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX};
use crate::durable::operation::{ErrorObject, Payload};

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The function answered, in words that mean this.
    Answered(Answer),
    /// The function answered something else; the text says what is wrong with it.
    Nonsense(String),
    /// An ordinary function's answer.
    Plain(String),
    /// The function failed.
    Failed(ErrorObject),
    /// It could not be invoked now.
    NotNow,
    /// It never can be.
    Never(ErrorObject),
}

/// How long things wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delays {
    /// After a failed invocation.
    pub retry: Duration,
    /// After one that could not be made, doubled each time.
    pub backoff_first: Duration,
    /// See `backoff_first`.
    pub backoff_longest: Duration,
}

impl Execution {
    /// Ends an invocation; false if it was not the present one any more.
    pub fn finish(&mut self, token: CheckpointToken, outcome: Outcome, delays: Delays, now: Timestamp) -> bool {
        let current = self
            .head
            .invocation
            .as_ref()
            .filter(|running| running.id == token.invocation);
        let Some(running) = current else { return false };
        let changes = running.changes;
        let error = match &outcome {
            Outcome::Failed(error) | Outcome::Never(error) => Some(error.payload()),
            Outcome::Nonsense(text) => Some(nonsense(text).payload()),
            _ => None,
        };
        self.invocation_over(error, now);
        if !matches!(outcome, Outcome::NotNow) {
            self.head.not_made = 0;
        }
        match outcome {
            Outcome::Answered(Answer::Succeeded(result)) => self.succeed(result, now),
            Outcome::Plain(result) => self.succeed(Some(result), now),
            Outcome::Answered(Answer::Failed(error)) | Outcome::Never(error) => {
                self.end(ExecutionStatus::Failed, Err(error), now);
            }
            Outcome::Answered(Answer::Pending) => self.suspend(changes, delays, now),
            Outcome::Nonsense(text) => self.end(ExecutionStatus::Failed, Err(nonsense(&text)), now),
            Outcome::Failed(error) => self.fail(error, delays, now),
            Outcome::NotNow => {
                self.head.not_made += 1;
                let doubled = delays
                    .backoff_first
                    .saturating_mul(1 << (self.head.not_made - 1).min(16));
                self.again(doubled.min(delays.backoff_longest), now);
            }
        }
        true
    }

    fn succeed(&mut self, result: Option<String>, now: Timestamp) {
        let bytes_max = match self.head.origin {
            Origin::Waiting => RESULT_BYTES_MAX,
            Origin::Event | Origin::Chained => PAYLOAD_BYTES_MAX,
        };
        let bytes = result.as_ref().map_or(0, String::len);
        if bytes > bytes_max {
            let message = format!("Execution output payload size must be less than or equal to {bytes_max} bytes.");
            let error = ErrorObject::new("InvalidParameterValueException", message);
            return self.end(ExecutionStatus::Failed, Err(error), now);
        }
        self.head.stored_bytes += bytes as u64;
        let result = result.map(|text| Payload::Here(text.into()));
        self.end(ExecutionStatus::Succeeded, Ok(result), now);
    }

    /// The function waits for something. If there is nothing, it may be mistaken: it is asked again.
    fn suspend(&mut self, changes: u64, delays: Delays, now: Timestamp) {
        let news = self
            .operations
            .iter()
            .any(|operation| operation.touched > changes.max(self.head.seen));
        if self.head.wanted || self.has_awaited() || news {
            (self.head.failures, self.head.idle_pendings) = (0, 0);
            return self.settle_pause(now);
        }
        self.head.idle_pendings += 1;
        if self.head.idle_pendings >= IDLE_PENDING_MAX {
            let error = nonsense("Cannot return PENDING status with no pending operations.");
            return self.end(ExecutionStatus::Failed, Err(error), now);
        }
        self.again(delays.retry, now);
    }

    fn fail(&mut self, error: ErrorObject, delays: Delays, now: Timestamp) {
        self.head.failures += 1;
        if self.head.is_plain || self.head.failures >= FAILURES_MAX {
            return self.end(ExecutionStatus::Failed, Err(error), now);
        }
        self.again(delays.retry, now);
    }

    fn again(&mut self, delay: Duration, now: Timestamp) {
        self.head.wanted = true;
        self.head.retry_at = Some(now.after(delay));
        self.settle_pause(now);
    }
}

fn nonsense(text: &str) -> ErrorObject {
    ErrorObject::new("InvalidParameterValueException", text)
}
