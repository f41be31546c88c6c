//! The records of a layer and of its versions.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::Record;
use super::configuration::ArchitectureRecord;
use crate::model::CodePackage;
use crate::model::layers::{LayerPolicy, LayerPrincipal, LayerStatement, LayerUse, LayerVersion};
use crate::name::layer::LayerName;

/// What outlives a layer's versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct LayerRecord {
    /// The number that the next version gets.
    pub next_version: u64,
}

impl Record for LayerRecord {
    const FORMAT: u32 = 1;
}

/// A published version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct LayerVersionRecord {
    description: String,
    license: Option<String>,
    runtimes: Vec<String>,
    architectures: Vec<ArchitectureRecord>,
    code_digest: Digest,
    code_bytes: u64,
    unzipped_bytes: u64,
    created: Timestamp,
    policy_revision_id: String,
    statements: Vec<StatementRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StatementRecord {
    id: String,
    /// Nothing for everybody.
    account: Option<AccountId>,
    organization: Option<String>,
}

/// A layer version within a function's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct LayerUseRecord {
    arn: String,
    code_digest: Digest,
    code_bytes: u64,
    unzipped_bytes: u64,
}

impl Record for LayerVersionRecord {
    const FORMAT: u32 = 1;
}

impl From<&LayerVersion> for LayerVersionRecord {
    fn from(from: &LayerVersion) -> Self {
        Self {
            description: from.description.clone(),
            license: from.license.clone(),
            runtimes: from.runtimes.clone(),
            architectures: from.architectures.iter().copied().map(Into::into).collect(),
            code_digest: from.code.digest,
            code_bytes: from.code.bytes,
            unzipped_bytes: from.unzipped_bytes,
            created: from.created,
            policy_revision_id: from.policy.revision_id.clone(),
            statements: from.policy.statements.iter().map(Into::into).collect(),
        }
    }
}

impl LayerVersionRecord {
    /// The version whose key the record lay behind.
    pub fn into_model(self, account: AccountId, name: LayerName, number: u64) -> LayerVersion {
        LayerVersion {
            account,
            name,
            number,
            description: self.description,
            license: self.license,
            runtimes: self.runtimes,
            architectures: self.architectures.into_iter().map(Into::into).collect(),
            code: CodePackage {
                digest: self.code_digest,
                bytes: self.code_bytes,
            },
            unzipped_bytes: self.unzipped_bytes,
            created: self.created,
            policy: LayerPolicy {
                revision_id: self.policy_revision_id,
                statements: self.statements.into_iter().map(Into::into).collect(),
            },
        }
    }
}

impl From<&LayerStatement> for StatementRecord {
    fn from(from: &LayerStatement) -> Self {
        Self {
            id: from.id.clone(),
            account: match &from.principal {
                LayerPrincipal::Everybody => None,
                LayerPrincipal::Account(account) => Some(account.clone()),
            },
            organization: from.organization.clone(),
        }
    }
}

impl From<StatementRecord> for LayerStatement {
    fn from(from: StatementRecord) -> Self {
        Self {
            id: from.id,
            principal: match from.account {
                None => LayerPrincipal::Everybody,
                Some(account) => LayerPrincipal::Account(account),
            },
            organization: from.organization,
        }
    }
}

impl From<&LayerUse> for LayerUseRecord {
    fn from(from: &LayerUse) -> Self {
        Self {
            arn: from.arn.clone(),
            code_digest: from.code.digest,
            code_bytes: from.code.bytes,
            unzipped_bytes: from.unzipped_bytes,
        }
    }
}

impl From<LayerUseRecord> for LayerUse {
    fn from(from: LayerUseRecord) -> Self {
        Self {
            arn: from.arn,
            code: CodePackage {
                digest: from.code_digest,
                bytes: from.code_bytes,
            },
            unzipped_bytes: from.unzipped_bytes,
        }
    }
}
