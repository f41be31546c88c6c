//! Provisioned concurrency.

use bowline_functions::model::attached::{ProvisionedConfig, ProvisionedStatus};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    provisioned_concurrent_executions: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    /// In lists only.
    #[serde(skip_serializing_if = "Option::is_none")]
    function_arn: Option<String>,
    requested_provisioned_concurrent_executions: u32,
    available_provisioned_concurrent_executions: u32,
    allocated_provisioned_concurrent_executions: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    last_modified: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListResponse {
    provisioned_concurrency_configs: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

impl Shown {
    fn new(config: ProvisionedConfig) -> Self {
        let (status, status_reason) = match config.status {
            ProvisionedStatus::InProgress => ("IN_PROGRESS", None),
            ProvisionedStatus::Ready => ("READY", None),
            ProvisionedStatus::Failed(reason) => ("FAILED", Some(reason)),
        };
        Self {
            function_arn: None,
            requested_provisioned_concurrent_executions: config.settings.requested,
            available_provisioned_concurrent_executions: config.available,
            allocated_provisioned_concurrent_executions: config.available,
            status,
            status_reason,
            last_modified: config.settings.last_modified.to_lambda_string(),
        }
    }

    fn listed(node: &Node, config: ProvisionedConfig) -> Self {
        let target = config.target.clone();
        let arn = node
            .functions
            .arn(&target.account, &target.name, target.qualifier.as_ref());
        Self {
            function_arn: Some(arn),
            ..Self::new(config)
        }
    }
}

/// `PutProvisionedConcurrencyConfig`.
pub async fn put(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let request: PutRequest = read::json(body)?;
    let wanted = request.provisioned_concurrent_executions;
    let mut violations = Violations::default();
    violations.require("qualifier", target.qualifier.as_ref());
    violations.require("provisionedConcurrentExecutions", wanted.as_ref());
    violations.at_least("provisionedConcurrentExecutions", wanted.unwrap_or(1), 1);
    violations.finish()?;
    // More than 32 bits hold is more than any account has, and is refused as such.
    let wanted = u32::try_from(wanted.unwrap_or(1)).unwrap_or(u32::MAX);
    let functions = &call.node.functions;
    let config = functions.put_provisioned(&call.caller(), &target, wanted).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Shown::new(config)))
}

/// `GetProvisionedConcurrencyConfig`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let config = call.node.functions.get_provisioned(&call.qualified_function()?)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(config)))
}

/// `DeleteProvisionedConcurrencyConfig`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    call.node.functions.delete_provisioned(&call.caller(), &target).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `ListProvisionedConcurrencyConfigs`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let page = read::short_page(call.route.query)?;
    let found = call.node.functions.list_provisioned(&call.function()?, &page)?;
    let configs = found.items.into_iter();
    let shown = ListResponse {
        provisioned_concurrency_configs: configs.map(|config| Shown::listed(call.node, config)).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}
