//! Tags of functions, as wholes, and of event source mappings; both are reached by their ARNs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bowline_foundation::id::AccountId;
use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagRequest {
    tags: Option<BTreeMap<String, String>>,
}

/// What tags can be on.
enum Target {
    Function(FunctionRef),
    /// By its identifier.
    Mapping(String),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListTagsResponse {
    tags: BTreeMap<String, String>,
}

/// `ListTags`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let functions = &call.node.functions;
    let tags = match target(call)? {
        Target::Function(function) => functions.list_tags(&function)?,
        Target::Mapping(id) => mapping_tags(call, &id)?,
    };
    Ok(reply::json(StatusCode::OK, &ListTagsResponse { tags }))
}

/// `TagResource`.
pub async fn add(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = target(call)?;
    let request: TagRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("tags", request.tags.as_ref());
    violations.finish()?;
    let tags = request.tags.unwrap_or_default();
    let (functions, caller) = (&call.node.functions, call.caller());
    match target {
        Target::Function(function) => functions.tag(&caller, &function, tags).await?,
        Target::Mapping(id) => functions.tag_mapping(&caller, &id, tags).await?,
    }
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `UntagResource`.
pub async fn remove(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = target(call)?;
    let keys: Vec<String> = call.route.query.all("tagKeys").map(Cow::into_owned).collect();
    let mut violations = Violations::default();
    violations.require("tagKeys", keys.first());
    violations.finish()?;
    let (functions, caller) = (&call.node.functions, call.caller());
    match target {
        Target::Function(function) => functions.untag(&caller, &function, &keys).await?,
        Target::Mapping(id) => functions.untag_mapping(&caller, &id, &keys).await?,
    }
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn mapping_tags(call: &Call<'_>, id: &str) -> Result<BTreeMap<String, String>, ApiError> {
    Ok(call.node.functions.get_mapping(&call.caller(), id)?.tags)
}

/// The resource in the path; it is the caller's, or a function whose policy lets the caller in.
fn target(call: &Call<'_>) -> Result<Target, ApiError> {
    let resource = call.route.resource.as_ref();
    let parts: Vec<&str> = resource.splitn(6, ':').collect();
    let ["arn", partition, "lambda", region, account, rest] = parts[..] else {
        return Err(unknown(resource));
    };
    let owner: AccountId = account.parse().map_err(|_| unknown(resource))?;
    let (kind, name) = rest.split_once(':').ok_or_else(|| unknown(resource))?;
    if !partition.starts_with("aws") || name.is_empty() {
        return Err(unknown(resource));
    }
    let gone = |text: String| ApiError::new(Exception::ResourceNotFound, text);
    match kind {
        "function" => function(call, resource).map(Target::Function),
        "event-source-mapping" if is_uuid(name) => {
            let is_here = region == call.node.region && owner == call.account;
            let found = is_here.then(|| call.node.functions.get_mapping(&call.caller(), name).ok());
            found
                .flatten()
                .map(|mapping| Target::Mapping(mapping.id))
                .ok_or_else(|| gone(format!("Event source mapping not found: {resource}")))
        }
        // What the service would tag too; nothing of the kind is here.
        "code-signing-config" => Err(gone(format!(
            "The Lambda code signing configuration {resource} can not be found."
        ))),
        "capacity-provider" => Err(gone(format!("Capacity provider not found: {resource}"))),
        "network-connector" => Err(gone(format!("Network connector not found: {resource}"))),
        _ => Err(unknown(resource)),
    }
}

fn function(call: &Call<'_>, resource: &str) -> Result<FunctionRef, ApiError> {
    let target = call.named_function(resource, None)?;
    if target.qualifier.is_some() {
        return Err(ApiError::invalid(
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        ));
    }
    Ok(target)
}

fn unknown(resource: &str) -> ApiError {
    let shown: String = resource.chars().take(256).collect();
    read::invalid(
        shown,
        "resource",
        "Member must be the ARN of a function or of an event source mapping",
    )
}

/// 32 hexadecimal digits in five groups.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
}
