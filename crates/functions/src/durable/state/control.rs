//! Stopping, pausing, resuming and deleting, as a caller asks for it.

use bowline_foundation::clock::Timestamp;

use super::Execution;
use crate::durable::event::{EventType, Facts};
use crate::durable::head::{ExecutionStatus, LastControl, Pause};
use crate::durable::limits::CLIENT_TOKEN_KEPT;
use crate::durable::operation::ErrorObject;

/// Why it cannot be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the execution is {}", .0.as_str())]
pub(crate) struct ControlRefusal(pub ExecutionStatus);

/// What a pause or a resumption comes with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PauseRequest {
    pub client_token: Option<String>,
    pub reason: Option<String>,
    /// Whether the time of the pause does not count; only of a pause.
    pub timeout_paused: bool,
}

impl Execution {
    /// Stops the execution; returns when it was stopped. Stopping a stopped one changes nothing.
    pub fn stop(&mut self, error: Option<ErrorObject>, now: Timestamp) -> Result<Timestamp, ControlRefusal> {
        match (self.head.status, self.head.ended) {
            (ExecutionStatus::Running, _) => {
                self.invocation_over(None, now);
                self.end(ExecutionStatus::Stopped, Err(error.unwrap_or_default()), now);
                Ok(now)
            }
            (ExecutionStatus::Stopped, Some(ended)) => Ok(ended),
            (status, _) => Err(ControlRefusal(status)),
        }
    }

    pub fn pause(&mut self, request: &PauseRequest, now: Timestamp) -> Result<(), ControlRefusal> {
        if self.is_repeated(request, true, now) {
            return Ok(());
        }
        if self.head.shown_status() != ExecutionStatus::Running {
            return Err(ControlRefusal(self.head.shown_status()));
        }
        self.head.pause = Some(Pause {
            requested: now,
            reason: request.reason.clone(),
            timeout_paused: request.timeout_paused,
            since: None,
        });
        self.remember(request, true, now);
        if self.head.invocation.is_none() {
            self.settle_pause(now);
        }
        Ok(())
    }

    pub fn resume(&mut self, request: &PauseRequest, now: Timestamp) -> Result<(), ControlRefusal> {
        if self.is_repeated(request, false, now) {
            return Ok(());
        }
        let status = self.head.shown_status();
        let Some(pause) = self.head.pause.take().filter(|_| !self.is_over()) else {
            return Err(ControlRefusal(status));
        };
        if pause.timeout_paused {
            let extended = self.head.deadline.after(now.since(pause.requested));
            self.head.deadline = extended.min(self.latest_deadline());
        }
        self.remember(request, false, now);
        if pause.since.is_some() {
            let facts = Facts {
                since: Some(now),
                reason: request.reason.clone(),
                ..Facts::default()
            };
            self.tell(EventType::ExecutionResumed, now, facts);
        }
        Ok(())
    }

    /// The execution goes, with everything of it.
    pub fn delete(&mut self) -> Result<(), ControlRefusal> {
        match self.head.status {
            ExecutionStatus::Running => Err(ControlRefusal(self.head.shown_status())),
            _ => {
                self.head.status = ExecutionStatus::Deleting;
                Ok(())
            }
        }
    }

    /// A pause that waited for an invocation to stop has its way.
    pub(super) fn settle_pause(&mut self, now: Timestamp) {
        let Some(pause) = self.head.pause.as_mut().filter(|pause| pause.since.is_none()) else {
            return;
        };
        pause.since = Some(now);
        let facts = Facts {
            since: Some(pause.requested),
            reason: pause.reason.clone(),
            timeout_paused: Some(pause.timeout_paused),
            ..Facts::default()
        };
        self.tell(EventType::ExecutionPaused, now, facts);
    }

    fn is_repeated(&self, request: &PauseRequest, is_pause: bool, now: Timestamp) -> bool {
        let last = self.head.last_control.as_ref();
        last.is_some_and(|last| {
            last.is_pause == is_pause
                && request.client_token.as_ref() == Some(&last.client_token)
                && now.since(last.at) <= CLIENT_TOKEN_KEPT
        })
    }

    fn remember(&mut self, request: &PauseRequest, is_pause: bool, now: Timestamp) {
        self.head.last_control = request.client_token.clone().map(|client_token| LastControl {
            client_token,
            is_pause,
            at: now,
        });
    }
}
