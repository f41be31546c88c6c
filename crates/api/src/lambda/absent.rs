//! Operations of features that this node does not have.
//!
//! They answer as the service does for an account or a function that does not use the feature: reads
//! find the default or nothing, lists are empty, and whatever would turn the feature on is denied. An
//! operation on a function that does not exist says so first.

use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::read;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;
use crate::route::Operation;

/// Answers any operation that no other file of the wire has.
pub fn answer(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    if of_a_function(call.route.operation) {
        let target = call.qualified_function()?;
        call.node.functions.get_function(&target)?;
        about_function(call, &target, body)
    } else {
        about_account(call.route.operation)
    }
}

fn of_a_function(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        GetFunctionCodeSigningConfig
            | PutFunctionCodeSigningConfig
            | DeleteFunctionCodeSigningConfig
            | GetFunctionRecursionConfig
            | PutFunctionRecursionConfig
            | GetRuntimeManagementConfig
            | PutRuntimeManagementConfig
            | GetFunctionScalingConfig
            | PutFunctionScalingConfig
            | CreateFunctionUrlConfig
            | GetFunctionUrlConfig
            | UpdateFunctionUrlConfig
            | DeleteFunctionUrlConfig
            | ListFunctionUrlConfigs
            | PutProvisionedConcurrencyConfig
            | GetProvisionedConcurrencyConfig
            | DeleteProvisionedConcurrencyConfig
            | ListProvisionedConcurrencyConfigs
    )
}

fn about_function(call: &Call<'_>, target: &FunctionRef, body: &[u8]) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    let arn = || {
        let qualifier = target.qualifier.as_ref();
        call.node.functions.arn(&target.account, &target.name, qualifier)
    };
    let name = target.name.as_str();
    match call.route.operation {
        GetFunctionCodeSigningConfig => shown(json!({ "CodeSigningConfigArn": "", "FunctionName": name })),
        DeleteFunctionCodeSigningConfig => Ok(reply::empty(StatusCode::NO_CONTENT)),
        GetFunctionRecursionConfig => shown(json!({ "RecursiveLoop": "Terminate" })),
        PutFunctionRecursionConfig => put_recursion(call.route.operation, body),
        GetRuntimeManagementConfig => shown(json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": arn() })),
        PutRuntimeManagementConfig => put_runtime_management(call.route.operation, body, &arn()),
        ListFunctionUrlConfigs => shown(json!({ "FunctionUrlConfigs": [] })),
        ListProvisionedConcurrencyConfigs => shown(json!({ "ProvisionedConcurrencyConfigs": [] })),
        GetProvisionedConcurrencyConfig | DeleteProvisionedConcurrencyConfig => Err(ApiError::new(
            Exception::ProvisionedConcurrencyConfigNotFound,
            "No Provisioned Concurrency Config found for this function",
        )),
        GetFunctionUrlConfig | UpdateFunctionUrlConfig | DeleteFunctionUrlConfig | GetFunctionScalingConfig => {
            Err(ApiError::no_such_resource())
        }
        other => Err(denied(other)),
    }
}

fn about_account(operation: Operation) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    match operation {
        ListCodeSigningConfigs => shown(json!({ "CodeSigningConfigs": [] })),
        ListCapacityProviders => shown(json!({ "CapacityProviders": [] })),
        GetCodeSigningConfig | UpdateCodeSigningConfig | DeleteCodeSigningConfig | ListFunctionsByCodeSigningConfig => {
            Err(ApiError::new(
                Exception::CodeSigningConfigNotFound,
                "The code signing configuration cannot be found.",
            ))
        }
        GetCapacityProvider
        | UpdateCapacityProvider
        | DeleteCapacityProvider
        | ListFunctionVersionsByCapacityProvider => Err(ApiError::no_such_resource()),
        other => Err(denied(other)),
    }
}

fn denied(operation: Operation) -> ApiError {
    ApiError::new(
        Exception::AccessDenied,
        format!(
            "You are not authorized to perform: lambda:{}; the feature is not available on this node.",
            operation.name()
        ),
    )
}

fn shown(value: Value) -> Result<Response<Body>, ApiError> {
    Ok(reply::json(StatusCode::OK, &value))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecursionRequest {
    recursive_loop: Option<String>,
}

/// Asking for what holds anyway succeeds.
fn put_recursion(operation: Operation, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let request: RecursionRequest = read::json(body)?;
    match request.recursive_loop.as_deref() {
        Some("Terminate") => shown(json!({ "RecursiveLoop": "Terminate" })),
        _ => Err(denied(operation)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeManagementRequest {
    update_runtime_on: Option<String>,
}

fn put_runtime_management(operation: Operation, body: &[u8], arn: &str) -> Result<Response<Body>, ApiError> {
    let request: RuntimeManagementRequest = read::json(body)?;
    match request.update_runtime_on.as_deref() {
        Some("Auto") => shown(json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": arn })),
        _ => Err(denied(operation)),
    }
}
