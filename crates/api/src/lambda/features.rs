//! Settings that are kept as they were given: those of the log, and those that one node does not act on. What
//! has no effect is kept and shown, what a function would miss is refused.

use bowline_sandbox::{ApplicationLogLevel, SystemLogLevel};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::read::{Violations, json as read_json};
use crate::error::ApiError;

/// The members of `CreateFunction` and `UpdateFunctionConfiguration` that belong to such settings.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members {
    vpc_config: Option<VpcConfig>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
    tracing_config: Option<TracingConfig>,
    logging_config: Option<LoggingConfig>,
    snap_start: Option<SnapStart>,
    file_system_configs: Option<Vec<Value>>,
    dead_letter_config: Option<DeadLetterConfig>,
    code_signing_config_arn: Option<String>,
    capacity_provider_config: Option<Map<String, Value>>,
    tenancy_config: Option<Map<String, Value>>,
    publish_to: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VpcConfig {
    #[serde(default)]
    subnet_ids: Vec<String>,
    #[serde(default)]
    security_group_ids: Vec<String>,
    ipv6_allowed_for_dual_stack: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TracingConfig {
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoggingConfig {
    log_format: Option<String>,
    application_log_level: Option<String>,
    system_log_level: Option<String>,
    log_group: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnapStart {
    apply_on: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeadLetterConfig {
    target_arn: Option<String>,
}

const LOG_GROUP_CHARS_MAX: usize = 512;
const LOG_GROUP_PATTERN: &str = r"Member must satisfy regular expression pattern: [\.\-_/#A-Za-z0-9]+";

const RESOURCE_PATTERN: &str =
    "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()";

/// Whether a text has the pattern, or names a stream in the node's own way.
fn is_resource(arn: &str) -> bool {
    let mut parts = arn.splitn(4, ':');
    let ("arn", Some(partition), Some(service), Some(_)) = (
        parts.next().unwrap_or_default(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return arn.is_empty();
    };
    let is_partition = partition.is_empty()
        || partition == "bowline"
        || partition.strip_prefix("aws").is_some_and(|rest| {
            let mut rest = rest.bytes();
            rest.all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
        });
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    is_partition && !service.is_empty() && service.bytes().all(allowed)
}

fn check_group(group: &str, violations: &mut Violations) {
    let mut broken = |constraint: &str| violations.broken(&format!("'{group}'"), "loggingConfig.logGroup", constraint);
    if group.is_empty() {
        broken("Member must have length greater than or equal to 1");
    }
    if group.len() > LOG_GROUP_CHARS_MAX {
        broken("Member must have length less than or equal to 512");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#".contains(&byte);
    if !group.bytes().all(allowed) || group.is_empty() {
        broken(LOG_GROUP_PATTERN);
    }
}

/// Reads these settings from a request's body: what to keep, under the wire's names.
pub fn inert(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let members: Members = read_json(body)?;
    members.check()?;
    members.refuse()?;
    Ok(members.kept())
}

/// Where events go that failed, of settings that [`inert`] gave.
pub fn dead_letter_target(inert: &Map<String, Value>) -> Option<&str> {
    inert.get("DeadLetterConfig")?.get("TargetArn")?.as_str()
}

impl Members {
    fn check(&self) -> Result<(), ApiError> {
        let mut violations = Violations::default();
        if let Some(mode) = self.tracing_config.as_ref().and_then(|config| config.mode.as_deref()) {
            violations.one_of("tracingConfig.mode", mode, &["Active", "PassThrough"]);
        }
        if let Some(apply_on) = self.snap_start.as_ref().and_then(|config| config.apply_on.as_deref()) {
            violations.one_of("snapStart.applyOn", apply_on, &["PublishedVersions", "None"]);
        }
        if let Some(config) = &self.logging_config {
            config.check(&mut violations);
        }
        let dead_letters = self.dead_letter_config.as_ref();
        let resources = [
            ("kMSKeyArn", self.kms_key_arn.as_deref()),
            (
                "deadLetterConfig.targetArn",
                dead_letters.and_then(|config| config.target_arn.as_deref()),
            ),
        ];
        for (member, arn) in resources {
            if let Some(arn) = arn.filter(|arn| !is_resource(arn)) {
                violations.broken(&format!("'{arn}'"), member, RESOURCE_PATTERN);
            }
        }
        violations.finish()
    }

    /// What a function would miss, with the reason.
    fn refuse(&self) -> Result<(), ApiError> {
        let filled = |map: &Option<Map<String, Value>>| map.as_ref().is_some_and(|map| !map.is_empty());
        let wanted = [
            (
                "FileSystemConfigs",
                self.file_system_configs.as_ref().is_some_and(|list| !list.is_empty()),
                "there are no network file systems to mount; `bowline state` makes folders that functions share",
            ),
            (
                "CodeSigningConfigArn",
                self.code_signing_config_arn.as_ref().is_some_and(|arn| !arn.is_empty()),
                "there are no code signing configurations",
            ),
            (
                "CapacityProviderConfig",
                filled(&self.capacity_provider_config),
                "there are no capacity providers",
            ),
            (
                "TenancyConfig",
                filled(&self.tenancy_config),
                "sandboxes are not kept apart by tenant",
            ),
            (
                "PublishTo",
                self.publish_to.is_some(),
                "what it names belongs to functions with a capacity provider",
            ),
            (
                "SnapStart",
                self.snap_start
                    .as_ref()
                    .is_some_and(|config| config.apply_on.as_deref() == Some("PublishedVersions")),
                "versions start without snapshots; PutProvisionedConcurrencyConfig keeps sandboxes ready",
            ),
        ];
        match wanted.iter().find(|(_, used, _)| *used) {
            None => Ok(()),
            Some((member, _, reason)) => Err(ApiError::invalid(format!(
                "{member} is not available on this node: {reason}."
            ))),
        }
    }

    fn kept(self) -> Map<String, Value> {
        let mut kept = Map::new();
        if let Some(vpc) = self.vpc_config {
            let shown = json!({
                "SubnetIds": vpc.subnet_ids,
                "SecurityGroupIds": vpc.security_group_ids,
                "VpcId": "",
                "Ipv6AllowedForDualStack": vpc.ipv6_allowed_for_dual_stack.unwrap_or(false),
            });
            kept.insert("VpcConfig".to_owned(), shown);
        }
        if let Some(arn) = self.kms_key_arn {
            kept.insert("KMSKeyArn".to_owned(), arn.into());
        }
        if let Some(mode) = self.tracing_config.and_then(|config| config.mode) {
            kept.insert("TracingConfig".to_owned(), json!({ "Mode": mode }));
        }
        if let Some(config) = self.dead_letter_config {
            let arn = config.target_arn.unwrap_or_default();
            kept.insert("DeadLetterConfig".to_owned(), json!({ "TargetArn": arn }));
        }
        if let Some(config) = self.logging_config {
            kept.insert("LoggingConfig".to_owned(), config.shown());
        }
        kept
    }
}

impl LoggingConfig {
    fn check(&self, violations: &mut Violations) {
        let enums: [(&str, &Option<String>, &[&str]); 3] = [
            ("logFormat", &self.log_format, &["JSON", "Text"]),
            (
                "applicationLogLevel",
                &self.application_log_level,
                &ApplicationLogLevel::NAMES,
            ),
            ("systemLogLevel", &self.system_log_level, &SystemLogLevel::NAMES),
        ];
        for (member, value, allowed) in enums {
            if let Some(value) = value {
                violations.one_of(&format!("loggingConfig.{member}"), value, allowed);
            }
        }
        if let Some(group) = &self.log_group {
            check_group(group, violations);
        }
    }

    fn shown(self) -> Value {
        let members = [
            ("LogFormat", self.log_format),
            ("ApplicationLogLevel", self.application_log_level),
            ("SystemLogLevel", self.system_log_level),
            ("LogGroup", self.log_group),
        ];
        let given = members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
        Value::Object(given.collect())
    }
}
