//! Durable executions: thirteen operations, and the two of them that functions may use themselves.

mod callback;
mod checkpoint;
mod configuration;
mod control;
mod guest;
mod history;
mod query;

use bowline_functions::durable::ExecutionArn;
use bytes::Bytes;
use http::Response;

pub use configuration::{DurableConfigShape, settings};
pub use guest::GuestWire;

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::route::Operation;

/// Runs an operation of durable executions; `None` if it is not one.
pub async fn answer(call: &Call<'_>, body: &Bytes) -> Option<Result<Response<Body>, ApiError>> {
    Some(match call.route.operation {
        Operation::GetDurableExecution => query::get(call).await,
        Operation::ListDurableExecutionsByFunction => query::list(call).await,
        Operation::GetDurableExecutionHistory => history::get(call).await,
        Operation::GetDurableExecutionState => checkpoint::state(call).await,
        Operation::CheckpointDurableExecution => checkpoint::make(call, body).await,
        Operation::StopDurableExecution => control::stop(call, body).await,
        Operation::PauseDurableExecution => control::pause(call, body).await,
        Operation::ResumeDurableExecution => control::resume(call, body).await,
        Operation::DeleteDurableExecution => control::delete(call).await,
        Operation::SendDurableExecutionCallbackSuccess => callback::succeed(call, body.clone()).await,
        Operation::SendDurableExecutionCallbackFailure => callback::fail(call, body).await,
        Operation::SendDurableExecutionCallbackHeartbeat => callback::heartbeat(call).await,
        _ => return None,
    })
}

/// The ARN in the path.
fn arn(text: &str) -> Result<ExecutionArn, ApiError> {
    text.parse().map_err(|_| {
        ApiError::new(
            Exception::InvalidParameterValue,
            format!(
                "1 validation error detected: Value '{}' at 'durableExecutionArn' failed to satisfy constraint: \
                 Member must be the ARN of a durable execution",
                text.chars().take(256).collect::<String>()
            ),
        )
    })
}

/// The execution that the path names, if the caller may do with its function what it asks.
fn named(call: &Call<'_>) -> Result<ExecutionArn, ApiError> {
    let arn = arn(&call.route.resource)?;
    call.named_function(&arn.function_arn(), None)?;
    Ok(arn)
}
