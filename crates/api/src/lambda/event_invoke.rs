//! How the events of a function, version or alias are treated.

use bowline_functions::model::events::{EventInvokeConfig, PutEventInvoke, PutMode};
use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::destination::{self, Destination, DestinationConfig, may_send, seconds};
use super::read;
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::ApiError;
use crate::reply;

#[derive(Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    maximum_retry_attempts: Option<i64>,
    maximum_event_age_in_seconds: Option<i64>,
    destination_config: Option<DestinationConfig>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    last_modified: f64,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_retry_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_event_age_in_seconds: Option<u32>,
    destination_config: DestinationConfig,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListResponse {
    function_event_invoke_configs: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

impl Shown {
    fn new(node: &Node, config: EventInvokeConfig) -> Self {
        let settings = config.settings;
        Self {
            last_modified: seconds(config.last_modified),
            function_arn: node
                .functions
                .arn(&config.account, &config.function, Some(&config.qualifier)),
            maximum_retry_attempts: settings.retries_max,
            maximum_event_age_in_seconds: settings.age_seconds_max,
            destination_config: DestinationConfig {
                on_success: Some(Destination::new(settings.on_success)),
                on_failure: Some(Destination::new(settings.on_failure)),
            },
        }
    }
}

/// `PutFunctionEventInvokeConfig` and `UpdateFunctionEventInvokeConfig`.
pub async fn put(call: &Call<'_>, body: &[u8], mode: PutMode) -> Result<Response<Body>, ApiError> {
    let target = existing(call)?;
    let request: PutRequest = read::json(body)?;
    if request == PutRequest::default() {
        return Err(ApiError::invalid(
            "You must specify at least one of error handling or destination setting.",
        ));
    }
    let destinations = request.destination_config.unwrap_or_default();
    let put = PutEventInvoke {
        retries_max: request.maximum_retry_attempts,
        age_seconds_max: request.maximum_event_age_in_seconds,
        on_success: destinations.on_success.map(Destination::arn),
        on_failure: destinations.on_failure.map(Destination::arn),
    };
    for (member, arn) in [("onSuccess", &put.on_success), ("onFailure", &put.on_failure)] {
        let Some(arn) = arn.as_deref().filter(|arn| !arn.is_empty()) else {
            continue;
        };
        destination::check(member, arn)?;
        may_send(call, arn)?;
    }
    let functions = &call.node.functions;
    let config = functions.put_event_invoke(&call.caller(), &target, put, mode).await?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call.node, config)))
}

/// `GetFunctionEventInvokeConfig`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let config = call.node.functions.get_event_invoke(&existing(call)?)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call.node, config)))
}

/// `DeleteFunctionEventInvokeConfig`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = existing(call)?;
    call.node.functions.delete_event_invoke(&call.caller(), &target).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `ListFunctionEventInvokeConfigs`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let page = read::short_page(call.route.query)?;
    let found = call.node.functions.list_event_invokes(&call.function()?, &page)?;
    let configs = found.items.into_iter();
    let shown = ListResponse {
        function_event_invoke_configs: configs.map(|config| Shown::new(call.node, config)).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// The target, which must exist.
fn existing(call: &Call<'_>) -> Result<FunctionRef, ApiError> {
    let target = call.qualified_function()?;
    call.node.functions.get_function(&target)?;
    Ok(target)
}
