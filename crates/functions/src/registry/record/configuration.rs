//! A configuration within a function's or a version's record.

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Runtime, SandboxKind};
use serde::{Deserialize, Serialize};

use super::image::ImageUseRecord;
use super::layer::LayerUseRecord;
use crate::durable::DurableConfig;
use crate::model::{Architecture, CodePackage, Configuration, LastUpdate, State};
use crate::name::{FunctionName, Version};

/// Everything of a [`Configuration`] that the record's key does not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct ConfigurationRecord {
    runtime: Runtime,
    kind: SandboxKind,
    role: String,
    handler: String,
    description: String,
    timeout_seconds: u32,
    memory_mib: u32,
    ephemeral_storage_mib: u32,
    environment: BTreeMap<String, String>,
    architecture: ArchitectureRecord,
    code_digest: Digest,
    code_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerUseRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<ImageUseRecord>,
    last_modified_micros: u64,
    revision_id: String,
    state: StateRecord,
    last_update: LastUpdateRecord,
    #[serde(default)]
    inert: serde_json::Map<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    durable: Option<DurableRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct DurableRecord {
    execution_timeout_seconds: u32,
    retention_days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ArchitectureRecord {
    #[serde(rename = "x86_64")]
    X86_64,
    Arm64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateRecord {
    Pending,
    Active,
    Failed { code: String, reason: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LastUpdateRecord {
    Successful,
    InProgress,
    Failed { code: String, reason: String },
}

impl From<&Configuration> for ConfigurationRecord {
    fn from(from: &Configuration) -> Self {
        Self {
            runtime: from.runtime,
            kind: from.kind,
            role: from.role.clone(),
            handler: from.handler.clone(),
            description: from.description.clone(),
            timeout_seconds: from.timeout_seconds,
            memory_mib: from.memory.0,
            ephemeral_storage_mib: from.ephemeral_storage.0,
            environment: from.environment.clone(),
            architecture: from.architecture.into(),
            code_digest: from.code.digest,
            code_bytes: from.code.bytes,
            layers: from.layers.iter().map(Into::into).collect(),
            image: from.image.as_ref().map(Into::into),
            last_modified_micros: from.last_modified.as_micros(),
            revision_id: from.revision_id.clone(),
            state: (&from.state).into(),
            last_update: (&from.last_update).into(),
            inert: from.inert.clone(),
            durable: from.durable.map(|durable| DurableRecord {
                execution_timeout_seconds: durable.execution_timeout_seconds,
                retention_days: durable.retention_days,
            }),
        }
    }
}

impl ConfigurationRecord {
    /// The configuration of the version whose key the record lay behind.
    pub fn into_model(self, account: AccountId, name: FunctionName, version: Version) -> Configuration {
        Configuration {
            account,
            name,
            version,
            runtime: self.runtime,
            kind: self.kind,
            role: self.role,
            handler: self.handler,
            description: self.description,
            timeout_seconds: self.timeout_seconds,
            memory: Mebibytes(self.memory_mib),
            ephemeral_storage: Mebibytes(self.ephemeral_storage_mib),
            environment: self.environment,
            architecture: self.architecture.into(),
            code: CodePackage {
                digest: self.code_digest,
                bytes: self.code_bytes,
            },
            layers: self.layers.into_iter().map(Into::into).collect(),
            image: self.image.map(|image| image.into_model(self.code_digest)),
            last_modified: Timestamp::from_micros(self.last_modified_micros),
            revision_id: self.revision_id,
            state: self.state.into(),
            last_update: self.last_update.into(),
            inert: self.inert,
            durable: self.durable.map(|durable| DurableConfig {
                execution_timeout_seconds: durable.execution_timeout_seconds,
                retention_days: durable.retention_days,
            }),
        }
    }
}

impl From<Architecture> for ArchitectureRecord {
    fn from(from: Architecture) -> Self {
        match from {
            Architecture::X86_64 => Self::X86_64,
            Architecture::Arm64 => Self::Arm64,
        }
    }
}

impl From<ArchitectureRecord> for Architecture {
    fn from(from: ArchitectureRecord) -> Self {
        match from {
            ArchitectureRecord::X86_64 => Self::X86_64,
            ArchitectureRecord::Arm64 => Self::Arm64,
        }
    }
}

impl From<&State> for StateRecord {
    fn from(from: &State) -> Self {
        match from.clone() {
            State::Pending => Self::Pending,
            State::Active => Self::Active,
            State::Failed { code, reason } => Self::Failed { code, reason },
        }
    }
}

impl From<StateRecord> for State {
    fn from(from: StateRecord) -> Self {
        match from {
            StateRecord::Pending => Self::Pending,
            StateRecord::Active => Self::Active,
            StateRecord::Failed { code, reason } => Self::Failed { code, reason },
        }
    }
}

impl From<&LastUpdate> for LastUpdateRecord {
    fn from(from: &LastUpdate) -> Self {
        match from.clone() {
            LastUpdate::Successful => Self::Successful,
            LastUpdate::InProgress => Self::InProgress,
            LastUpdate::Failed { code, reason } => Self::Failed { code, reason },
        }
    }
}

impl From<LastUpdateRecord> for LastUpdate {
    fn from(from: LastUpdateRecord) -> Self {
        match from {
            LastUpdateRecord::Successful => Self::Successful,
            LastUpdateRecord::InProgress => Self::InProgress,
            LastUpdateRecord::Failed { code, reason } => Self::Failed { code, reason },
        }
    }
}
