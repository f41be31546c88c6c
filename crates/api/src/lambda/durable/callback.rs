//! `SendDurableExecutionCallbackSuccess`, `-Failure` and `-Heartbeat`.

use bowline_functions::durable::{Callback, CallbackId, ErrorObject};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::lambda::read;
use crate::reply;

/// `SendDurableExecutionCallbackSuccess`; the body is the result.
pub async fn succeed(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, ApiError> {
    send(call, Callback::Success(body)).await
}

/// `SendDurableExecutionCallbackFailure`; the body is the error.
pub async fn fail(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let error: ErrorObject = read::json(body)?;
    send(call, Callback::Failure(error)).await
}

/// `SendDurableExecutionCallbackHeartbeat`.
pub async fn heartbeat(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    send(call, Callback::Heartbeat).await
}

async fn send(call: &Call<'_>, verdict: Callback) -> Result<Response<Body>, ApiError> {
    let text = &call.route.resource;
    if let Ok(id) = text.parse::<CallbackId>() {
        call.named_function(&format!("{}:function:{}", id.key.account, id.key.function), None)?;
    }
    call.node.functions.complete_callback(text, verdict).await?;
    Ok(reply::json(StatusCode::OK, &json!({})))
}
