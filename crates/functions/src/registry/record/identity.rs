//! The record of which store this is.

use serde::{Deserialize, Serialize};

use super::Record;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct IdentityRecord {
    /// What no other store has, unless it is a copy.
    pub id: String,
}

impl Record for IdentityRecord {
    const FORMAT: u32 = 1;
}
