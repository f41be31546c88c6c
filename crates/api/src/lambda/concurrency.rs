//! Reserved concurrency.

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    reserved_concurrent_executions: Option<i64>,
}

/// The wire's shape of a reservation.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Concurrency {
    reserved_concurrent_executions: u32,
}

impl Concurrency {
    pub fn new(reserved: u32) -> Self {
        Self {
            reserved_concurrent_executions: reserved,
        }
    }
}

/// `PutFunctionConcurrency`.
pub async fn put(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: PutRequest = read::json(body)?;
    let wanted = request.reserved_concurrent_executions;
    let mut violations = Violations::default();
    violations.require("reservedConcurrentExecutions", wanted.as_ref());
    violations.at_least("reservedConcurrentExecutions", wanted.unwrap_or(0), 0);
    violations.finish()?;
    // More than 32 bits hold is more than any account has, and is refused as such.
    let reserved = u32::try_from(wanted.unwrap_or(0)).unwrap_or(u32::MAX);
    call.node
        .functions
        .set_reserved_concurrency(&call.caller(), &target, Some(reserved))
        .await?;
    Ok(reply::json(StatusCode::OK, &Concurrency::new(reserved)))
}

/// `GetFunctionConcurrency`: an empty object without a reservation.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let view = call.node.functions.get_function(&call.function()?)?;
    Ok(match view.reserved_concurrency {
        Some(reserved) => reply::json(StatusCode::OK, &Concurrency::new(reserved)),
        None => reply::json(StatusCode::OK, &Map::new()),
    })
}

/// `DeleteFunctionConcurrency`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    call.node
        .functions
        .set_reserved_concurrency(&call.caller(), &target, None)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
