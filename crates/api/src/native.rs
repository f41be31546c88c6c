//! The node's own endpoints: for operators, and what Lambda's API has no operation for.

pub mod images;
mod logs;
pub mod sizing;

use bowline_functions::name::FunctionRef;
use bowline_functions::name::layer::LayerRef;
use bowline_sandbox::Suspendable;
use http::{HeaderValue, Response, StatusCode};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use serde::Serialize;

use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::{ApiError, Exception};
use crate::reply;

pub use logs::read_logs;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

const WELCOME: &str = "\
This is a Bowline node. It speaks the AWS Lambda API.

  aws lambda list-functions --endpoint-url http://THIS-ADDRESS

  /healthz   whether the node answers
  /metrics   counts and gauges for Prometheus
  /v1/functions/NAME/logs?bytes=N&follow=true
  /v1/functions/NAME/code?version=VERSION
  /v1/functions/NAME/sizing?version=VERSION
  /v1/functions/NAME/checkpointing?version=VERSION   whether invocations can be suspended
  /v1/images   container images for functions
  /v1/openapi.json   streams, sessions, objects, checkpoints, instances: /v1/streams, ...
";

/// `GET /`: what this is.
pub fn welcome() -> Response<Body> {
    reply::text(StatusCode::OK, WELCOME)
}

/// `GET /healthz`.
pub fn health() -> Response<Body> {
    reply::text(StatusCode::OK, "ok\n")
}

/// `GET /metrics`: the server's own counts, then those of the node.
pub async fn metrics(node: &Node) -> Result<Response<Body>, ApiError> {
    if let Some(data) = &node.data {
        data.refresh_metrics(&node.clock).await;
    }
    let mut text = String::with_capacity(16 * 1024);
    encode_registry(&mut text, &node.http_registry)
        .and_then(|()| encode_registry(&mut text, &node.registry))
        .and_then(|()| encode_eof(&mut text))
        .map_err(|error| ApiError::new(Exception::Service, format!("cannot encode the metrics: {error}")))?;
    Ok(reply::whole(StatusCode::OK, OPEN_METRICS, text.into()))
}

/// `GET /v1/functions/{name}/code`: the deployment package as uploaded.
pub async fn read_code(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = function(call)?;
    let package = call.node.functions.read_code(&target).await?;
    Ok(reply::whole(StatusCode::OK, OCTETS, package))
}

/// Whether a version's invocations can be suspended.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpointing {
    /// `off`, `on` or `refused`.
    checkpointing: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /v1/functions/{name}/checkpointing`: whether invocations can be suspended, and why not.
pub async fn read_checkpointing(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = function(call)?;
    let (checkpointing, reason) = match call.node.functions.suspendable(&target).await? {
        Suspendable::Unasked => ("off", None),
        Suspendable::Yes => ("on", None),
        Suspendable::Refused(reason) => ("refused", Some(reason)),
    };
    Ok(reply::json(StatusCode::OK, &Checkpointing { checkpointing, reason }))
}

/// `GET /v1/layers/{name}/versions/{number}/content`: the archive as uploaded. `account` may stand in
/// the query, for links carry no headers; a node that looks at no signatures takes its word for it.
pub async fn read_layer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let account = call.route.query.get("account").and_then(|text| text.parse().ok());
    let owner = account.unwrap_or_else(|| call.account.clone());
    let layer = LayerRef::parse(&call.route.resource, &owner)?;
    let mut caller = call.caller();
    if call.key.is_none() {
        caller.account = owner;
    }
    let number = call.route.part.parse().map_err(|_| ApiError::no_such_resource())?;
    let archive = call.node.functions.read_layer(&caller, &layer, number).await?;
    Ok(reply::whole(StatusCode::OK, OCTETS, archive))
}

/// The function in the path; `version` and `account` may stand in the query, for links carry no headers. A node that
/// looks at no signatures takes the account's word for it.
fn function(call: &Call<'_>) -> Result<FunctionRef, ApiError> {
    let query = call.route.query;
    let account = query.get("account").and_then(|text| text.parse().ok());
    let account = account.as_ref().unwrap_or(&call.account);
    let version = query.get("version");
    let target = FunctionRef::parse(&call.route.resource, version.as_deref(), account)?;
    call.node.reachable(&call.route.resource)?;
    if call.key.is_some() && target.account != call.account {
        let action = call.route.operation.action();
        call.node.functions.authorize(&call.account, action, &target)?;
    }
    Ok(target)
}
