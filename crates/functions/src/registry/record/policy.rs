//! The record of a resource policy.

use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::{Record, RecordError};
use crate::model::ResourcePolicy;
use crate::name::FunctionName;
use crate::policy::Policy;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct PolicyRecord {
    /// The policy document, JSON in itself.
    document: String,
    revision_id: String,
}

impl Record for PolicyRecord {
    const FORMAT: u32 = 1;
}

impl From<&ResourcePolicy> for PolicyRecord {
    fn from(from: &ResourcePolicy) -> Self {
        Self {
            document: from.policy.document(),
            revision_id: from.revision_id.clone(),
        }
    }
}

impl PolicyRecord {
    /// The policy whose key the record lay behind.
    pub fn into_model(
        self,
        account: AccountId,
        function: FunctionName,
        qualifier: &str,
    ) -> Result<ResourcePolicy, RecordError> {
        let value = |text: &str| RecordError::Value(text.to_owned());
        Ok(ResourcePolicy {
            account,
            function,
            qualifier: qualifier.parse().map_err(|_| value(qualifier))?,
            policy: Policy::parse(&self.document).map_err(|_| value(&self.document))?,
            revision_id: self.revision_id,
        })
    }
}
