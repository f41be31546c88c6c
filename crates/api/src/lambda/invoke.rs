//! Invoke, the path that must be fast: no maps, no intermediate JSON, headers made beforehand.

pub mod streaming;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::limits::CLIENT_CONTEXT_BYTES_MAX;
use bowline_functions::durable::{ExecutionArn, ExecutionName};
use bowline_functions::name::{FunctionRef, Version};
use bowline_functions::{InvocationRequest, InvocationResponse};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::read;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;
use crate::trace;

const INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");
const LOG_TYPE: HeaderName = HeaderName::from_static("x-amz-log-type");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("x-amz-client-context");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const TENANT_ID: HeaderName = HeaderName::from_static("x-amz-tenant-id");
const STRICT_VERSION: HeaderName = HeaderName::from_static("x-bowline-strict-version");
const DURABLE_NAME: HeaderName = HeaderName::from_static("x-amz-durable-execution-name");

const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
/// The fleet that the sandbox is in, where the account's instances are in fleets.
const FLEET: HeaderName = HeaderName::from_static("x-bowline-fleet");
/// Where the sandbox came from: a [`Rung`](bowline_functions::Rung)'s name.
const PROVISIONED: HeaderName = HeaderName::from_static("x-bowline-provisioned");
const DURABLE_ARN: HeaderName = HeaderName::from_static("x-amz-durable-execution-arn");
/// The node that ran the invocation, if another one did.
const NODE: HeaderName = HeaderName::from_static("x-bowline-node");
const REMAPPED_LENGTH: HeaderName = HeaderName::from_static("x-amzn-remapped-content-length");

const UNHANDLED: HeaderValue = HeaderValue::from_static("Unhandled");
const LATEST: HeaderValue = HeaderValue::from_static("$LATEST");
const ZERO: HeaderValue = HeaderValue::from_static("0");

/// Largest event of `InvokeAsync`.
const INVOKE_ASYNC_BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum InvocationType {
    RequestResponse,
    Event,
    DryRun,
}

/// `Invoke`.
pub async fn invoke(call: &Call<'_>, payload: Bytes) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let headers = call.headers;
    let kind = invocation_type(headers)?;
    refuse_modes(headers)?;
    let request = request(call, payload)?;
    let trace_id = trace_header(&request);
    if kind == InvocationType::DryRun {
        return dry_run(call, &target);
    }
    let name = execution_name(headers)?;
    let functions = &call.node.functions;
    if kind == InvocationType::Event {
        let execution = match name {
            None => functions.accept(&target, request).await?,
            Some(name) => Some(functions.accept_execution(&target, request, name).await?),
        };
        return Ok(accepted(execution, trace_id));
    }
    let answered = match name {
        None => functions.invoke(&target, request).await?,
        Some(name) => functions.invoke_execution(&target, request, name).await?,
    };
    Ok(respond(answered, trace_id))
}

fn request(call: &Call<'_>, payload: Bytes) -> Result<InvocationRequest, ApiError> {
    Ok(InvocationRequest {
        request_id: call.request_id,
        payload,
        client_context: client_context(call.headers)?,
        trace_id: Some(trace_id(call)?),
        log_tail: log_tail(call.headers)?,
        is_strict: is_strict(call.headers)?,
    })
}

/// The caller's, or a new one.
fn trace_id(call: &Call<'_>) -> Result<String, ApiError> {
    let given = text(call.headers, &TRACE_ID)?;
    Ok(match given {
        Some(given) => given.to_owned(),
        // Nobody samples it.
        None => format!("{};Sampled=0", trace::new_id(call.node)),
    })
}

fn trace_header(request: &InvocationRequest) -> Option<HeaderValue> {
    HeaderValue::from_str(request.trace_id.as_deref()?).ok()
}

fn dry_run(call: &Call<'_>, target: &FunctionRef) -> Result<Response<Body>, ApiError> {
    let version = call.node.functions.dry_run(target)?;
    let mut response = reply::empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(EXECUTED_VERSION, version_value(version));
    Ok(response)
}

/// `InvokeAsync`, the older way to leave an event with a function.
pub async fn invoke_async(call: &Call<'_>, payload: Bytes) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    if payload.len() > INVOKE_ASYNC_BYTES_MAX {
        return Err(ApiError::too_large(call.route.operation, INVOKE_ASYNC_BYTES_MAX));
    }
    let request = InvocationRequest {
        request_id: call.request_id,
        payload,
        client_context: None,
        trace_id: Some(trace_id(call)?),
        log_tail: false,
        is_strict: false,
    };
    call.node.functions.accept(&target, request).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &serde_json::json!({ "Status": 202 })))
}

/// The event is on disk; there is nothing more to say.
fn accepted(execution: Option<ExecutionArn>, trace_id: Option<HeaderValue>) -> Response<Body> {
    let mut response = reply::empty(StatusCode::ACCEPTED);
    let headers = response.headers_mut();
    headers.insert(REMAPPED_LENGTH, ZERO);
    name_execution(headers, execution);
    if let Some(trace_id) = trace_id {
        headers.insert(TRACE_ID, trace_id);
    }
    response
}

fn respond(answered: InvocationResponse, trace_id: Option<HeaderValue>) -> Response<Body> {
    let (payload, failed) = match answered.result {
        Ok(payload) => (payload, false),
        Err(error) => (error.payload, true),
    };
    let mut response = reply::json_bytes(StatusCode::OK, payload);
    let headers = response.headers_mut();
    headers.insert(REMAPPED_LENGTH, ZERO);
    headers.insert(EXECUTED_VERSION, version_value(answered.executed_version));
    if let Some(rung) = answered.rung {
        headers.insert(PROVISIONED, HeaderValue::from_static(rung.name()));
    }
    if let Some(stand) = answered.stand {
        let name = HeaderValue::try_from(stand.to_string()).expect("names of fleets are letters, digits and signs");
        headers.insert(FLEET, name);
    }
    name_execution(headers, answered.execution);
    name_node(headers, answered.node);
    if failed {
        headers.insert(FUNCTION_ERROR, UNHANDLED);
    }
    if let Some(tail) = answered.log_tail {
        let value = HeaderValue::from_str(&STANDARD.encode(tail)).expect("base64 is a header value");
        headers.insert(LOG_RESULT, value);
    }
    if let Some(trace_id) = trace_id {
        headers.insert(TRACE_ID, trace_id);
    }
    response
}

fn name_execution(headers: &mut HeaderMap, execution: Option<ExecutionArn>) {
    let arn = execution.and_then(|arn| HeaderValue::from_str(&arn.to_string()).ok());
    if let Some(arn) = arn {
        headers.insert(DURABLE_ARN, arn);
    }
}

fn name_node(headers: &mut HeaderMap, node: Option<u64>) {
    if let Some(node) = node {
        headers.insert(NODE, HeaderValue::from(node));
    }
}

fn version_value(version: Version) -> HeaderValue {
    match version {
        Version::Latest => LATEST,
        Version::Number(number) => HeaderValue::from(number),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    match headers.get(name) {
        None => Ok(None),
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("Header `{name}` is not ASCII text."))),
    }
}

fn invocation_type(headers: &HeaderMap) -> Result<InvocationType, ApiError> {
    match text(headers, &INVOCATION_TYPE)? {
        None | Some("RequestResponse") => Ok(InvocationType::RequestResponse),
        Some("DryRun") => Ok(InvocationType::DryRun),
        Some("Event") => Ok(InvocationType::Event),
        Some(other) => Err(read::invalid(
            other,
            "invocationType",
            "Member must satisfy enum value set: [Event, RequestResponse, DryRun]",
        )),
    }
}

fn log_tail(headers: &HeaderMap) -> Result<bool, ApiError> {
    match text(headers, &LOG_TYPE)? {
        None | Some("None") => Ok(false),
        Some("Tail") => Ok(true),
        Some(other) => Err(read::invalid(
            other,
            "logType",
            "Member must satisfy enum value set: [Tail, None]",
        )),
    }
}

/// Whether an older version may not answer while a newer one is made ready.
fn is_strict(headers: &HeaderMap) -> Result<bool, ApiError> {
    match text(headers, &STRICT_VERSION)? {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(ApiError::invalid(format!(
            "Header `{STRICT_VERSION}` is `{other}`; expected `true` or `false`."
        ))),
    }
}

/// Kinds of functions that this node does not have.
fn refuse_modes(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(TENANT_ID) {
        return Err(ApiError::invalid(
            "The invoked function is not enabled with tenancy configuration. \
             Remove the tenant id from the request and try again.",
        ));
    }
    Ok(())
}

/// The name that an execution is to have; only durable functions take one.
fn execution_name(headers: &HeaderMap) -> Result<Option<ExecutionName>, ApiError> {
    let Some(name) = text(headers, &DURABLE_NAME)? else {
        return Ok(None);
    };
    let read = name.parse().map(Some);
    read.map_err(|_| {
        let constraint = "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]{1,64}";
        read::invalid(name, "durableExecutionName", constraint)
    })
}

/// The client context, decoded; it must be JSON.
fn client_context(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(encoded) = text(headers, &CLIENT_CONTEXT)? else {
        return Ok(None);
    };
    let refuse = |message: &str| ApiError::new(Exception::InvalidRequestContent, message);
    if encoded.len() > CLIENT_CONTEXT_BYTES_MAX {
        return Err(refuse(&format!(
            "Client context must be at most {CLIENT_CONTEXT_BYTES_MAX} bytes of base64; it has {}.",
            encoded.len()
        )));
    }
    let decoded = STANDARD
        .decode(encoded)
        .ok()
        .and_then(|raw| String::from_utf8(raw).ok());
    match decoded {
        Some(json) if serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok() => Ok(Some(json)),
        _ => Err(refuse("Client context must be a valid Base64-encoded JSON object.")),
    }
}
