//! The record of the right to work on something alone.

use serde::{Deserialize, Serialize};

use super::Record;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct LeaseRecord {
    /// Tells whoever wrote it from everybody else.
    pub holder: String,
}

impl Record for LeaseRecord {
    const FORMAT: u32 = 1;
}
