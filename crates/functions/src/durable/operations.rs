//! What functions and callers do to executions.

use std::sync::Arc;

use bowline_foundation::clock::Timestamp;
use serde::Deserialize;

use super::head::ExecutionStatus;
use super::id::{CallbackId, CheckpointToken, ExecutionArn};
use super::limits::{CLIENT_TOKEN_CHARS_MAX, PAYLOAD_BYTES_MAX, REASON_CHARS_MAX};
use super::operation::ErrorObject;
use super::query::{Part, fill, token_of_nothing};
use super::shape::OperationView;
use super::start::Registered;
use super::state::update::{CheckpointBody, OperationUpdate};
use super::state::{CallbackRefusal, CallbackVerdict, ControlRefusal, PauseRequest, Refusal};
use crate::error::Error;
use crate::service::Inner;

/// A checkpoint that a function asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRequest {
    pub token: CheckpointToken,
    pub updates: Vec<OperationUpdate>,
    pub client_token: Option<String>,
}

/// What a function is told: its next token, unless it may go no further, and what has changed.
#[derive(Clone, Debug)]
pub struct CheckpointAnswer {
    pub token: Option<CheckpointToken>,
    pub news: Part<OperationView>,
}

/// A pause or a resumption as the wire has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ControlBody {
    pub client_token: Option<String>,
    pub reason: Option<String>,
    pub execution_timeout_paused: Option<bool>,
}

impl CheckpointRequest {
    /// Reads and checks a body.
    pub fn read(body: CheckpointBody) -> Result<Self, Error> {
        let token = body.checkpoint_token.unwrap_or_default();
        let token = token
            .parse()
            .map_err(|_| Error::InvalidParameter(Refusal::Token.to_string()))?;
        check_client_token(body.client_token.as_deref())?;
        let updates = body.updates.unwrap_or_default().into_iter().enumerate();
        let updates: Result<Vec<_>, Error> = updates.map(|(at, update)| update.read(at + 1)).collect();
        Ok(Self {
            token,
            updates: updates?,
            client_token: body.client_token,
        })
    }
}

impl ControlBody {
    fn read(self) -> Result<PauseRequest, Error> {
        check_client_token(self.client_token.as_deref())?;
        if self
            .reason
            .as_ref()
            .is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX)
        {
            return Err(Error::InvalidParameter(format!(
                "1 validation error detected: Value at 'reason' failed to satisfy constraint: \
                 Member must have length less than or equal to {REASON_CHARS_MAX}"
            )));
        }
        Ok(PauseRequest {
            client_token: self.client_token,
            reason: self.reason,
            timeout_paused: self.execution_timeout_paused.unwrap_or(true),
        })
    }
}

fn check_client_token(token: Option<&str>) -> Result<(), Error> {
    let good = |token: &str| {
        (1..=CLIENT_TOKEN_CHARS_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if token.is_none_or(good) {
        return Ok(());
    }
    Err(Error::InvalidParameter(format!(
        "1 validation error detected: Value at 'clientToken' failed to satisfy constraint: \
         Member must have 1 to {CLIENT_TOKEN_CHARS_MAX} printable characters"
    )))
}

impl Inner {
    /// Makes a checkpoint; once this returns, it is on disk.
    pub(crate) async fn checkpoint(
        self: &Arc<Self>,
        arn: &ExecutionArn,
        request: CheckpointRequest,
    ) -> Result<CheckpointAnswer, Error> {
        let key = arn.key();
        let chains = Registered {
            inner: self,
            account: &key.account,
        };
        let client_token = request.client_token.as_deref();
        let changed = self.change_execution(&key, |execution, now| {
            if execution.head.arn != *arn {
                return Err(Error::InvalidParameter(Refusal::Token.to_string()));
            }
            let updates = request.updates.clone();
            let done = execution.checkpoint(request.token, updates, client_token, (&chains, now));
            let done = done.map_err(|refusal| Error::InvalidParameter(refusal.to_string()))?;
            let (picked, next) = fill(execution, done.news.into_iter(), usize::MAX);
            Ok((done.token, picked, next))
        });
        let (token, picked, next) = changed.await.map_err(token_of_nothing)?;
        self.crash.reach("execution.checkpointed");
        Ok(CheckpointAnswer {
            token,
            news: Part {
                items: self.operation_views(&key, picked).await?,
                next_marker: next.map(|next| next.to_string()),
            },
        })
    }

    pub(crate) async fn stop_execution(
        &self,
        arn: &ExecutionArn,
        error: Option<ErrorObject>,
    ) -> Result<Timestamp, Error> {
        check_error(error.as_ref())?;
        self.named_execution(arn).await?;
        let key = arn.key();
        let changed = self.change_execution(&key, |execution, now| {
            execution.stop(error.clone(), now).map_err(|refusal| match refusal.0 {
                ExecutionStatus::Deleting => super::engine::no_execution(&key),
                status => Error::InvalidParameter(format!(
                    "The durable execution is {} and cannot be stopped.",
                    status.as_str()
                )),
            })
        });
        let stopped = changed.await?;
        self.crash.reach("execution.stopped");
        Ok(stopped)
    }

    pub(crate) async fn pause_execution(&self, arn: &ExecutionArn, body: ControlBody) -> Result<(), Error> {
        let request = body.read()?;
        self.named_execution(arn).await?;
        self.change_execution(&arn.key(), |execution, now| {
            execution
                .pause(&request, now)
                .map_err(|refusal| not_now(refusal, "paused"))
        })
        .await
    }

    pub(crate) async fn resume_execution(&self, arn: &ExecutionArn, body: ControlBody) -> Result<(), Error> {
        let request = body.read()?;
        self.named_execution(arn).await?;
        self.change_execution(&arn.key(), |execution, now| {
            execution
                .resume(&request, now)
                .map_err(|refusal| not_now(refusal, "resumed"))
        })
        .await
    }

    pub(crate) async fn delete_execution(&self, arn: &ExecutionArn) -> Result<Timestamp, Error> {
        self.named_execution(arn).await?;
        self.change_execution(&arn.key(), |execution, now| {
            execution.delete().map_err(|refusal| not_now(refusal, "deleted"))?;
            Ok(now)
        })
        .await
    }

    pub(crate) async fn complete_callback(&self, id: &str, verdict: Callback) -> Result<(), Error> {
        let invalid = || Error::InvalidParameter("Invalid callback ID.".to_owned());
        let id: CallbackId = id.parse().map_err(|_| invalid())?;
        let verdict = verdict.check()?;
        let changed = self.change_execution(&id.key, |execution, now| {
            execution
                .call_back(&id, verdict.clone(), now)
                .map_err(|refusal| match refusal {
                    CallbackRefusal::Unknown => invalid(),
                    CallbackRefusal::Closed => closed(),
                })
        });
        changed.await.map_err(|error| match error {
            Error::NotFound(_) => closed(),
            error => error,
        })?;
        self.crash.reach("callback.completed");
        Ok(())
    }
}

/// What somebody outside says of a callback.
#[derive(Clone, Debug)]
pub enum Callback {
    Success(bytes::Bytes),
    Failure(ErrorObject),
    Heartbeat,
}

impl Callback {
    fn check(self) -> Result<CallbackVerdict, Error> {
        match self {
            Self::Heartbeat => Ok(CallbackVerdict::Heartbeat),
            Self::Failure(error) => {
                check_error(Some(&error))?;
                Ok(CallbackVerdict::Failed(error))
            }
            Self::Success(result) if result.len() > PAYLOAD_BYTES_MAX => Err(Error::InvalidParameter(format!(
                "The result of a callback has at most {PAYLOAD_BYTES_MAX} bytes; this one has {}.",
                result.len()
            ))),
            Self::Success(result) => {
                let text = String::from_utf8(result.to_vec());
                let text =
                    text.map_err(|_| Error::InvalidParameter("The result of a callback is UTF-8 text.".to_owned()))?;
                Ok(CallbackVerdict::Succeeded(Some(text).filter(|text| !text.is_empty())))
            }
        }
    }
}

fn check_error(error: Option<&ErrorObject>) -> Result<(), Error> {
    let bytes = error.map_or(0, |error| error.payload().bytes());
    if bytes <= PAYLOAD_BYTES_MAX as u64 {
        return Ok(());
    }
    Err(Error::InvalidParameter(format!(
        "Error object size must be at most {PAYLOAD_BYTES_MAX} bytes."
    )))
}

fn not_now(refusal: ControlRefusal, what: &str) -> Error {
    Error::Conflict(format!(
        "The durable execution is {} and cannot be {what}.",
        refusal.0.as_str()
    ))
}

fn closed() -> Error {
    Error::CallbackTimeout("The callback has expired or has already been completed.".to_owned())
}
