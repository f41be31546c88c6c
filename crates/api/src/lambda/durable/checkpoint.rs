//! `CheckpointDurableExecution` and `GetDurableExecutionState`, for callers and for functions themselves.

use bowline_functions::Handle;
use bowline_functions::durable::shape::{OperationShape, TimeForm};
use bowline_functions::durable::{CheckpointBody, CheckpointRequest, CheckpointToken, ExecutionArn, OperationView};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;

use super::query::paging;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::lambda::read;
use crate::reply;
use crate::route::Query;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Made<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_token: Option<String>,
    new_execution_state: State<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State<'a> {
    operations: Vec<OperationShape<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

impl<'a> State<'a> {
    fn new(views: &'a [OperationView], next_marker: Option<String>) -> Self {
        let shapes = views.iter().map(|view| OperationShape::new(view, TimeForm::Seconds));
        Self {
            operations: shapes.collect(),
            next_marker,
        }
    }
}

/// `CheckpointDurableExecution`.
pub async fn make(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let made = made(&call.node.functions, &arn, body).await?;
    Ok(reply::json_bytes(StatusCode::OK, made))
}

/// `GetDurableExecutionState`.
pub async fn state(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let state = state_of(&call.node.functions, &arn, call.route.query).await?;
    Ok(reply::json_bytes(StatusCode::OK, state))
}

/// Makes a checkpoint; returns the answer's JSON.
pub(super) async fn made(functions: &Handle, arn: &ExecutionArn, body: &[u8]) -> Result<Bytes, ApiError> {
    let body: CheckpointBody = read::json(body)?;
    let answer = functions.checkpoint(arn, CheckpointRequest::read(body)?).await?;
    Ok(json(&Made {
        checkpoint_token: answer.token.map(|token| token.to_string()),
        new_execution_state: State::new(&answer.news.items, answer.news.next_marker),
    }))
}

/// Reads the state; returns the answer's JSON.
pub(super) async fn state_of(functions: &Handle, arn: &ExecutionArn, query: Query<'_>) -> Result<Bytes, ApiError> {
    let token = query.get("CheckpointToken").unwrap_or_default();
    // A plus sign that was not encoded reads as a space.
    let token: Result<CheckpointToken, _> = token.replace(' ', "+").parse();
    let token = token.map_err(|_| ApiError::invalid("Invalid checkpoint token: it is no token."))?;
    let found = functions.execution_state(arn, token, &paging(query)?).await?;
    Ok(json(&State::new(&found.items, found.next_marker)))
}

fn json(value: &impl Serialize) -> Bytes {
    let bytes = serde_json::to_vec(value).expect("wire types have string keys and finite numbers");
    bytes.into()
}
