//! The record of one mutation by an operator or client; deliveries and acknowledgements leave none.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct AuditRecord {
    pub who: String,
    pub request_id: String,
    /// `CreateSession`, `SeekSession`, `DeleteSession`, `RedriveSession` or `DropParked`; `SetStream` or
    /// `DeleteStream`.
    pub action: String,
    /// The session or the stream.
    pub subject: String,
    /// What it changed, in words.
    pub before: Option<String>,
    pub after: Option<String>,
    pub at: Timestamp,
}

impl Record for AuditRecord {
    const FORMAT: u32 = 1;
}
