//! The record of how a function's, version's or alias's events are treated.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::{Record, RecordError};
use crate::model::events::{EventInvokeConfig, EventInvokeSettings};
use crate::name::FunctionName;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct EventInvokeRecord {
    retries_max: Option<u32>,
    age_seconds_max: Option<u32>,
    on_success: Option<String>,
    on_failure: Option<String>,
    last_modified: Timestamp,
}

impl Record for EventInvokeRecord {
    const FORMAT: u32 = 1;
}

impl From<&EventInvokeConfig> for EventInvokeRecord {
    fn from(from: &EventInvokeConfig) -> Self {
        let settings = from.settings.clone();
        Self {
            retries_max: settings.retries_max,
            age_seconds_max: settings.age_seconds_max,
            on_success: settings.on_success,
            on_failure: settings.on_failure,
            last_modified: from.last_modified,
        }
    }
}

impl EventInvokeRecord {
    /// The configuration whose key the record lay behind.
    pub fn into_model(
        self,
        account: AccountId,
        function: FunctionName,
        qualifier: &str,
    ) -> Result<EventInvokeConfig, RecordError> {
        Ok(EventInvokeConfig {
            account,
            function,
            qualifier: qualifier
                .parse()
                .map_err(|_| RecordError::Value(qualifier.to_owned()))?,
            settings: EventInvokeSettings {
                retries_max: self.retries_max,
                age_seconds_max: self.age_seconds_max,
                on_success: self.on_success,
                on_failure: self.on_failure,
            },
            last_modified: self.last_modified,
        })
    }
}
