//! Functions: create, read, change, delete.

use std::collections::BTreeMap;

use bowline_functions::model::image::ImageConfig;
use bowline_functions::model::{Caller, Code, CreateFunction, Settings, UpdateCode, UpdateConfiguration};
use bowline_functions::name::{FunctionRef, Qualifier};
use bowline_sandbox::Runtime;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::code::{CodeSource, architecture};
use super::concurrency::Concurrency;
use super::configuration::{ArnForm, FunctionConfiguration};
use super::destination;
use super::durable;
use super::features;
use super::layer::RUNTIMES;
use super::link;
use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateRequest<'a> {
    function_name: Option<String>,
    runtime: Option<String>,
    role: Option<String>,
    handler: Option<String>,
    #[serde(borrow)]
    code: Option<CodeSource<'a>>,
    publish: Option<bool>,
    package_type: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    architectures: Option<Vec<String>>,
}

/// The settings that creating and updating share.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SettingsMembers {
    description: Option<String>,
    timeout: Option<i64>,
    memory_size: Option<i64>,
    environment: Option<Environment>,
    ephemeral_storage: Option<EphemeralStorage>,
    layers: Option<Vec<String>>,
    image_config: Option<ImageConfigMembers>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfigMembers {
    entry_point: Option<Vec<String>>,
    command: Option<Vec<String>>,
    working_directory: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Environment {
    variables: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EphemeralStorage {
    size: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateCodeRequest {
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    dry_run: Option<bool>,
    revision_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateConfigurationRequest {
    runtime: Option<String>,
    role: Option<String>,
    handler: Option<String>,
    revision_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetFunctionResponse {
    configuration: FunctionConfiguration,
    code: CodeLocation,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<Concurrency>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CodeLocation {
    repository_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_image_uri: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListFunctionsResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    functions: Vec<FunctionConfiguration>,
}

/// `CreateFunction`.
pub async fn create(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let request: CreateRequest<'_> = read::json(body)?;
    let mut caller = call.caller();
    let creation = creation(call, request, body, &mut caller).await?;
    let created = call
        .node
        .functions
        .create_function(&caller, creation)
        .await
        .map_err(|error| ApiError::from(error).on_upload())?;
    // Without the number of a version that was published along with it, as the service has it.
    let shown = FunctionConfiguration::new(call.node, created, ArnForm::AsAsked(None));
    Ok(reply::json(StatusCode::CREATED, &shown))
}

/// What is to be created, and for whom. Code is fetched last, when nothing else is wrong.
async fn creation(
    call: &Call<'_>,
    request: CreateRequest<'_>,
    body: &[u8],
    caller: &mut Caller,
) -> Result<CreateFunction, ApiError> {
    let mut violations = Violations::default();
    violations.require("functionName", request.function_name.as_ref());
    violations.require("role", request.role.as_ref());
    violations.require("code", request.code.as_ref());
    if let Some(package_type) = request.package_type.as_deref() {
        violations.one_of("packageType", package_type, &["Zip", "Image"]);
    }
    violations.finish()?;
    let target = call.named_function(&request.function_name.unwrap_or_default(), None)?;
    if target.qualifier.is_some() {
        return Err(ApiError::invalid("A function is created without a qualifier."));
    }
    let architecture = architecture(request.architectures.as_deref())?;
    let settings = settings(call, body)?;
    settings.check_sizes()?;
    let Some(source) = &request.code else {
        return Err(ApiError::invalid("Please provide a source for function code."));
    };
    let code = source.unfetched()?;
    let runtime = package_runtime(request.package_type.as_deref(), &code, request.runtime.as_deref())?;
    caller.account = target.account;
    let mut creation = CreateFunction {
        name: target.name,
        runtime,
        role: request.role.unwrap_or_default(),
        handler: request.handler,
        settings,
        architecture,
        tags: request.tags.unwrap_or_default(),
        publish: request.publish.unwrap_or(false),
        code,
    };
    call.node.functions.check_creation(caller, &creation)?;
    creation.code = source.code(call.node).await?;
    Ok(creation)
}

/// What runs the code; the type of the package must be the one that the code is of.
fn package_runtime(package_type: Option<&str>, code: &Code, named: Option<&str>) -> Result<Runtime, ApiError> {
    match (package_type.unwrap_or("Zip"), code, named) {
        ("Zip", Code::Package(_), Some(name)) => runtime(name),
        ("Zip", Code::Package(_), None) => Err(ApiError::invalid(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
        )),
        ("Zip", Code::Image(_), _) => Err(ApiError::invalid(
            "Please don't provide ImageUri when packageType is Zip.",
        )),
        (_, Code::Package(_), _) => Err(ApiError::invalid("Please provide ImageUri when packageType is Image.")),
        (_, Code::Image(_), Some(_)) => Err(ApiError::invalid(
            "Please don't provide Handler or Runtime or Layer when packageType is Image.",
        )),
        (_, Code::Image(_), None) => Ok(Runtime::ProvidedAl2023),
    }
}

fn runtime(name: &str) -> Result<Runtime, ApiError> {
    name.parse().map_err(|_| {
        let served = RUNTIMES
            .iter()
            .filter(|name| name.parse().is_ok_and(|runtime: Runtime| !runtime.is_too_old()));
        ApiError::invalid(format!(
            "Value {name} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a \
             valid ARN",
            served.copied().collect::<Vec<_>>().join(", ")
        ))
    })
}

fn settings(call: &Call<'_>, body: &[u8]) -> Result<Settings, ApiError> {
    let members: SettingsMembers = read::json(body)?;
    let inert: Map<String, Value> = features::inert(body)?;
    if let Some(arn) = features::dead_letter_target(&inert) {
        destination::may_send(call, arn)?;
    }
    Ok(Settings {
        description: members.description,
        timeout_seconds: members.timeout,
        memory_mib: members.memory_size,
        ephemeral_storage_mib: members.ephemeral_storage.and_then(|storage| storage.size),
        environment: members
            .environment
            .map(|environment| environment.variables.unwrap_or_default()),
        layers: members.layers,
        image: members.image_config.map(|config| ImageConfig {
            entry_point: config.entry_point.unwrap_or_default(),
            command: config.command.unwrap_or_default(),
            working_directory: config.working_directory.unwrap_or_default(),
        }),
        inert,
        durable: durable::settings(body)?,
    })
}

/// `GetFunction`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let view = call.node.functions.get_function(&target)?;
    let code = match &view.configuration.image {
        None => CodeLocation {
            repository_type: "S3",
            location: Some(code_location(call, &target)),
            image_uri: None,
            resolved_image_uri: None,
        },
        Some(image) => CodeLocation {
            repository_type: "ECR",
            location: None,
            image_uri: Some(image.uri.clone()),
            resolved_image_uri: Some(image.resolved_uri.clone()),
        },
    };
    let form = ArnForm::AsAsked(target.qualifier.as_ref());
    let shown = GetFunctionResponse {
        configuration: FunctionConfiguration::new(call.node, view.configuration, form),
        code,
        tags: view.tags,
        concurrency: view.reserved_concurrency.map(Concurrency::new),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// Where this node serves the package.
fn code_location(call: &Call<'_>, target: &FunctionRef) -> String {
    let version = match &target.qualifier {
        None => "%24LATEST".to_owned(),
        Some(qualifier) => qualifier.to_string().replace('$', "%24"),
    };
    let FunctionRef { account, name, .. } = target;
    link::to(
        call,
        &format!("/v1/functions/{name}/code?version={version}&account={account}"),
    )
}

/// `GetFunctionConfiguration`.
pub fn get_configuration(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let view = call.node.functions.get_function(&target)?;
    let form = ArnForm::AsAsked(target.qualifier.as_ref());
    let shown = FunctionConfiguration::new(call.node, view.configuration, form);
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `ListFunctions`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let query = call.route.query;
    let all_versions = match query.get("FunctionVersion").as_deref() {
        None | Some("") => false,
        Some("ALL") => true,
        Some(other) => {
            return Err(read::invalid(
                other,
                "functionVersion",
                "Member must satisfy enum value set: [ALL]",
            ));
        }
    };
    let form = if all_versions {
        ArnForm::Qualified
    } else {
        ArnForm::Plain
    };
    let page = read::page(query)?;
    let found = call
        .node
        .functions
        .list_functions(&call.caller(), all_versions, &page)?;
    let shown = ListFunctionsResponse {
        next_marker: found.next_marker,
        functions: found
            .items
            .into_iter()
            .map(|configuration| FunctionConfiguration::new(call.node, configuration, form))
            .collect(),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `UpdateFunctionCode`.
pub async fn update_code(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: UpdateCodeRequest = read::json(body)?;
    let source: CodeSource<'_> = read::json(body)?;
    let mut update = UpdateCode {
        code: source.unfetched()?,
        architecture: architecture(request.architectures.as_deref())?,
        publish: request.publish.unwrap_or(false),
        dry_run: request.dry_run.unwrap_or(false),
        revision_id: request.revision_id,
    };
    call.node.functions.check_update(&target, &update)?;
    update.code = source.code(call.node).await?;
    let updated = call
        .node
        .functions
        .update_code(&call.caller(), &target, update)
        .await
        .map_err(|error| ApiError::from(error).on_upload())?;
    let shown = FunctionConfiguration::new(call.node, updated, ArnForm::Plain);
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `UpdateFunctionConfiguration`.
pub async fn update_configuration(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.function()?;
    let request: UpdateConfigurationRequest = read::json(body)?;
    let update = UpdateConfiguration {
        runtime: request.runtime.as_deref().map(runtime).transpose()?,
        role: request.role,
        handler: request.handler,
        settings: settings(call, body)?,
        revision_id: request.revision_id,
    };
    let updated = call
        .node
        .functions
        .update_configuration(&call.caller(), &target, update)
        .await
        .map_err(|error| ApiError::from(error).on_upload())?;
    let shown = FunctionConfiguration::new(call.node, updated, ArnForm::Plain);
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `DeleteFunction`: the whole function, or the version that the target is qualified with.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    if let Some(Qualifier::Alias(_)) = &target.qualifier {
        return Err(ApiError::invalid(
            "An alias cannot be deleted with its function's operation; use DeleteAlias.",
        ));
    }
    call.node.functions.delete_function(&call.caller(), &target).await?;
    Ok(reply::json(StatusCode::OK, &Map::new()))
}
