//! Aliases and the weights between two versions.

use std::collections::BTreeMap;

use bowline_functions::model::{Alias, CreateAlias, UpdateAlias};
use bowline_functions::name::{AliasName, Qualifier, Version};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateRequest {
    name: Option<String>,
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<RoutingConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateRequest {
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<RoutingConfig>,
    revision_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoutingConfig {
    additional_version_weights: Option<BTreeMap<String, f64>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AliasConfiguration {
    alias_arn: String,
    name: String,
    function_version: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_config: Option<RoutingConfig>,
    revision_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAliasesResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    aliases: Vec<AliasConfiguration>,
}

impl AliasConfiguration {
    fn new(node: &Node, alias: Alias) -> Self {
        let name = alias.name.to_string();
        let qualifier = Qualifier::Alias(alias.name);
        Self {
            alias_arn: node.functions.arn(&alias.account, &alias.function, Some(&qualifier)),
            name,
            function_version: alias.version.to_string(),
            description: alias.description,
            routing_config: alias.routing.map(|(version, weight)| RoutingConfig {
                additional_version_weights: Some([(version.to_string(), weight)].into()),
            }),
            revision_id: alias.revision_id,
        }
    }
}

impl RoutingConfig {
    /// The one other version and its weight; an empty map means none.
    fn routing(self) -> Result<Option<(Version, f64)>, ApiError> {
        let mut weights = self.additional_version_weights.unwrap_or_default().into_iter();
        let Some((version, weight)) = weights.next() else {
            return Ok(None);
        };
        if weights.next().is_some() {
            return Err(ApiError::invalid(
                "Number of items in AdditionalVersionWeights cannot be greater than 1",
            ));
        }
        if !(0.0..=1.0).contains(&weight) {
            return Err(read::invalid(
                format_args!("{{{version}={weight}}}"),
                "routingConfig.additionalVersionWeights",
                "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, \
                 Member must have value greater than or equal to 0.0]",
            ));
        }
        Ok(Some((version.parse()?, weight)))
    }
}

/// `CreateAlias`.
pub async fn create(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: CreateRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("name", request.name.as_ref());
    violations.require("functionVersion", request.function_version.as_ref());
    violations.finish()?;
    let creation = CreateAlias {
        name: request.name.unwrap_or_default().parse()?,
        version: request.function_version.unwrap_or_default().parse()?,
        description: request.description.unwrap_or_default(),
        routing: request
            .routing_config
            .map(RoutingConfig::routing)
            .transpose()?
            .flatten(),
    };
    let alias = call
        .node
        .functions
        .create_alias(&call.caller(), &target, creation)
        .await?;
    Ok(reply::json(
        StatusCode::CREATED,
        &AliasConfiguration::new(call.node, alias),
    ))
}

/// `GetAlias`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let alias = call.node.functions.get_alias(&call.function()?, &name(call)?)?;
    Ok(reply::json(StatusCode::OK, &AliasConfiguration::new(call.node, alias)))
}

/// `ListAliases`, of all versions or of one.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let query = call.route.query;
    let version = query.get("FunctionVersion").filter(|text| !text.is_empty());
    let version = version.map(|text| text.parse()).transpose()?;
    let found = call
        .node
        .functions
        .list_aliases(&target, version, &read::page(query)?)?;
    let shown = ListAliasesResponse {
        next_marker: found.next_marker,
        aliases: found
            .items
            .into_iter()
            .map(|alias| AliasConfiguration::new(call.node, alias))
            .collect(),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `UpdateAlias`.
pub async fn update(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let (target, name) = (call.function()?, name(call)?);
    let request: UpdateRequest = read::json(body)?;
    let update = UpdateAlias {
        version: request.function_version.map(|text| text.parse()).transpose()?,
        description: request.description,
        routing: request.routing_config.map(RoutingConfig::routing).transpose()?,
        revision_id: request.revision_id,
    };
    let alias = call
        .node
        .functions
        .update_alias(&call.caller(), &target, &name, update)
        .await?;
    Ok(reply::json(StatusCode::OK, &AliasConfiguration::new(call.node, alias)))
}

/// `DeleteAlias`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let (target, name) = (call.function()?, name(call)?);
    call.node.functions.delete_alias(&call.caller(), &target, &name).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn name(call: &Call<'_>) -> Result<AliasName, ApiError> {
    Ok(call.route.part.parse()?)
}
