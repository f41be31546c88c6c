//! Layers, as the API shows them.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bytes::Bytes;

use super::{Architecture, CodePackage};
use crate::name::layer::{LayerName, LayerRef};

/// A published version of a layer; all but its permissions is immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerVersion {
    pub account: AccountId,
    pub name: LayerName,
    pub number: u64,
    pub description: String,
    pub license: Option<String>,
    /// The runtimes it says it works with, as text: some of them no node may have.
    pub runtimes: Vec<String>,
    pub architectures: Vec<Architecture>,
    /// Digest and size of the archive as uploaded.
    pub code: CodePackage,
    pub unzipped_bytes: u64,
    pub created: Timestamp,
    pub policy: LayerPolicy,
}

/// Who besides its account may use a layer version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerPolicy {
    /// Changes with every change of the statements; a UUID, empty before the first.
    pub revision_id: String,
    pub statements: Vec<LayerStatement>,
}

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatement {
    pub id: String,
    pub principal: LayerPrincipal,
    /// Only accounts of this organization; no account of a node belongs to one.
    pub organization: Option<String>,
}

/// Whom a permission is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerPrincipal {
    Everybody,
    Account(AccountId),
}

impl LayerPolicy {
    /// Whether an account that does not own the layer may use it.
    pub fn permits(&self, account: &AccountId) -> bool {
        self.statements.iter().any(|statement| {
            let named = match &statement.principal {
                LayerPrincipal::Everybody => true,
                LayerPrincipal::Account(named) => named == account,
            };
            named && statement.organization.is_none()
        })
    }
}

/// A layer version as a function uses it; it stays so when the layer version is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUse {
    /// The ARN of the version.
    pub arn: String,
    pub code: CodePackage,
    pub unzipped_bytes: u64,
}

/// What `PublishLayerVersion` takes.
#[derive(Clone, Debug)]
pub struct PublishLayer {
    pub description: String,
    pub license: Option<String>,
    pub runtimes: Vec<String>,
    pub architectures: Vec<Architecture>,
    /// A zip archive.
    pub content: Bytes,
}

/// A layer version whose permissions are asked about.
#[derive(Clone, Debug)]
pub struct PolicyTarget {
    pub layer: LayerRef,
    pub number: u64,
    /// What the policy's revision must be, if anything.
    pub revision_id: Option<String>,
}

/// A layer version's policy with the document that the wire shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownPolicy {
    pub document: String,
    pub revision_id: String,
}

/// Which layer versions of a list are wanted.
#[derive(Clone, Debug, Default)]
pub struct LayerFilter {
    pub runtime: Option<String>,
    pub architecture: Option<Architecture>,
}

impl LayerFilter {
    /// Whether a layer version says that it works with what is asked for.
    pub fn matches(&self, version: &LayerVersion) -> bool {
        let runtime = (self.runtime.as_ref()).is_none_or(|runtime| version.runtimes.contains(runtime));
        let architecture = self
            .architecture
            .is_none_or(|architecture| version.architectures.contains(&architecture));
        runtime && architecture
    }
}
