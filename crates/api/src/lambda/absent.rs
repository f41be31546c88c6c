//! Operations of features that this node does not have.
//!
//! They answer as the service does for an account or a function that does not use the feature: reads
//! find the default or nothing, lists are empty, and whatever would turn the feature on is refused. An
//! operation on a function that does not exist says so first.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;
use crate::route::Operation;

/// What the version that was published last goes by.
const PUBLISHED: &str = "$LATEST.PUBLISHED";
const QUALIFIER_CONSTRAINT: &str = "Member must satisfy regular expression pattern: (\\$LATEST\\.PUBLISHED|[0-9]+)";
const NO_PROVIDERS: &str =
    "Capacity providers are not available on this node: its functions run on the node and its instances.";

/// Answers any operation that no other file of the wire has.
pub fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    match call.route.operation {
        GetFunctionCodeSigningConfig | PutFunctionCodeSigningConfig | DeleteFunctionCodeSigningConfig => {
            call.node.functions.get_function(&call.function()?)?;
            about_signing(call.route.operation)
        }
        GetFunctionScalingConfig | PutFunctionScalingConfig => about_scaling(call),
        operation => about_account(operation),
    }
}

fn about_signing(operation: Operation) -> Result<Response<Body>, ApiError> {
    match operation {
        // The service leaves both members out.
        Operation::GetFunctionCodeSigningConfig => shown(json!({})),
        Operation::DeleteFunctionCodeSigningConfig => Ok(reply::empty(StatusCode::NO_CONTENT)),
        _ => Err(ApiError::new(
            Exception::CodeSigningConfigNotFound,
            "The code signing configuration cannot be found. Check that the provided configuration is not deleted.",
        )),
    }
}

/// The execution environments of a version at a capacity provider.
fn about_scaling(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let qualifier = call.route.query.get("Qualifier").unwrap_or_default();
    let is_number = !qualifier.is_empty() && qualifier.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number && qualifier != PUBLISHED {
        return Err(read::invalid(qualifier, "qualifier", QUALIFIER_CONSTRAINT));
    }
    let version = is_number.then_some(&*qualifier);
    let target = call.named_function(&call.route.resource, version)?;
    call.node.functions.get_function(&target)?;
    match call.route.operation {
        Operation::GetFunctionScalingConfig => Err(ApiError::no_such_resource()),
        _ => Err(ApiError::invalid(format!(
            "FunctionScalingConfig is for functions with a capacity provider, and {} has none. {NO_PROVIDERS} Use \
             PutProvisionedConcurrencyConfig to keep sandboxes ready, and PutFunctionConcurrency to limit them.",
            target.name
        ))),
    }
}

fn about_account(operation: Operation) -> Result<Response<Body>, ApiError> {
    use Operation::*;
    match operation {
        ListCodeSigningConfigs => shown(json!({ "CodeSigningConfigs": [] })),
        ListCapacityProviders => shown(json!({ "CapacityProviders": [] })),
        CreateCodeSigningConfig => Err(ApiError::invalid(
            "Code signing is not available on this node: it has no signing profiles to hold packages against.",
        )),
        CreateCapacityProvider => Err(ApiError::invalid(NO_PROVIDERS)),
        _ => Err(ApiError::no_such_resource()),
    }
}

fn shown(value: Value) -> Result<Response<Body>, ApiError> {
    Ok(reply::json(StatusCode::OK, &value))
}
