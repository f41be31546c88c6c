//! The registry's nouns, as the API shows them.

pub mod attached;
pub mod events;
pub mod image;
pub mod layers;
pub(crate) mod logging;
pub mod sizing;

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Runtime, SandboxKind};
use bytes::Bytes;

use self::image::{ImageConfig, ImageUse};
use self::layers::LayerUse;
use crate::durable::DurableConfig;
use crate::name::{AliasName, FunctionName, Qualifier, Version};
use crate::package;
use crate::policy::Policy;

/// Who besides the owner may use a function, a version or an alias.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourcePolicy {
    pub account: AccountId,
    pub function: FunctionName,
    /// `$LATEST` for the function without a qualifier.
    pub qualifier: Qualifier,
    pub policy: Policy,
    /// Changes with every change of the policy; a UUID.
    pub revision_id: String,
}

/// One version of a function, `$LATEST` included, with everything `GetFunctionConfiguration` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    pub account: AccountId,
    pub name: FunctionName,
    pub version: Version,
    pub runtime: Runtime,
    pub kind: SandboxKind,
    pub role: String,
    pub handler: String,
    pub description: String,
    pub timeout_seconds: u32,
    pub memory: Mebibytes,
    pub ephemeral_storage: Mebibytes,
    pub environment: BTreeMap<String, String>,
    pub architecture: Architecture,
    /// Digest and size of the deployment package as uploaded.
    pub code: CodePackage,
    /// What lies in `/opt`; a later one wins over an earlier.
    pub layers: Vec<LayerUse>,
    /// What the code is, if it is a container image. Then the runtime is `provided.al2023`, and not shown.
    pub image: Option<ImageUse>,
    pub last_modified: Timestamp,
    /// Changes with every mutation; a UUID.
    pub revision_id: String,
    pub state: State,
    pub last_update: LastUpdate,
    /// Settings that are kept as the wire's JSON object, keys being the wire's names: `LoggingConfig`,
    /// `DeadLetterConfig`, and those that have no effect on one node (VPC, tracing, KMS key and the like).
    pub inert: serde_json::Map<String, serde_json::Value>,
    /// Whether invocations are durable executions, and their limits. Set when the function is created.
    pub durable: Option<DurableConfig>,
}

impl Configuration {
    /// The digests of the layers' archives, in order.
    pub(crate) fn layer_digests(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.code.digest).collect()
    }

    /// Whatever of the blobs and the unpacked code the version runs on.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        let layers = self.layer_digests();
        let combination = package::layers::combination(&layers);
        let of_image = self.image.iter().flat_map(|image| image.parts.digests());
        let of_image: Vec<Digest> = of_image.collect();
        std::iter::once(self.code.digest)
            .chain(layers)
            .chain(combination)
            .chain(of_image)
    }
}

/// The processor a function was built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    #[default]
    X86_64,
    Arm64,
}

impl Architecture {
    /// This node's own, and so that of the images that it runs.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::X86_64
    };
}

/// A deployment package in the blob store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePackage {
    pub digest: Digest,
    pub bytes: u64,
}

/// Whether a version can be invoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The code is being prepared.
    Pending,
    Active,
    /// The code could not be prepared; the reason is for the owner.
    Failed {
        code: String,
        reason: String,
    },
}

/// How the last change of code or configuration went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastUpdate {
    Successful,
    InProgress,
    Failed { code: String, reason: String },
}

/// A function as `GetFunction` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionView {
    pub configuration: Configuration,
    pub tags: BTreeMap<String, String>,
    pub reserved_concurrency: Option<u32>,
}

/// A named pointer to one version, or to two by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    pub account: AccountId,
    pub function: FunctionName,
    pub name: AliasName,
    pub version: Version,
    pub description: String,
    /// The second version and the share of invocations it gets, 0.0 to 1.0.
    pub routing: Option<(Version, f64)>,
    pub revision_id: String,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it back to get the next page.
    pub next_marker: Option<String>,
}

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    pub marker: Option<String>,
    /// 1 to 10,000; more than 50 is cut to 50 as the service does.
    pub items_max: Option<u32>,
}

/// Who asks, for the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub account: AccountId,
    pub request_id: String,
}

/// What a function is to run.
#[derive(Clone, Debug)]
pub enum Code {
    /// A zip archive, or a bare WebAssembly module or component.
    Package(Bytes),
    /// A reference to a container image.
    Image(String),
}

impl From<Bytes> for Code {
    fn from(package: Bytes) -> Self {
        Self::Package(package)
    }
}

/// What `CreateFunction` takes. `None` means the service's default.
#[derive(Clone, Debug)]
pub struct CreateFunction {
    pub name: FunctionName,
    /// `provided.al2023` with an image, which brings its own.
    pub runtime: Runtime,
    pub role: String,
    pub handler: Option<String>,
    pub code: Code,
    pub settings: Settings,
    pub architecture: Option<Architecture>,
    pub tags: BTreeMap<String, String>,
    pub publish: bool,
}

/// The settings that `CreateFunction` and `UpdateFunctionConfiguration` share. `None` leaves the
/// setting as it is (or at its default).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub description: Option<String>,
    pub timeout_seconds: Option<i64>,
    pub memory_mib: Option<i64>,
    pub ephemeral_storage_mib: Option<i64>,
    pub environment: Option<BTreeMap<String, String>>,
    /// ARNs of layer versions.
    pub layers: Option<Vec<String>>,
    /// Only with an image.
    pub image: Option<ImageConfig>,
    pub inert: serde_json::Map<String, serde_json::Value>,
    pub durable: Option<DurableSettings>,
}

/// The limits of durable executions as they are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableSettings {
    pub execution_timeout_seconds: Option<i64>,
    pub retention_days: Option<i64>,
}

/// What `UpdateFunctionConfiguration` takes.
#[derive(Clone, Debug, Default)]
pub struct UpdateConfiguration {
    pub runtime: Option<Runtime>,
    pub role: Option<String>,
    pub handler: Option<String>,
    pub settings: Settings,
    pub revision_id: Option<String>,
}

/// What `UpdateFunctionCode` takes.
#[derive(Clone, Debug)]
pub struct UpdateCode {
    pub code: Code,
    pub architecture: Option<Architecture>,
    pub publish: bool,
    pub dry_run: bool,
    pub revision_id: Option<String>,
}

/// What `PublishVersion` takes.
#[derive(Clone, Debug, Default)]
pub struct PublishVersion {
    /// Base64 of the SHA-256 the code must have.
    pub code_sha256: Option<String>,
    pub description: Option<String>,
    pub revision_id: Option<String>,
}

/// What `CreateAlias` takes.
#[derive(Clone, Debug)]
pub struct CreateAlias {
    pub name: AliasName,
    pub version: Version,
    pub description: String,
    pub routing: Option<(Version, f64)>,
}

/// What `UpdateAlias` takes.
#[derive(Clone, Debug, Default)]
pub struct UpdateAlias {
    pub version: Option<Version>,
    pub description: Option<String>,
    /// `Some(None)` removes the routing.
    pub routing: Option<Option<(Version, f64)>>,
    pub revision_id: Option<String>,
}

/// What `GetAccountSettings` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountUsage {
    pub code_bytes: u64,
    pub functions: u64,
    pub concurrency_max: u32,
    pub unreserved_concurrency: u32,
}
