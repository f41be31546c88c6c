//! Resource policies: statement by statement, and as whole documents.

use bowline_functions::model::ResourcePolicy;
use bowline_functions::name::FunctionRef;
use bowline_functions::policy::{Grant, UrlAuth};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddRequest {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    source_arn: Option<String>,
    source_account: Option<String>,
    event_source_token: Option<String>,
    revision_id: Option<String>,
    #[serde(rename = "PrincipalOrgID")]
    organization: Option<String>,
    function_url_auth_type: Option<String>,
    invoked_via_function_url: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AddResponse {
    /// A document in itself.
    statement: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    policy: Option<String>,
    revision_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    /// A document in itself.
    policy: String,
    revision_id: String,
}

impl Shown {
    fn new(policy: ResourcePolicy) -> Self {
        Self {
            policy: policy.policy.document(),
            revision_id: policy.revision_id,
        }
    }
}

/// `AddPermission`.
pub async fn add(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let request: AddRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("statementId", request.statement_id.as_ref());
    violations.require("action", request.action.as_ref());
    violations.require("principal", request.principal.as_ref());
    violations.finish()?;
    let grant = Grant {
        statement_id: request.statement_id.unwrap_or_default(),
        action: request.action.unwrap_or_default(),
        principal: request.principal.unwrap_or_default(),
        source_arn: request.source_arn,
        source_account: request.source_account,
        event_source_token: request.event_source_token,
        organization: request.organization,
        url_auth: request.function_url_auth_type.as_deref().map(url_auth).transpose()?,
        via_url: request.invoked_via_function_url,
    };
    let functions = &call.node.functions;
    let statement = functions
        .add_permission(&call.caller(), &target, grant, request.revision_id)
        .await?;
    let shown = AddResponse {
        statement: statement.document(),
    };
    Ok(reply::json(StatusCode::CREATED, &shown))
}

/// `RemovePermission`.
pub async fn remove(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let functions = &call.node.functions;
    functions
        .remove_permission(&call.caller(), &target, &call.route.part, revision(call))
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `GetPolicy`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let policy = call.node.functions.get_policy(&call.qualified_function()?)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(policy)))
}

/// `GetResourcePolicy`.
pub fn get_document(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let policy = call.node.functions.get_policy(&resource(call)?)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(policy)))
}

/// `PutResourcePolicy`.
pub async fn put_document(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = resource(call)?;
    let request: PutRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("policy", request.policy.as_ref());
    violations.finish()?;
    let document = request.policy.unwrap_or_default();
    let functions = &call.node.functions;
    let policy = functions
        .put_policy(&call.caller(), &target, document, request.revision_id)
        .await?;
    Ok(reply::json(StatusCode::OK, &Shown::new(policy)))
}

/// `DeleteResourcePolicy`.
pub async fn delete_document(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = resource(call)?;
    let functions = &call.node.functions;
    functions.delete_policy(&call.caller(), &target, revision(call)).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn revision(call: &Call<'_>) -> Option<String> {
    call.route.query.get("RevisionId").map(String::from)
}

fn url_auth(text: &str) -> Result<UrlAuth, ApiError> {
    match text {
        "NONE" => Ok(UrlAuth::None),
        "AWS_IAM" => Ok(UrlAuth::AwsIam),
        other => Err(read::invalid(
            other,
            "functionUrlAuthType",
            "Member must satisfy enum value set: [NONE, AWS_IAM]",
        )),
    }
}

/// The function whose whole ARN is in the path.
fn resource(call: &Call<'_>) -> Result<FunctionRef, ApiError> {
    let resource = &call.route.resource;
    if !resource.starts_with("arn:") {
        return Err(read::invalid(
            resource,
            "resourceArn",
            "Member must be the whole ARN of a function, version or alias",
        ));
    }
    call.qualified_function()
}
