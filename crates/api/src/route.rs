//! Which operation a method, a path and a query mean.
//!
//! The same path under another date prefix is another operation; a resource may be percent-encoded
//! and may hold colons and slashes; trailing slashes occur. Nothing here allocates unless a part is
//! percent-encoded.

pub mod data;
mod operation;
mod query;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

pub use operation::Operation;
pub use query::Query;

/// The longest path any operation has, in segments.
const SEGMENTS_MAX: usize = 7;

/// An operation with what its path and query say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    pub operation: Operation,
    /// The second segment after the prefix: a function, an ARN, a layer, a UUID. Empty if there is none.
    pub resource: Cow<'a, str>,
    /// The fourth segment after the prefix: an alias, say. Empty if there is none.
    pub part: Cow<'a, str>,
    /// The sixth segment after the prefix: a layer's statement. Empty if there is none.
    pub leaf: Cow<'a, str>,
    pub query: Query<'a>,
}

/// Why a path means no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("no operation has this method and path")]
    Unknown,
    #[error("this path has no such method")]
    Method,
    #[error("the path is not percent-encoded UTF-8")]
    Encoding,
}

/// Finds the operation of a request line.
pub fn resolve<'a>(method: &str, path_and_query: &'a str) -> Result<Route<'a>, RouteError> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let query = Query::new(query);
    let mut segments = [""; SEGMENTS_MAX];
    let count = split(path, &mut segments).ok_or(RouteError::Unknown)?;
    let (operation, rest) = match &segments[..count] {
        ["v1", rest @ ..] if data::begins(rest) => (Some(data::resolve(method, rest)?), rest),
        [prefix, rest @ ..] if !rest.is_empty() => (dated(method, prefix, rest, query), rest),
        whole => (undated(method, whole), &[][..]),
    };
    Ok(Route {
        operation: operation.ok_or(RouteError::Unknown)?,
        resource: decode(rest.get(1).copied().unwrap_or_default())?,
        part: decode(rest.get(3).copied().unwrap_or_default())?,
        leaf: decode(rest.get(5).copied().unwrap_or_default())?,
        query,
    })
}

/// Cuts a path at its slashes; trailing slashes make no segment. `None` if there are too many.
fn split<'a>(path: &'a str, segments: &mut [&'a str; SEGMENTS_MAX]) -> Option<usize> {
    let path = path.strip_prefix('/')?.trim_end_matches('/');
    if path.is_empty() {
        return Some(0);
    }
    let mut count = 0;
    for segment in path.split('/') {
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    Some(count)
}

fn decode(segment: &str) -> Result<Cow<'_, str>, RouteError> {
    if segment.as_bytes().contains(&b'%') {
        percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| RouteError::Encoding)
    } else {
        Ok(Cow::Borrowed(segment))
    }
}

fn undated(method: &str, segments: &[&str]) -> Option<Operation> {
    match (method, segments) {
        ("GET" | "HEAD", []) => Some(Operation::Welcome),
        ("GET" | "HEAD", ["healthz"]) => Some(Operation::Health),
        ("GET" | "HEAD", ["metrics"]) => Some(Operation::Metrics),
        _ => None,
    }
}

fn dated(method: &str, prefix: &str, rest: &[&str], query: Query<'_>) -> Option<Operation> {
    match prefix {
        "2015-03-31" => core(method, rest),
        "v1" => native(method, rest),
        "2014-11-13" => one(method, rest, "POST", "invoke-async", Operation::InvokeAsync),
        "2016-08-19" => (method == "GET" && rest == ["account-settings"]).then_some(Operation::GetAccountSettings),
        "2017-03-31" => tags(method, rest),
        "2017-10-31" => concurrency(method, rest),
        "2018-10-31" => layers(method, rest, query),
        "2019-09-25" => event_invoke(method, rest),
        "2019-09-30" => provisioned(method, rest, query),
        "2020-04-22" => code_signing(method, rest),
        "2020-06-30" => function_code_signing(method, rest),
        "2021-07-20" => runtime_management(method, rest),
        "2021-10-31" => function_url(method, rest),
        "2021-11-15" => one(
            method,
            rest,
            "POST",
            "response-streaming-invocations",
            Operation::InvokeWithResponseStream,
        ),
        "2024-08-31" => recursion(method, rest),
        "2025-11-30" => capacity(method, rest),
        "2025-12-01" => durable(method, rest),
        "2026-07-09" => resource_policy(method, rest),
        _ => None,
    }
}

fn one(method: &str, rest: &[&str], wanted: &str, leaf: &str, operation: Operation) -> Option<Operation> {
    match rest {
        ["functions", _, last] if *last == leaf && method == wanted => Some(operation),
        _ => None,
    }
}

fn core(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("POST", ["functions", _, "invocations"]) => Some(Invoke),
        ("POST", ["functions"]) => Some(CreateFunction),
        ("GET", ["functions"]) => Some(ListFunctions),
        ("GET", ["functions", _]) => Some(GetFunction),
        ("DELETE", ["functions", _]) => Some(DeleteFunction),
        ("GET", ["functions", _, "configuration"]) => Some(GetFunctionConfiguration),
        ("PUT", ["functions", _, "configuration"]) => Some(UpdateFunctionConfiguration),
        ("PUT", ["functions", _, "code"]) => Some(UpdateFunctionCode),
        ("POST", ["functions", _, "versions"]) => Some(PublishVersion),
        ("GET", ["functions", _, "versions"]) => Some(ListVersionsByFunction),
        ("POST", ["functions", _, "aliases"]) => Some(CreateAlias),
        ("GET", ["functions", _, "aliases"]) => Some(ListAliases),
        ("GET", ["functions", _, "aliases", _]) => Some(GetAlias),
        ("PUT", ["functions", _, "aliases", _]) => Some(UpdateAlias),
        ("DELETE", ["functions", _, "aliases", _]) => Some(DeleteAlias),
        ("POST", ["functions", _, "policy"]) => Some(AddPermission),
        ("GET", ["functions", _, "policy"]) => Some(GetPolicy),
        ("DELETE", ["functions", _, "policy", _]) => Some(RemovePermission),
        ("POST", ["event-source-mappings"]) => Some(CreateEventSourceMapping),
        ("GET", ["event-source-mappings"]) => Some(ListEventSourceMappings),
        ("GET", ["event-source-mappings", _]) => Some(GetEventSourceMapping),
        ("PUT", ["event-source-mappings", _]) => Some(UpdateEventSourceMapping),
        ("DELETE", ["event-source-mappings", _]) => Some(DeleteEventSourceMapping),
        _ => None,
    }
}

fn native(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("GET", ["functions", _, "logs"]) => Some(Operation::ReadLogs),
        ("GET", ["functions", _, "code"]) => Some(Operation::ReadCode),
        ("GET", ["functions", _, "sizing"]) => Some(Operation::GetSizing),
        ("POST", ["functions", _, "sizing"]) => Some(Operation::ChangeSizing),
        ("GET", ["functions", _, "checkpointing"]) => Some(Operation::ReadCheckpointing),
        ("GET", ["layers", _, "versions", _, "content"]) => Some(Operation::ReadLayer),
        ("GET", ["images"]) => Some(Operation::ListImages),
        ("PUT", ["images", _]) => Some(Operation::PushImage),
        ("DELETE", ["images", _]) => Some(Operation::DeleteImage),
        _ => None,
    }
}

fn tags(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("GET", ["tags", _]) => Some(Operation::ListTags),
        ("POST", ["tags", _]) => Some(Operation::TagResource),
        ("DELETE", ["tags", _]) => Some(Operation::UntagResource),
        _ => None,
    }
}

fn concurrency(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("PUT", ["functions", _, "concurrency"]) => Some(Operation::PutFunctionConcurrency),
        ("DELETE", ["functions", _, "concurrency"]) => Some(Operation::DeleteFunctionConcurrency),
        _ => None,
    }
}

fn layers(method: &str, rest: &[&str], query: Query<'_>) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("GET", ["layers"]) if query.is("find", "LayerVersion") => Some(GetLayerVersionByArn),
        ("GET", ["layers"]) => Some(ListLayers),
        ("POST", ["layers", _, "versions"]) => Some(PublishLayerVersion),
        ("GET", ["layers", _, "versions"]) => Some(ListLayerVersions),
        ("GET", ["layers", _, "versions", _]) => Some(GetLayerVersion),
        ("DELETE", ["layers", _, "versions", _]) => Some(DeleteLayerVersion),
        ("POST", ["layers", _, "versions", _, "policy"]) => Some(AddLayerVersionPermission),
        ("GET", ["layers", _, "versions", _, "policy"]) => Some(GetLayerVersionPolicy),
        ("DELETE", ["layers", _, "versions", _, "policy", _]) => Some(RemoveLayerVersionPermission),
        _ => None,
    }
}

fn event_invoke(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("PUT", ["functions", _, "event-invoke-config"]) => Some(PutFunctionEventInvokeConfig),
        ("POST", ["functions", _, "event-invoke-config"]) => Some(UpdateFunctionEventInvokeConfig),
        ("GET", ["functions", _, "event-invoke-config"]) => Some(GetFunctionEventInvokeConfig),
        ("DELETE", ["functions", _, "event-invoke-config"]) => Some(DeleteFunctionEventInvokeConfig),
        ("GET", ["functions", _, "event-invoke-config", "list"]) => Some(ListFunctionEventInvokeConfigs),
        _ => None,
    }
}

fn provisioned(method: &str, rest: &[&str], query: Query<'_>) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("GET", ["functions", _, "concurrency"]) => Some(GetFunctionConcurrency),
        ("PUT", ["functions", _, "provisioned-concurrency"]) => Some(PutProvisionedConcurrencyConfig),
        ("GET", ["functions", _, "provisioned-concurrency"]) if query.is("List", "ALL") => {
            Some(ListProvisionedConcurrencyConfigs)
        }
        ("GET", ["functions", _, "provisioned-concurrency"]) => Some(GetProvisionedConcurrencyConfig),
        ("DELETE", ["functions", _, "provisioned-concurrency"]) => Some(DeleteProvisionedConcurrencyConfig),
        _ => None,
    }
}

fn code_signing(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("POST", ["code-signing-configs"]) => Some(CreateCodeSigningConfig),
        ("GET", ["code-signing-configs"]) => Some(ListCodeSigningConfigs),
        ("GET", ["code-signing-configs", _]) => Some(GetCodeSigningConfig),
        ("PUT", ["code-signing-configs", _]) => Some(UpdateCodeSigningConfig),
        ("DELETE", ["code-signing-configs", _]) => Some(DeleteCodeSigningConfig),
        ("GET", ["code-signing-configs", _, "functions"]) => Some(ListFunctionsByCodeSigningConfig),
        _ => None,
    }
}

fn function_code_signing(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("PUT", ["functions", _, "code-signing-config"]) => Some(PutFunctionCodeSigningConfig),
        ("GET", ["functions", _, "code-signing-config"]) => Some(GetFunctionCodeSigningConfig),
        ("DELETE", ["functions", _, "code-signing-config"]) => Some(DeleteFunctionCodeSigningConfig),
        _ => None,
    }
}

fn runtime_management(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("GET", ["functions", _, "runtime-management-config"]) => Some(Operation::GetRuntimeManagementConfig),
        ("PUT", ["functions", _, "runtime-management-config"]) => Some(Operation::PutRuntimeManagementConfig),
        _ => None,
    }
}

fn function_url(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("POST", ["functions", _, "url"]) => Some(CreateFunctionUrlConfig),
        ("GET", ["functions", _, "url"]) => Some(GetFunctionUrlConfig),
        ("PUT", ["functions", _, "url"]) => Some(UpdateFunctionUrlConfig),
        ("DELETE", ["functions", _, "url"]) => Some(DeleteFunctionUrlConfig),
        ("GET", ["functions", _, "urls"]) => Some(ListFunctionUrlConfigs),
        _ => None,
    }
}

fn recursion(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("GET", ["functions", _, "recursion-config"]) => Some(Operation::GetFunctionRecursionConfig),
        ("PUT", ["functions", _, "recursion-config"]) => Some(Operation::PutFunctionRecursionConfig),
        _ => None,
    }
}

fn capacity(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("POST", ["capacity-providers"]) => Some(CreateCapacityProvider),
        ("GET", ["capacity-providers"]) => Some(ListCapacityProviders),
        ("GET", ["capacity-providers", _]) => Some(GetCapacityProvider),
        ("PUT", ["capacity-providers", _]) => Some(UpdateCapacityProvider),
        ("DELETE", ["capacity-providers", _]) => Some(DeleteCapacityProvider),
        ("GET", ["capacity-providers", _, "function-versions"]) => Some(ListFunctionVersionsByCapacityProvider),
        ("GET", ["functions", _, "function-scaling-config"]) => Some(GetFunctionScalingConfig),
        ("PUT", ["functions", _, "function-scaling-config"]) => Some(PutFunctionScalingConfig),
        _ => None,
    }
}

fn durable(method: &str, rest: &[&str]) -> Option<Operation> {
    use Operation::*;
    match (method, rest) {
        ("GET", ["durable-executions", _]) => Some(GetDurableExecution),
        ("DELETE", ["durable-executions", _]) => Some(DeleteDurableExecution),
        ("GET", ["durable-executions", _, "history"]) => Some(GetDurableExecutionHistory),
        ("GET", ["durable-executions", _, "state"]) => Some(GetDurableExecutionState),
        ("POST", ["durable-executions", _, "checkpoint"]) => Some(CheckpointDurableExecution),
        ("POST", ["durable-executions", _, "stop"]) => Some(StopDurableExecution),
        ("POST", ["durable-executions", _, "pause"]) => Some(PauseDurableExecution),
        ("POST", ["durable-executions", _, "resume"]) => Some(ResumeDurableExecution),
        ("GET", ["functions", _, "durable-executions"]) => Some(ListDurableExecutionsByFunction),
        ("POST", ["durable-execution-callbacks", _, "succeed"]) => Some(SendDurableExecutionCallbackSuccess),
        ("POST", ["durable-execution-callbacks", _, "fail"]) => Some(SendDurableExecutionCallbackFailure),
        ("POST", ["durable-execution-callbacks", _, "heartbeat"]) => Some(SendDurableExecutionCallbackHeartbeat),
        _ => None,
    }
}

fn resource_policy(method: &str, rest: &[&str]) -> Option<Operation> {
    match (method, rest) {
        ("GET", ["resource-policy", _]) => Some(Operation::GetResourcePolicy),
        ("PUT", ["resource-policy", _]) => Some(Operation::PutResourcePolicy),
        ("DELETE", ["resource-policy", _]) => Some(Operation::DeleteResourcePolicy),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
