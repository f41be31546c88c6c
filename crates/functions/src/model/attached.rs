//! What is attached to one qualifier of a function beside its code: a URL, provisioned concurrency, and how
//! its runtime is updated; and the shared state of a function.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_capacity::sizing::Profile;
use bowline_foundation::clock::Timestamp;

use crate::name::FunctionRef;
pub use crate::policy::UrlAuth;
use crate::state::{Attachment, StateName};

/// Everything attached to one qualifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    pub url: Option<Arc<Url>>,
    pub provisioned: Option<Provisioned>,
    pub runtime: Option<RuntimeManagement>,
    /// Shared state that the function may use, with all its versions.
    pub state: BTreeMap<StateName, Attachment>,
    /// How the memory of the version follows its use.
    pub sizing: Option<Profile>,
}

impl Attached {
    /// Whether nothing is attached any more.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An address at which a function answers HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// 32 characters of `a-z2-7`; stays as long as the configuration.
    pub id: String,
    pub auth: UrlAuth,
    pub mode: InvokeMode,
    pub cors: Option<Cors>,
    pub needs: UrlNeeds,
    pub created: Timestamp,
    pub last_modified: Timestamp,
}

/// What a policy must allow those who call a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UrlNeeds {
    /// `InvokeFunctionUrl`: URLs that were made when that was enough.
    #[default]
    Url,
    /// `InvokeFunctionUrl` and `InvokeFunction`.
    UrlAndFunction,
}

/// A URL with what it leads to: a function's `$LATEST`, without a qualifier, or an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlConfig {
    pub target: FunctionRef,
    pub url: Arc<Url>,
}

/// Whether an answer is sent whole or as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvokeMode {
    #[default]
    Buffered,
    ResponseStream,
}

/// What pages of other sites may do with a URL. `None` and an empty list mean the same when serving; they
/// are told apart because clients get back what they gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    pub allow_credentials: Option<bool>,
    pub allow_headers: Option<Vec<String>>,
    pub allow_methods: Option<Vec<String>>,
    pub allow_origins: Option<Vec<String>>,
    pub expose_headers: Option<Vec<String>>,
    /// Seconds that a browser may remember the answer to a preflight: 0 to 86,400.
    pub max_age: Option<u32>,
}

/// What `CreateFunctionUrlConfig` and `UpdateFunctionUrlConfig` take. `None` leaves a member as it is, or at
/// its default.
#[derive(Clone, Debug, Default)]
pub struct PutUrl {
    pub auth: Option<UrlAuth>,
    pub mode: Option<InvokeMode>,
    /// One without a member removes what was there.
    pub cors: Option<Cors>,
    /// As it came; judged with the rest.
    pub max_age: Option<i64>,
}

/// Sandboxes of a version that are kept initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    pub requested: u32,
    pub last_modified: Timestamp,
}

/// Provisioned concurrency as it is at a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvisionedConfig {
    /// With the version or the alias.
    pub target: FunctionRef,
    pub settings: Provisioned,
    /// Initialised sandboxes, busy or not.
    pub available: u32,
    pub status: ProvisionedStatus,
}

/// How far the sandboxes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvisionedStatus {
    InProgress,
    Ready,
    /// No sandbox can be made; the reason is for the owner.
    Failed(String),
}

/// When a qualifier's runtime is updated. There is one build of a runtime here, so it has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeManagement {
    FunctionUpdate,
    /// The ARN of the runtime's build that is wanted.
    Manual(String),
}
