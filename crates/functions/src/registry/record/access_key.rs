//! The record of an access key.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::access::{AccessKey, Secret};

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct AccessKeyRecord {
    account: AccountId,
    secret: String,
    created: Timestamp,
}

impl Record for AccessKeyRecord {
    const FORMAT: u32 = 1;
}

impl From<&AccessKey> for AccessKeyRecord {
    fn from(from: &AccessKey) -> Self {
        Self {
            account: from.account.clone(),
            secret: from.secret.reveal().to_owned(),
            created: from.created,
        }
    }
}

impl AccessKeyRecord {
    /// The key of the identifier that the record lay behind.
    pub fn into_model(self, id: String) -> AccessKey {
        AccessKey {
            id,
            account: self.account,
            secret: Secret::new(&self.secret),
            created: self.created,
        }
    }
}

/// Shows no secret.
impl std::fmt::Debug for AccessKeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKeyRecord")
            .field("account", &self.account)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}
