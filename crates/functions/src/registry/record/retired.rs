//! The record that a deleted function leaves, so that version numbers never come twice.

use serde::{Deserialize, Serialize};

use super::Record;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct RetiredRecord {
    /// The number that the next published version of a function of this name gets.
    pub next_version: u64,
}

impl Record for RetiredRecord {
    const FORMAT: u32 = 1;
}
