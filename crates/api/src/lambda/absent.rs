//! Operations of features that this node does not have.
//!
//! They answer as the service does for an account or a function that does not use the feature: reads
//! find the default or nothing, lists are empty, and whatever would turn the feature on is denied. An
//! operation on a function that does not exist says so first.

use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;
use crate::route::Operation;

/// Answers any operation that no other file of the wire has.
pub fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    if of_a_function(call.route.operation) {
        let target = call.qualified_function()?;
        call.node.functions.get_function(&target)?;
        about_function(call.route.operation, &target)
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
            | GetFunctionScalingConfig
            | PutFunctionScalingConfig
    )
}

fn about_function(operation: Operation, target: &FunctionRef) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    let name = target.name.as_str();
    match operation {
        GetFunctionCodeSigningConfig => shown(json!({ "CodeSigningConfigArn": "", "FunctionName": name })),
        DeleteFunctionCodeSigningConfig => Ok(reply::empty(StatusCode::NO_CONTENT)),
        PutFunctionCodeSigningConfig => Err(ApiError::new(
            Exception::CodeSigningConfigNotFound,
            "The code signing configuration cannot be found. Check that the provided configuration is not deleted.",
        )),
        GetFunctionScalingConfig => Err(ApiError::no_such_resource()),
        other => Err(denied(other)),
    }
}

fn about_account(operation: Operation) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    match operation {
        ListCodeSigningConfigs => shown(json!({ "CodeSigningConfigs": [] })),
        ListCapacityProviders => shown(json!({ "CapacityProviders": [] })),
        GetCodeSigningConfig
        | UpdateCodeSigningConfig
        | DeleteCodeSigningConfig
        | ListFunctionsByCodeSigningConfig
        | GetCapacityProvider
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
