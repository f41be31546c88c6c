//! Layers: publish, read, list, delete.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_aws::s3::ObjectRef;
use bowline_functions::model::layers::{LayerFilter, LayerVersion, PublishLayer};
use bowline_functions::model::{Architecture, Page};
use bowline_functions::name::layer::{LayerRef, LayerVersionArn};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::code::decode_zip;
use super::configuration::architecture as architecture_name;
use super::link;
use super::read::{self, Text, Violations};
use super::stored;
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::ApiError;
use crate::reply;

/// Every runtime that the service has ever had: a layer may say that it works with any of them.
pub const RUNTIMES: &[&str] = &[
    "nodejs",
    "nodejs4.3",
    "nodejs4.3-edge",
    "nodejs6.10",
    "nodejs8.10",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs26.x",
    "java8",
    "java8.al2",
    "java8.al2023",
    "java11",
    "java11.al2023",
    "java17",
    "java17.al2023",
    "java21",
    "java25",
    "python2.7",
    "python3.6",
    "python3.7",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "dotnet6",
    "dotnet8",
    "dotnet10",
    "go1.x",
    "ruby2.5",
    "ruby2.7",
    "ruby3.2",
    "ruby3.3",
    "ruby3.4",
    "ruby4.0",
    "provided",
    "provided.al2",
    "provided.al2023",
    "custom",
];
const ARCHITECTURES: &[&str] = &["x86_64", "arm64"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishRequest<'a> {
    description: Option<String>,
    license_info: Option<String>,
    compatible_runtimes: Option<Vec<String>>,
    compatible_architectures: Option<Vec<String>>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content<'a> {
    #[serde(borrow)]
    zip_file: Option<Text<'a>>,
    s3_bucket: Option<String>,
    s3_key: Option<String>,
    s3_object_version: Option<String>,
}

/// A version in a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    layer_version_arn: String,
    version: u64,
    description: String,
    created_date: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compatible_runtimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compatible_architectures: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_info: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(flatten)]
    version: Listed,
    layer_arn: String,
    content: ShownContent,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownContent {
    location: String,
    code_sha256: String,
    code_size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListVersionsResponse {
    layer_versions: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListLayersResponse {
    layers: Vec<ListedLayer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedLayer {
    layer_name: String,
    layer_arn: String,
    latest_matching_version: Listed,
}

impl Listed {
    fn new(node: &Node, version: LayerVersion) -> Self {
        let layer = layer_of(&version);
        Self {
            layer_version_arn: node.functions.layer_arn(&layer, Some(version.number)),
            version: version.number,
            description: version.description,
            created_date: version.created.to_lambda_string(),
            compatible_runtimes: version.runtimes,
            compatible_architectures: version.architectures.into_iter().map(architecture_name).collect(),
            license_info: version.license,
        }
    }
}

impl Shown {
    fn new(call: &Call<'_>, version: LayerVersion) -> Self {
        let layer = layer_of(&version);
        Self {
            layer_arn: call.node.functions.layer_arn(&layer, None),
            content: ShownContent {
                location: location(call, &version),
                code_sha256: STANDARD.encode(version.code.digest.as_bytes()),
                code_size: version.code.bytes,
            },
            version: Listed::new(call.node, version),
        }
    }
}

fn layer_of(version: &LayerVersion) -> LayerRef {
    LayerRef {
        account: version.account.clone(),
        name: version.name.clone(),
    }
}

/// Where this node serves the archive.
fn location(call: &Call<'_>, version: &LayerVersion) -> String {
    let LayerVersion {
        account, name, number, ..
    } = version;
    link::to(
        call,
        &format!("/v1/layers/{name}/versions/{number}/content?account={account}"),
    )
}

/// `PublishLayerVersion`.
pub async fn publish(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let layer = layer(call)?;
    let request: PublishRequest<'_> = read::json(body)?;
    let runtimes = request.compatible_runtimes.unwrap_or_default();
    let architectures = request.compatible_architectures.unwrap_or_default();
    let mut violations = Violations::default();
    violations.require("content", request.content.as_ref());
    for runtime in &runtimes {
        violations.one_of("compatibleRuntimes", runtime, RUNTIMES);
    }
    for architecture in &architectures {
        violations.one_of("compatibleArchitectures", architecture, ARCHITECTURES);
    }
    violations.finish()?;
    let publish = PublishLayer {
        description: request.description.unwrap_or_default(),
        license: request.license_info,
        runtimes,
        architectures: architectures.iter().map(|name| architecture(name)).collect(),
        content: archive(call.node, request.content).await?,
    };
    let published = call
        .node
        .functions
        .publish_layer(&call.caller(), &layer, publish)
        .await?;
    Ok(reply::json(StatusCode::CREATED, &Shown::new(call, published)))
}

/// The archive, fetched if it lies in a bucket.
async fn archive(node: &Node, content: Option<Content<'_>>) -> Result<Bytes, ApiError> {
    let none = || ApiError::invalid("Please provide a source for the layer's content.");
    let content = content.ok_or_else(none)?;
    match (&content.zip_file, &content.s3_bucket, &content.s3_key) {
        (Some(zip), None, None) => decode_zip(zip),
        (None, Some(bucket), Some(key)) => {
            let version = content.s3_object_version.as_deref();
            stored::fetch(node, ObjectRef { bucket, key, version }).await
        }
        (None, None, None) => Err(none()),
        _ => Err(ApiError::invalid(
            "A layer's content is either a `ZipFile`, or an `S3Bucket` and an `S3Key` together.",
        )),
    }
}

fn architecture(name: &str) -> Architecture {
    if name == "arm64" {
        Architecture::Arm64
    } else {
        Architecture::X86_64
    }
}

/// `GetLayerVersion`.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let (layer, number) = (layer(call)?, number(call)?);
    show(call, &layer, number).await
}

/// `GetLayerVersionByArn`.
pub async fn get_by_arn(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let arn = call.route.query.get("Arn").unwrap_or_default();
    let arn: LayerVersionArn = arn.parse()?;
    here(call, Some(&arn.region))?;
    show(call, &arn.layer, arn.number).await
}

async fn show(call: &Call<'_>, layer: &LayerRef, number: u64) -> Result<Response<Body>, ApiError> {
    let functions = &call.node.functions;
    let version = functions.get_layer_version(&call.caller(), layer, number).await?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call, version)))
}

/// `ListLayers`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let page = read::short_page(call.route.query)?;
    let functions = &call.node.functions;
    let Page { items, next_marker } = functions.list_layers(&call.caller(), &filter(call)?, &page)?;
    let listed = |version: LayerVersion| {
        let layer = layer_of(&version);
        ListedLayer {
            layer_name: layer.name.to_string(),
            layer_arn: functions.layer_arn(&layer, None),
            latest_matching_version: Listed::new(call.node, version),
        }
    };
    let layers = items.into_iter().map(listed).collect();
    Ok(reply::json(StatusCode::OK, &ListLayersResponse { layers, next_marker }))
}

/// `ListLayerVersions`.
pub fn list_versions(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let (layer, page) = (layer(call)?, read::short_page(call.route.query)?);
    let functions = &call.node.functions;
    let found = functions.list_layer_versions(&call.caller(), &layer, &filter(call)?, &page)?;
    let versions = found.items.into_iter();
    let shown = ListVersionsResponse {
        layer_versions: versions.map(|version| Listed::new(call.node, version)).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `DeleteLayerVersion`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let (layer, number) = (layer(call)?, number(call)?);
    let functions = &call.node.functions;
    functions.delete_layer_version(&call.caller(), &layer, number).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn filter(call: &Call<'_>) -> Result<LayerFilter, ApiError> {
    let given = |member| call.route.query.get(member).filter(|value| !value.is_empty());
    let (runtime, architecture_given) = (given("CompatibleRuntime"), given("CompatibleArchitecture"));
    let mut violations = Violations::default();
    if let Some(runtime) = &runtime {
        violations.one_of("compatibleRuntime", runtime, RUNTIMES);
    }
    if let Some(architecture) = &architecture_given {
        violations.one_of("compatibleArchitecture", architecture, ARCHITECTURES);
    }
    violations.finish()?;
    Ok(LayerFilter {
        runtime: runtime.map(Into::into),
        architecture: architecture_given.map(|name| architecture(&name)),
    })
}

/// The layer in the path.
pub fn layer(call: &Call<'_>) -> Result<LayerRef, ApiError> {
    let layer = LayerRef::parse(&call.route.resource, &call.account)?;
    here(call, LayerRef::region(&call.route.resource))?;
    Ok(layer)
}

/// A layer of another region is none of this one.
fn here(call: &Call<'_>, region: Option<&str>) -> Result<(), ApiError> {
    match region {
        Some(region) if region != call.node.region => Err(ApiError::no_such_resource()),
        _ => Ok(()),
    }
}

/// The version in the path.
pub fn number(call: &Call<'_>) -> Result<u64, ApiError> {
    let text = &call.route.part;
    let number: i64 = text
        .parse()
        .map_err(|_| read::mismatch("STRING_VALUE can not be converted to a Long"))?;
    u64::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| ApiError::invalid("Layer Version Cannot be less than 1."))
}
