//! The record of one mutation. Digests stand for what was and what became, so that no secret lies here.

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::Record;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct AuditRecord {
    /// Who asked.
    pub account: AccountId,
    pub request_id: String,
    /// The operation's name on the wire, or `Settle` for the node's own end of a preparation.
    pub action: String,
    /// The account and the name of the function, with the version or alias where it is about one.
    pub subject: String,
    /// Digests of the subject's record before and after.
    pub before: Option<Digest>,
    pub after: Option<Digest>,
    pub at_micros: u64,
}

impl Record for AuditRecord {
    const FORMAT: u32 = 1;
}
