//! One invocation of a durable function, from its event to what its answer means.

use std::sync::Arc;

use bowline_foundation::id::RequestId;
use bowline_sandbox::FunctionError;
use bytes::Bytes;
use serde::Deserialize;

use super::engine::warn;
use super::envelope::{Envelope, InitialState, read_answer};
use super::id::{ExecutionArn, ExecutionKey};
use super::limits::PAGE_ITEMS_MAX;
use super::operation::ErrorObject;
use super::shape::{OperationShape, TimeForm};
use super::state::{Outcome, Ticket};
use crate::error::Error;
use crate::name::{FunctionRef, Qualifier};
use crate::service::{Inner, InvocationRequest, InvocationResponse};

impl Inner {
    /// Runs an invocation that was claimed, and commits what came of it.
    pub(super) async fn run_invocation(self: Arc<Self>, key: ExecutionKey, ticket: Ticket, request_id: RequestId) {
        let engine = &self.durable;
        let outcome = self.invoke_claimed(&key, &ticket, request_id).await;
        self.crash.reach("execution.invoked");
        let delays = engine.delays();
        loop {
            let finished = self
                .change_execution(&key, |execution, now| {
                    Ok(execution.finish(ticket.token, outcome.clone(), delays, now))
                })
                .await;
            match finished {
                Ok(_) | Err(Error::NotFound(_)) => break,
                Err(error) => {
                    warn(&key, &error, "an invocation's end cannot be noted; it is tried again");
                    if !engine.pause(engine.timing.backoff_first).await {
                        return;
                    }
                }
            }
        }
        self.crash.reach("execution.finished");
    }

    async fn invoke_claimed(self: &Arc<Self>, key: &ExecutionKey, ticket: &Ticket, request_id: RequestId) -> Outcome {
        let prepared = match self.event_of(key, ticket).await {
            Ok(prepared) => prepared,
            Err(error) => {
                warn(key, &error, "an execution's event cannot be made");
                return Outcome::NotNow;
            }
        };
        let target = FunctionRef {
            account: key.account.clone(),
            name: key.function.clone(),
            qualifier: Some(Qualifier::Version(prepared.arn.version)),
        };
        let request = InvocationRequest {
            request_id,
            payload: prepared.event,
            client_context: None,
            trace_id: prepared.trace_id,
            log_tail: false,
            is_strict: false,
        };
        if prepared.is_plain {
            let invoked = self.keep(key, ticket, self.invoke(&target, request)).await;
            return plain_outcome(invoked);
        }
        let platform = self.durable.guests().map(|guests| guests.of(&prepared.arn));
        let invoked = self.keep(key, ticket, self.invoke_for_execution(&target, request, platform));
        durable_outcome(invoked.await)
    }

    /// Keeps the invocation from being taken over while it runs.
    async fn keep<T>(&self, key: &ExecutionKey, ticket: &Ticket, invoked: impl Future<Output = T>) -> T {
        let engine = &self.durable;
        let mut invoked = std::pin::pin!(invoked);
        let Some(lease) = engine.node.lease else {
            return invoked.await;
        };
        loop {
            tokio::select! {
                done = &mut invoked => return done,
                () = tokio::time::sleep(lease / 3) => {}
            }
            let renewed = self
                .change_execution(key, |execution, now| {
                    Ok(execution.renew(ticket.token, engine.node, now))
                })
                .await;
            if let Err(error) = renewed {
                warn(key, &error, "the lease of an invocation is not renewed");
            }
        }
    }

    async fn event_of(&self, key: &ExecutionKey, ticket: &Ticket) -> Result<Prepared, Error> {
        let head = self.execution_head(key).await?;
        let page = self.operations_page(key, 0, PAGE_ITEMS_MAX, Some(ticket)).await?;
        if head.is_plain {
            let input = page.views.into_iter().next().and_then(|first| first.input);
            return Ok(Prepared {
                event: Bytes::from(input.unwrap_or_default()),
                trace_id: head.trace_id,
                arn: head.arn,
                is_plain: true,
            });
        }
        let envelope = Envelope {
            durable_execution_arn: head.arn.to_string(),
            checkpoint_token: ticket.token.to_string(),
            initial_execution_state: InitialState {
                operations: page
                    .views
                    .iter()
                    .map(|view| OperationShape::new(view, TimeForm::Millis))
                    .collect(),
                next_marker: page.next.map(|next| next.to_string()).unwrap_or_default(),
            },
            updated_operation_ids: page.news.iter().map(String::as_str).collect(),
        };
        let event = serde_json::to_vec(&envelope).map_err(Error::service)?;
        Ok(Prepared {
            event: event.into(),
            trace_id: head.trace_id,
            arn: head.arn,
            is_plain: false,
        })
    }
}

/// What a function is invoked with.
struct Prepared {
    event: Bytes,
    trace_id: Option<String>,
    arn: ExecutionArn,
    is_plain: bool,
}

fn durable_outcome(invoked: Result<InvocationResponse, Error>) -> Outcome {
    match invoked {
        Ok(response) => match response.result {
            Ok(answer) => read_answer(&answer).map_or_else(Outcome::Nonsense, Outcome::Answered),
            Err(error) => Outcome::Failed(function_error(&error)),
        },
        Err(error) => not_invoked(&error),
    }
}

fn plain_outcome(invoked: Result<InvocationResponse, Error>) -> Outcome {
    match invoked {
        Ok(response) => match response.result.map(|answer| String::from_utf8(answer.to_vec())) {
            Ok(Ok(text)) => Outcome::Plain(text),
            Ok(Err(_)) => Outcome::Nonsense("CHAINED_INVOKE response could not be decoded as UTF-8.".to_owned()),
            Err(error) => Outcome::Failed(function_error(&error)),
        },
        Err(error) => not_invoked(&error),
    }
}

fn not_invoked(error: &Error) -> Outcome {
    let error_type = match error {
        Error::NotFound(_) => "ResourceNotFoundException",
        Error::RequestTooLarge(_) => "RequestTooLargeException",
        Error::InvalidRequestContent(_) => "InvalidRequestContentException",
        Error::InvalidParameter(_) => "InvalidParameterValueException",
        _ => return Outcome::NotNow,
    };
    Outcome::Never(ErrorObject::new(error_type, error.to_string()))
}

/// A function's error as an execution keeps it.
fn function_error(error: &FunctionError) -> ErrorObject {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members {
        error_message: Option<String>,
        error_type: Option<String>,
        #[serde(default)]
        stack_trace: Option<serde_json::Value>,
    }
    let Ok(members) = serde_json::from_slice::<Members>(&error.payload) else {
        return ErrorObject::new(&error.error_type, String::from_utf8_lossy(&error.payload));
    };
    let frames = members.stack_trace.as_ref().and_then(serde_json::Value::as_array);
    let frames = frames.map(|frames| {
        frames
            .iter()
            .map(|frame| frame.as_str().map_or_else(|| frame.to_string(), str::to_owned))
    });
    ErrorObject {
        error_message: members.error_message,
        error_type: members.error_type.or_else(|| Some(error.error_type.clone())),
        error_data: None,
        stack_trace: frames.map(Iterator::collect),
    }
}
