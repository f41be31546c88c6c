//! Settings that are kept and shown: when a runtime is updated, and whether a function may cause itself.

use bowline_functions::model::attached::RuntimeManagement;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

const UPDATES: [&str; 3] = ["Auto", "Manual", "FunctionUpdate"];
const LOOPS: [&str; 2] = ["Allow", "Terminate"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeRequest {
    update_runtime_on: Option<String>,
    runtime_version_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecursionRequest {
    recursive_loop: Option<String>,
}

/// `PutRuntimeManagementConfig`.
pub async fn put_runtime_management(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let request: RuntimeRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("updateRuntimeOn", request.update_runtime_on.as_ref());
    let update = request.update_runtime_on.as_deref().unwrap_or("Auto");
    violations.one_of("updateRuntimeOn", update, &UPDATES);
    violations.finish()?;
    let wanted = match (update, request.runtime_version_arn) {
        ("Manual", Some(arn)) if arn.starts_with("arn:aws") && arn.contains(":runtime:") => {
            Some(RuntimeManagement::Manual(arn))
        }
        ("Manual", Some(arn)) => {
            return Err(ApiError::invalid(format!(
                "`{arn}` is not the ARN of a runtime version."
            )));
        }
        ("Manual", None) => {
            return Err(ApiError::invalid(
                "RuntimeVersionArn is required when UpdateRuntimeOn is Manual.",
            ));
        }
        (_, Some(_)) => {
            return Err(ApiError::invalid(
                "RuntimeVersionArn can only be given when UpdateRuntimeOn is Manual.",
            ));
        }
        ("FunctionUpdate", None) => Some(RuntimeManagement::FunctionUpdate),
        (_, None) => None,
    };
    let functions = &call.node.functions;
    functions
        .put_runtime_management(&call.caller(), &target, wanted)
        .await?;
    runtime_management(call)
}

/// `GetRuntimeManagementConfig`.
pub fn runtime_management(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let functions = &call.node.functions;
    let found = functions.runtime_management(&target)?;
    let arn = functions.arn(&target.account, &target.name, target.qualifier.as_ref());
    let shown = match found {
        None => json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": arn }),
        Some(RuntimeManagement::FunctionUpdate) => json!({ "UpdateRuntimeOn": "FunctionUpdate", "FunctionArn": arn }),
        Some(RuntimeManagement::Manual(runtime)) => {
            json!({ "UpdateRuntimeOn": "Manual", "RuntimeVersionArn": runtime, "FunctionArn": arn })
        }
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `PutFunctionRecursionConfig`.
pub async fn put_recursion(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: RecursionRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("recursiveLoop", request.recursive_loop.as_ref());
    let wanted = request.recursive_loop.as_deref().unwrap_or("Terminate");
    violations.one_of("recursiveLoop", wanted, &LOOPS);
    violations.finish()?;
    let functions = &call.node.functions;
    functions
        .set_recursion(&call.caller(), &target, wanted == "Allow")
        .await?;
    recursion(call)
}

/// `GetFunctionRecursionConfig`.
pub fn recursion(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let is_allowed = call.node.functions.recursion_allowed(&call.function()?)?;
    let shown = if is_allowed { "Allow" } else { "Terminate" };
    Ok(reply::json(StatusCode::OK, &json!({ "RecursiveLoop": shown })))
}
