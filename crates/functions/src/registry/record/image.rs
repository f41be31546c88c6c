//! The record of an uploaded image, and of one within a function's configuration.

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_oci::Process;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::image::{ImageConfig, ImageParts, ImageUse, StoredImage};
use crate::name::image::{ImageName, Tag};

/// An image under a tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct ImageRecord {
    digest: Digest,
    config_digest: Digest,
    layers: Vec<Digest>,
    bytes: u64,
    process: ProcessRecord,
    created: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ProcessRecord {
    entry_point: Vec<String>,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    working_directory: String,
}

/// An image within a function's configuration, whose digest is the one of its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct ImageUseRecord {
    uri: String,
    resolved_uri: String,
    config_digest: Digest,
    layers: Vec<Digest>,
    bytes: u64,
    process: ProcessRecord,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    entry_point: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    working_directory: String,
}

impl Record for ImageRecord {
    const FORMAT: u32 = 1;
}

impl From<&StoredImage> for ImageRecord {
    fn from(from: &StoredImage) -> Self {
        Self {
            digest: from.parts.digest,
            config_digest: from.parts.config,
            layers: from.parts.layers.clone(),
            bytes: from.parts.bytes,
            process: (&from.process).into(),
            created: from.created,
        }
    }
}

impl ImageRecord {
    /// The image whose key the record lay behind.
    pub fn into_model(self, account: AccountId, name: ImageName, tag: Tag) -> StoredImage {
        StoredImage {
            account,
            name,
            tag,
            parts: ImageParts {
                digest: self.digest,
                config: self.config_digest,
                layers: self.layers,
                bytes: self.bytes,
            },
            process: self.process.into(),
            created: self.created,
        }
    }
}

impl From<&ImageUse> for ImageUseRecord {
    fn from(from: &ImageUse) -> Self {
        Self {
            uri: from.uri.clone(),
            resolved_uri: from.resolved_uri.clone(),
            config_digest: from.parts.config,
            layers: from.parts.layers.clone(),
            bytes: from.parts.bytes,
            process: (&from.process).into(),
            entry_point: from.config.entry_point.clone(),
            command: from.config.command.clone(),
            working_directory: from.config.working_directory.clone(),
        }
    }
}

impl ImageUseRecord {
    /// The image with this digest.
    pub fn into_model(self, digest: Digest) -> ImageUse {
        ImageUse {
            uri: self.uri,
            resolved_uri: self.resolved_uri,
            parts: ImageParts {
                digest,
                config: self.config_digest,
                layers: self.layers,
                bytes: self.bytes,
            },
            process: self.process.into(),
            config: ImageConfig {
                entry_point: self.entry_point,
                command: self.command,
                working_directory: self.working_directory,
            },
        }
    }
}

impl From<&Process> for ProcessRecord {
    fn from(from: &Process) -> Self {
        Self {
            entry_point: from.entry_point.clone(),
            command: from.command.clone(),
            environment: from.environment.clone(),
            working_directory: from.working_directory.clone(),
        }
    }
}

impl From<ProcessRecord> for Process {
    fn from(from: ProcessRecord) -> Self {
        Self {
            entry_point: from.entry_point,
            command: from.command,
            environment: from.environment,
            working_directory: from.working_directory,
        }
    }
}
