//! `DurableConfig` of a function.

use bowline_functions::durable::DurableConfig;
use bowline_functions::model::DurableSettings;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::lambda::read;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members {
    durable_config: Option<Given>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    execution_timeout: Option<i64>,
    retention_period_in_days: Option<i64>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
}

/// The shape `DurableConfig`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DurableConfigShape {
    retention_period_in_days: u32,
    execution_timeout: u32,
}

impl From<DurableConfig> for DurableConfigShape {
    fn from(config: DurableConfig) -> Self {
        Self {
            retention_period_in_days: config.retention_days,
            execution_timeout: config.execution_timeout_seconds,
        }
    }
}

/// Reads `DurableConfig` from the body of a creation or an update.
pub fn settings(body: &[u8]) -> Result<Option<DurableSettings>, ApiError> {
    let members: Members = read::json(body)?;
    let Some(given) = members.durable_config else {
        return Ok(None);
    };
    if given.kms_key_arn.is_some_and(|arn| !arn.is_empty()) {
        return Err(ApiError::invalid(
            "`DurableConfig.KMSKeyArn` is not available on this node: executions are not encrypted with keys of their own.",
        ));
    }
    Ok(Some(DurableSettings {
        execution_timeout_seconds: given.execution_timeout,
        retention_days: given.retention_period_in_days,
    }))
}
