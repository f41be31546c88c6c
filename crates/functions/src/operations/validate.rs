//! Which settings a function may have.

use std::collections::BTreeMap;

use bowline_foundation::limits::{
    ENVIRONMENT_BYTES_MAX, EPHEMERAL_STORAGE_MAX, EPHEMERAL_STORAGE_MIN, MEMORY_MAX, MEMORY_MIN, TAGS_MAX,
    TIMEOUT_SECONDS_MAX,
};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::Runtime;

use crate::durable::limits::{EXECUTION_SECONDS_MAX, RETENTION_DAYS_MAX};
use crate::error::Error;
use crate::model::logging;
use crate::model::{Architecture, Code, Configuration, Settings};

const HANDLER_CHARS_MAX: usize = 128;
const DESCRIPTION_CHARS_MAX: usize = 256;
const IMAGE_WORDS_MAX: usize = 1500;
const WORKING_DIRECTORY_CHARS_MAX: usize = 1000;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;

/// Variables that the runtimes set themselves.
const RESERVED_VARIABLES: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// Puts the given settings over the configuration's.
pub(super) fn apply(settings: &Settings, to: &mut Configuration) -> Result<(), Error> {
    if let Some(description) = &settings.description {
        self::description(description)?;
        to.description.clone_from(description);
    }
    let sizes = sizes(settings)?;
    to.timeout_seconds = sizes.timeout_seconds.unwrap_or(to.timeout_seconds);
    to.memory = sizes.memory.unwrap_or(to.memory);
    to.ephemeral_storage = sizes.ephemeral_storage.unwrap_or(to.ephemeral_storage);
    if let Some(variables) = &settings.environment {
        environment(variables)?;
        to.environment.clone_from(variables);
    }
    durable(settings, to)?;
    image(settings, to)?;
    for (key, value) in &settings.inert {
        let value = match key.as_str() {
            logging::LOGGING_CONFIG => logging::merge(to.inert.get(key), value)?,
            _ => value.clone(),
        };
        to.inert.insert(key.clone(), value);
    }
    Ok(())
}

/// Numbers that are within their limits.
struct Sizes {
    timeout_seconds: Option<u32>,
    memory: Option<Mebibytes>,
    ephemeral_storage: Option<Mebibytes>,
}

fn sizes(settings: &Settings) -> Result<Sizes, Error> {
    let mut broken = Vec::new();
    let mut limited = |member, value: Option<i64>, (min, max): (u32, u32)| match range(member, value?, min, max) {
        Ok(value) => Some(value),
        Err(violation) => {
            broken.push(violation);
            None
        }
    };
    let (memory, storage) = (
        (MEMORY_MIN.0, MEMORY_MAX.0),
        (EPHEMERAL_STORAGE_MIN.0, EPHEMERAL_STORAGE_MAX.0),
    );
    let sizes = Sizes {
        timeout_seconds: limited("timeout", settings.timeout_seconds, (1, TIMEOUT_SECONDS_MAX)),
        memory: limited("memorySize", settings.memory_mib, memory).map(Mebibytes),
        ephemeral_storage: limited("ephemeralStorage.size", settings.ephemeral_storage_mib, storage).map(Mebibytes),
    };
    match broken.len() {
        0 => Ok(sizes),
        1 => Err(detected(&broken[0])),
        count => Err(Error::Validation(format!(
            "{count} validation errors detected: {}",
            broken.join("; ")
        ))),
    }
}

impl Settings {
    /// Refuses numbers beyond their limits, whatever they are for: the service looks at these first.
    pub fn check_sizes(&self) -> Result<(), Error> {
        sizes(self).map(drop)
    }
}

/// A function is durable from its creation, or never; its limits may change.
fn durable(settings: &Settings, to: &mut Configuration) -> Result<(), Error> {
    let Some(given) = settings.durable else { return Ok(()) };
    let Some(config) = &mut to.durable else {
        return Err(Error::InvalidParameter(
            "DurableConfig can only be set when a function is created; this function was created without it."
                .to_owned(),
        ));
    };
    if let Some(seconds) = given.execution_timeout_seconds {
        let seconds = within("durableConfig.executionTimeout", seconds, 1, EXECUTION_SECONDS_MAX)?;
        config.execution_timeout_seconds = seconds;
    }
    if let Some(days) = given.retention_days {
        config.retention_days = within("durableConfig.retentionPeriodInDays", days, 1, RETENTION_DAYS_MAX)?;
    }
    Ok(())
}

/// How the process of an image is started; what is given replaces all that was.
fn image(settings: &Settings, to: &mut Configuration) -> Result<(), Error> {
    let Some(config) = &settings.image else { return Ok(()) };
    let Some(image) = &mut to.image else {
        if config.is_empty() {
            return Ok(());
        }
        return Err(Error::InvalidParameter(
            "Please don't provide ImageConfig when packageType is Zip.".to_owned(),
        ));
    };
    for (member, words) in [
        ("imageConfig.entryPoint", &config.entry_point),
        ("imageConfig.command", &config.command),
    ] {
        if words.len() > IMAGE_WORDS_MAX {
            return Err(Error::Validation(format!(
                "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have length \
                 less than or equal to {IMAGE_WORDS_MAX}"
            )));
        }
    }
    let folder = &config.working_directory;
    at_most("imageConfig.workingDirectory", folder, WORKING_DIRECTORY_CHARS_MAX)?;
    image.config.clone_from(config);
    Ok(())
}

/// Images are fetched for this node's processor: they cannot be told another one.
pub(super) fn architecture(given: Option<Architecture>, code: &Code) -> Result<(), Error> {
    match (code, given) {
        (Code::Image(_), Some(given)) if given != Architecture::HERE => Err(Error::InvalidParameter(
            "Architectures names another processor than this node's, for which its images are.".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// An image brings what a package is told: whether a runtime, a handler or layers are given.
pub(super) fn refuse_with_image(given: [bool; 3]) -> Result<(), Error> {
    if given.contains(&true) {
        return Err(Error::InvalidParameter(
            "Please don't provide Handler or Runtime or Layer when packageType is Image.".to_owned(),
        ));
    }
    Ok(())
}

/// The handler that is stored: interpreted runtimes need one.
pub(super) fn handler(handler: Option<&str>, runtime: Runtime) -> Result<String, Error> {
    let provided = matches!(runtime, Runtime::ProvidedAl2023 | Runtime::ProvidedAl2);
    let Some(handler) = handler.filter(|handler| !handler.is_empty()) else {
        if provided {
            return Ok(String::new());
        }
        return Err(Error::InvalidParameter(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.".to_owned(),
        ));
    };
    at_most("handler", handler, HANDLER_CHARS_MAX)?;
    if handler.contains(char::is_whitespace) {
        return Err(unmatched("handler", handler, "[^\\s]+"));
    }
    Ok(handler.to_owned())
}

/// The role's ARN. Nobody assumes it here: only its form is looked at.
pub(super) fn role(role: &str) -> Result<String, Error> {
    if !is_role(role) {
        return Err(unmatched(
            "role",
            role,
            "arn:(aws[a-zA-Z-]*)?:iam::(\\d{12}):role/?[a-zA-Z_0-9+=,.@\\-_/]+",
        ));
    }
    Ok(role.to_owned())
}

fn is_role(role: &str) -> bool {
    let parts: Vec<&str> = role.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else {
        return false;
    };
    let is_partition = partition.is_empty()
        || partition.strip_prefix("aws").is_some_and(|rest| {
            let mut rest = rest.bytes();
            rest.all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
        });
    let name = resource.strip_prefix("role");
    let is_name = name.is_some_and(|name| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
        name.len() > usize::from(name.starts_with('/')) && name.bytes().all(allowed)
    });
    is_partition && account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) && is_name
}

pub(super) fn description(text: &str) -> Result<(), Error> {
    at_most("description", text, DESCRIPTION_CHARS_MAX)
}

fn environment(variables: &BTreeMap<String, String>) -> Result<(), Error> {
    if let Some(name) = variables.keys().find(|name| !is_variable(name)) {
        return Err(Error::Validation(format!(
            "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: Map keys must \
             satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+], the key is \
             `{name}`"
        )));
    }
    let reserved: Vec<&str> = variables
        .keys()
        .map(String::as_str)
        .filter(|name| RESERVED_VARIABLES.contains(name))
        .collect();
    if !reserved.is_empty() {
        return Err(Error::InvalidParameter(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have \
             provided contains reserved keys that are currently not supported for modification. Reserved keys used in \
             this request: {}",
            reserved.join(", ")
        )));
    }
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENVIRONMENT_BYTES_MAX {
        // The service goes on with the variables themselves; secrets have no place in an error.
        return Err(Error::InvalidParameter(
            "Lambda was unable to configure your environment variables because the environment variables you have \
             provided exceeded the 4KB limit."
                .to_owned(),
        ));
    }
    if variables.values().any(|value| value.contains('\0')) {
        return Err(Error::InvalidParameter(
            "Environment variable values must not hold a zero byte.".to_owned(),
        ));
    }
    Ok(())
}

/// Two characters at least, the first a letter; reserved names begin with an underscore and are told apart later.
fn is_variable(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic()) || RESERVED_VARIABLES.contains(&name);
    begins && name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The tags that a function would have.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> Result<(), Error> {
    if tags.len() > TAGS_MAX {
        return Err(Error::InvalidParameter(format!(
            "Number of tags exceeds resource tag limit of {TAGS_MAX}."
        )));
    }
    for (key, value) in tags {
        if key.is_empty() {
            return Err(Error::InvalidParameter("Tag keys must not be empty.".to_owned()));
        }
        at_most("tags.key", key, TAG_KEY_CHARS_MAX)?;
        at_most("tags.value", value, TAG_VALUE_CHARS_MAX)?;
        if key.starts_with("aws:") {
            return Err(Error::InvalidParameter(
                "Tag keys beginning with `aws:` are reserved.".to_owned(),
            ));
        }
    }
    Ok(())
}

/// The share of invocations of a second version.
pub(super) fn weight(weight: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&weight) {
        return Ok(());
    }
    Err(Error::Validation(format!(
        "1 validation error detected: Value '{weight}' at 'routingConfig.additionalVersionWeights' failed to satisfy \
         constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must \
         have value greater than or equal to 0.0]"
    )))
}

pub(super) fn within(member: &str, value: i64, min: u32, max: u32) -> Result<u32, Error> {
    range(member, value, min, max).map_err(|violation| detected(&violation))
}

fn detected(violation: &str) -> Error {
    Error::Validation(format!("1 validation error detected: {violation}"))
}

/// The number, or which constraint it breaks.
fn range(member: &str, value: i64, min: u32, max: u32) -> Result<u32, String> {
    let broken = |relation: &str, limit: u32| {
        format!(
            "Value '{value}' at '{member}' failed to satisfy constraint: Member must have value {relation} than or \
             equal to {limit}"
        )
    };
    if value < i64::from(min) {
        return Err(broken("greater", min));
    }
    match u32::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(broken("less", max)),
    }
}

pub(super) fn at_most(member: &str, value: &str, chars_max: usize) -> Result<(), Error> {
    if value.chars().count() <= chars_max {
        return Ok(());
    }
    Err(Error::Validation(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must have \
         length less than or equal to {chars_max}"
    )))
}

fn unmatched(member: &str, value: &str, pattern: &str) -> Error {
    Error::Validation(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must satisfy \
         regular expression pattern: {pattern}"
    ))
}
