//! Published versions.

use bowline_functions::model::PublishVersion;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::configuration::{ArnForm, FunctionConfiguration};
use super::read;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishRequest {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
    publish_to: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListVersionsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    versions: Vec<FunctionConfiguration>,
}

/// `PublishVersion`.
pub async fn publish(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: PublishRequest = read::json(body)?;
    if request.publish_to.is_some() {
        return Err(ApiError::invalid("`PublishTo` is not available on this node."));
    }
    let publication = PublishVersion {
        code_sha256: request.code_sha256,
        description: request.description,
        revision_id: request.revision_id,
    };
    let published = call
        .node
        .functions
        .publish_version(&call.caller(), &target, publication)
        .await?;
    let shown = FunctionConfiguration::new(call.node, published, ArnForm::Qualified);
    Ok(reply::json(StatusCode::CREATED, &shown))
}

/// `ListVersionsByFunction`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let found = call
        .node
        .functions
        .list_versions(&target, &read::page(call.route.query)?)?;
    let shown = ListVersionsResponse {
        next_marker: found.next_marker,
        versions: found
            .items
            .into_iter()
            .map(|configuration| FunctionConfiguration::new(call.node, configuration, ArnForm::Qualified))
            .collect(),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}
