//! `StopDurableExecution`, `PauseDurableExecution`, `ResumeDurableExecution`, `DeleteDurableExecution`.

use bowline_functions::durable::shape::Moment;
use bowline_functions::durable::{ControlBody, ErrorObject};
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::lambda::read;
use crate::reply;

/// `StopDurableExecution`; the body is the error it ends with.
pub async fn stop(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let error = if body.is_empty() {
        None
    } else {
        Some(read::json::<ErrorObject>(body)?)
    };
    let stopped = call.node.functions.stop_execution(&arn, error).await?;
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "StopTimestamp": Moment::seconds(stopped) }),
    ))
}

/// `PauseDurableExecution`.
pub async fn pause(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let request: ControlBody = read::json(body)?;
    call.node.functions.pause_execution(&arn, request).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &json!({})))
}

/// `ResumeDurableExecution`.
pub async fn resume(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let request: ControlBody = read::json(body)?;
    call.node.functions.resume_execution(&arn, request).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &json!({})))
}

/// `DeleteDurableExecution`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let accepted = call.node.functions.delete_execution(&arn).await?;
    let shown = json!({ "DeletionRequestTimestamp": Moment::seconds(accepted) });
    Ok(reply::json(StatusCode::ACCEPTED, &shown))
}
