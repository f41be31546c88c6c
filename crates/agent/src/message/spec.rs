//! A version's specification as it is sent: apart from the type it is made of, so that either may change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{CodeDir, ImageSpec, Logging, Runtime, SandboxKind, VersionSpec};
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
}

/// Where code lies, as the node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CodeMessage {
    pub digest: Digest,
    pub path: PathBuf,
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
            // A version that shares folders runs in the node.
            mounts: Vec::new(),
        }
    }
}
