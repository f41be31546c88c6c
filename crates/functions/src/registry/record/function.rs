//! The record of a function: `$LATEST` and what all versions share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Record;
use super::configuration::ConfigurationRecord;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct FunctionRecord {
    pub tags: BTreeMap<String, String>,
    pub reserved_concurrency: Option<u32>,
    /// Missing: it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursion_allowed: bool,
    /// The number that the next published version gets.
    pub next_version: u64,
    /// `$LATEST` as it is shown.
    pub latest: ConfigurationRecord,
    /// What invocations of `$LATEST` get as long as that is something else.
    pub serving: Option<ConfigurationRecord>,
}

impl Record for FunctionRecord {
    const FORMAT: u32 = 1;
}
