//! A version's specification as it is sent: apart from the type it is made of, so that either may change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    CodeDir, ImageSpec, Logging, Mount, MountAccess, ProcessorShare, Runtime, SandboxKind, VersionSpec,
};
use serde::{Deserialize, Serialize};

/// See [`VersionSpec`].
#[derive(Clone, Serialize, Deserialize)]
pub struct SpecMessage {
    account: AccountId,
    region: String,
    function: String,
    version: String,
    runtime: Runtime,
    handler: String,
    pub code: CodeMessage,
    pub layers: Option<CodeMessage>,
    image: Option<ImageMessage>,
    pub kind: SandboxKind,
    memory: Mebibytes,
    ephemeral_storage: Mebibytes,
    timeout_ms: u64,
    environment: BTreeMap<String, String>,
    #[serde(default)]
    logging: Logging,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<MountMessage>,
    /// Share and quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processors: Option<(u32, u32)>,
}

/// Where code lies, as the node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CodeMessage {
    pub digest: Digest,
    pub path: PathBuf,
}

/// See [`Mount`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MountMessage {
    share: String,
    at: String,
    access: AccessMessage,
}

/// See [`MountAccess`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AccessMessage {
    Read,
    Write,
    WriteAlone,
}

impl From<&Mount> for MountMessage {
    fn from(mount: &Mount) -> Self {
        Self {
            share: mount.share.clone(),
            at: mount.at.clone(),
            access: match mount.access {
                MountAccess::Read => AccessMessage::Read,
                MountAccess::Write => AccessMessage::Write,
                MountAccess::WriteAlone => AccessMessage::WriteAlone,
            },
        }
    }
}

impl From<MountMessage> for Mount {
    fn from(message: MountMessage) -> Self {
        Self {
            share: message.share,
            at: message.at,
            access: match message.access {
                AccessMessage::Read => MountAccess::Read,
                AccessMessage::Write => MountAccess::Write,
                AccessMessage::WriteAlone => MountAccess::WriteAlone,
            },
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ImageMessage {
    words: Vec<String>,
    environment: BTreeMap<String, String>,
    working_directory: String,
}

/// Without the environment: it may hold secrets.
impl std::fmt::Debug for SpecMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("SpecMessage");
        debug.field("function", &self.function).field("version", &self.version);
        debug.field("code", &self.code).finish_non_exhaustive()
    }
}

impl From<&VersionSpec> for SpecMessage {
    fn from(spec: &VersionSpec) -> Self {
        let code = |code: &CodeDir| CodeMessage {
            digest: code.digest,
            path: code.path.clone(),
        };
        Self {
            account: spec.account.clone(),
            region: spec.region.clone(),
            function: spec.function.clone(),
            version: spec.version.clone(),
            runtime: spec.runtime,
            handler: spec.handler.clone(),
            code: code(&spec.code),
            layers: spec.layers.as_ref().map(code),
            image: spec.image.as_ref().map(|image| ImageMessage {
                words: image.words.clone(),
                environment: image.environment.clone(),
                working_directory: image.working_directory.clone(),
            }),
            kind: spec.kind,
            memory: spec.memory,
            ephemeral_storage: spec.ephemeral_storage,
            timeout_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
            environment: spec.environment.clone(),
            logging: spec.logging.clone(),
            mounts: spec.mounts.iter().map(MountMessage::from).collect(),
            processors: spec
                .processors
                .map(|processors| (processors.share_millis, processors.quota_millis)),
        }
    }
}

impl From<SpecMessage> for VersionSpec {
    fn from(message: SpecMessage) -> Self {
        let code = |code: CodeMessage| CodeDir {
            digest: code.digest,
            path: code.path,
        };
        Self {
            account: message.account,
            region: message.region,
            function: message.function,
            version: message.version,
            runtime: message.runtime,
            handler: message.handler,
            code: code(message.code),
            layers: message.layers.map(code),
            image: message.image.map(|image| ImageSpec {
                words: image.words,
                environment: image.environment,
                working_directory: image.working_directory,
            }),
            kind: message.kind,
            memory: message.memory,
            ephemeral_storage: message.ephemeral_storage,
            timeout: Duration::from_millis(message.timeout_ms),
            environment: message.environment,
            logging: message.logging,
            mounts: message.mounts.into_iter().map(Mount::from).collect(),
            processors: message.processors.map(|(share_millis, quota_millis)| ProcessorShare {
                share_millis,
                quota_millis,
            }),
        }
    }
}
