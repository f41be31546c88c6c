//! The record of a published version.

use serde::{Deserialize, Serialize};

use super::Record;
use super::configuration::ConfigurationRecord;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct VersionRecord {
    pub configuration: ConfigurationRecord,
    /// The description `$LATEST` had when it was published; the version may have been given another.
    pub source_description: String,
}

impl Record for VersionRecord {
    const FORMAT: u32 = 1;
}
