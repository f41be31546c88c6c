//! Tags, which belong to a function as a whole and are reached by its ARN.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagRequest {
    tags: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListTagsResponse {
    tags: BTreeMap<String, String>,
}

/// `ListTags`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let tags = call.node.functions.list_tags(&target(call)?)?;
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
    call.node.functions.tag(&call.caller(), &target, tags).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `UntagResource`.
pub async fn remove(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = target(call)?;
    let keys: Vec<String> = call.route.query.all("tagKeys").map(Cow::into_owned).collect();
    let mut violations = Violations::default();
    violations.require("tagKeys", keys.first());
    violations.finish()?;
    call.node.functions.untag(&call.caller(), &target, &keys).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn target(call: &Call<'_>) -> Result<FunctionRef, ApiError> {
    let resource = &call.route.resource;
    if !resource.starts_with("arn:") {
        return Err(read::invalid(
            resource,
            "resource",
            "Member must be the ARN of a function",
        ));
    }
    let target = call.named_function(resource, None)?;
    if target.qualifier.is_some() {
        return Err(ApiError::invalid(
            "Tags on function aliases and versions are not supported. Please specify either a function ARN.",
        ));
    }
    Ok(target)
}
