//! The record of a set whose attempts are used up.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::{MarkerRecord, Record};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct ParkedRecord {
    /// The marker as it last was.
    pub set: MarkerRecord,
    pub parked_at: Timestamp,
}

impl Record for ParkedRecord {
    const FORMAT: u32 = 1;
}
