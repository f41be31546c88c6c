//! `FunctionConfiguration`, the shape that most operations answer with.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::digest::Digest;
use bowline_functions::model::image::ImageConfig;
use bowline_functions::model::layers::LayerUse;
use bowline_functions::model::{Architecture, Configuration, LastUpdate, State};
use bowline_functions::name::{Qualifier, Version};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::durable::DurableConfigShape;
use crate::dispatch::Node;

/// The wire's shape of one version.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionConfiguration {
    function_name: String,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<String>,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<String>,
    code_size: u64,
    description: String,
    timeout: u32,
    memory_size: u32,
    last_modified: String,
    code_sha256: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Environment>,
    revision_id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason_code: Option<String>,
    last_update_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update_status_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update_status_reason_code: Option<String>,
    package_type: &'static str,
    architectures: [&'static str; 1],
    ephemeral_storage: Size,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_version_config: Option<RuntimeVersionConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_config_response: Option<ImageConfigResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable_config: Option<DurableConfigShape>,
    /// `TracingConfig`, `SnapStart`, `LoggingConfig` and whatever else is kept as it was given.
    #[serde(flatten)]
    inert: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Environment {
    variables: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    size: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuntimeVersionConfig {
    runtime_version_arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfigResponse {
    image_config: ImageConfigShape,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfigShape {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entry_point: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    working_directory: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Layer {
    arn: String,
    code_size: u64,
}

/// How the ARN of a version is written.
#[derive(Clone, Copy)]
pub enum ArnForm<'a> {
    /// With the qualifier that the caller gave, if any.
    AsAsked(Option<&'a Qualifier>),
    /// A published version with its number, `$LATEST` without.
    Plain,
    /// Always with the version.
    Qualified,
}

impl FunctionConfiguration {
    pub fn new(node: &Node, configuration: Configuration, form: ArnForm<'_>) -> Self {
        let version = Qualifier::Version(configuration.version);
        let qualifier = match form {
            ArnForm::AsAsked(asked) => asked,
            ArnForm::Plain if configuration.version == Version::Latest => None,
            ArnForm::Plain | ArnForm::Qualified => Some(&version),
        };
        let function_arn = node
            .functions
            .arn(&configuration.account, &configuration.name, qualifier);
        let (state, state_reason, state_reason_code) = state(configuration.state);
        let (update, update_reason, update_reason_code) = last_update(configuration.last_update);
        let digest = configuration.code.digest;
        let is_image = configuration.image.is_some();
        let runtime = (!is_image).then(|| configuration.runtime.to_string());
        Self {
            function_arn,
            role: configuration.role,
            handler: (!is_image).then_some(configuration.handler),
            code_size: configuration.code.bytes,
            description: configuration.description,
            timeout: configuration.timeout_seconds,
            memory_size: configuration.memory.0,
            last_modified: configuration.last_modified.to_lambda_string(),
            // The service shows an image's digest as images have it.
            code_sha256: match is_image {
                true => digest.to_string(),
                false => STANDARD.encode(digest.as_bytes()),
            },
            version: configuration.version.to_string(),
            environment: (!configuration.environment.is_empty()).then_some(Environment {
                variables: configuration.environment,
            }),
            revision_id: configuration.revision_id,
            state,
            state_reason,
            state_reason_code,
            last_update_status: update,
            last_update_status_reason: update_reason,
            last_update_status_reason_code: update_reason_code,
            package_type: if is_image { "Image" } else { "Zip" },
            architectures: [architecture(configuration.architecture)],
            ephemeral_storage: Size {
                size: configuration.ephemeral_storage.0,
            },
            layers: configuration.layers.into_iter().map(Layer::new).collect(),
            runtime_version_config: runtime.as_deref().map(|runtime| RuntimeVersionConfig {
                runtime_version_arn: runtime_version_arn(&node.region, runtime),
            }),
            image_config_response: configuration.image.and_then(|image| image_config(image.config)),
            durable_config: configuration.durable.map(DurableConfigShape::from),
            inert: inert(configuration.name.as_str(), configuration.inert),
            function_name: configuration.name.to_string(),
            runtime,
        }
    }
}

impl Layer {
    fn new(layer: LayerUse) -> Self {
        Self {
            arn: layer.arn,
            code_size: layer.code.bytes,
        }
    }
}

fn image_config(config: ImageConfig) -> Option<ImageConfigResponse> {
    let is_empty = config.is_empty();
    let shown = ImageConfigResponse {
        image_config: ImageConfigShape {
            entry_point: config.entry_point,
            command: config.command,
            working_directory: config.working_directory,
        },
    };
    (!is_empty).then_some(shown)
}

/// The wire's name of a processor.
pub fn architecture(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::Arm64 => "arm64",
    }
}

fn state(state: State) -> (&'static str, Option<String>, Option<String>) {
    match state {
        State::Active => ("Active", None, None),
        State::Pending => (
            "Pending",
            Some("The function is being created.".to_owned()),
            Some("Creating".to_owned()),
        ),
        State::Failed { code, reason } => ("Failed", Some(reason), Some(code)),
    }
}

fn last_update(update: LastUpdate) -> (&'static str, Option<String>, Option<String>) {
    match update {
        LastUpdate::Successful => ("Successful", None, None),
        LastUpdate::InProgress => ("InProgress", Some("The function is being updated.".to_owned()), None),
        LastUpdate::Failed { code, reason } => ("Failed", Some(reason), Some(code)),
    }
}

/// The service names a runtime's build by a digest; here a runtime has one build.
fn runtime_version_arn(region: &str, runtime: &str) -> String {
    format!("arn:aws:lambda:{region}::runtime:{}", Digest::of(runtime.as_bytes()))
}

/// What is kept, over what the service shows for a function that sets nothing.
fn inert(name: &str, kept: Map<String, Value>) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("TracingConfig".to_owned(), json!({ "Mode": "PassThrough" }));
    shown.insert(
        "SnapStart".to_owned(),
        json!({ "ApplyOn": "None", "OptimizationStatus": "Off" }),
    );
    let mut logging = json!({ "LogFormat": "Text", "LogGroup": format!("/aws/lambda/{name}") });
    for (member, value) in kept {
        match (member.as_str(), value) {
            ("LoggingConfig", Value::Object(given)) => {
                logging.as_object_mut().expect("built above").extend(given);
            }
            ("KMSKeyArn", Value::String(arn)) if arn.is_empty() => {}
            ("DeadLetterConfig", Value::Object(config)) if config.get("TargetArn").is_none_or(|arn| arn == "") => {}
            (_, value) => {
                shown.insert(member, value);
            }
        }
    }
    let is_json = logging["LogFormat"] == "JSON";
    let members = logging.as_object_mut().expect("built above");
    // Older records may lack levels, or have them beside text, where they say nothing.
    for level in ["ApplicationLogLevel", "SystemLogLevel"] {
        if is_json {
            members.entry(level).or_insert_with(|| "INFO".into());
        } else {
            members.remove(level);
        }
    }
    shown.insert("LoggingConfig".to_owned(), logging);
    shown
}
