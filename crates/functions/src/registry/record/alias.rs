//! The record of an alias.

use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::{Record, RecordError};
use crate::model::Alias;
use crate::name::{AliasName, FunctionName, Version};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct AliasRecord {
    version: String,
    description: String,
    /// The second version and the share of invocations it gets.
    routing: Option<(String, f64)>,
    revision_id: String,
}

impl Record for AliasRecord {
    const FORMAT: u32 = 1;
}

impl From<&Alias> for AliasRecord {
    fn from(from: &Alias) -> Self {
        Self {
            version: from.version.to_string(),
            description: from.description.clone(),
            routing: from.routing.map(|(version, weight)| (version.to_string(), weight)),
            revision_id: from.revision_id.clone(),
        }
    }
}

impl AliasRecord {
    /// The alias whose key the record lay behind.
    pub fn into_model(self, account: AccountId, function: FunctionName, name: AliasName) -> Result<Alias, RecordError> {
        let version = |text: &str| text.parse::<Version>().map_err(|_| RecordError::Value(text.to_owned()));
        let routing = match &self.routing {
            None => None,
            Some((text, weight)) => Some((version(text)?, *weight)),
        };
        Ok(Alias {
            account,
            function,
            name,
            version: version(&self.version)?,
            description: self.description,
            routing,
            revision_id: self.revision_id,
        })
    }
}
