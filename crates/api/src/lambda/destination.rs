//! What configurations of events share: destinations and moments.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dispatch::Call;
use crate::error::ApiError;

/// Where outcomes go.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DestinationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_success: Option<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Destination>,
}

/// One of them; without an ARN there is none.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Destination {
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
}

impl Destination {
    pub fn new(arn: Option<String>) -> Self {
        Self { destination: arn }
    }

    /// The ARN; empty if there is none, which removes what was there.
    pub fn arn(self) -> String {
        self.destination.unwrap_or_default()
    }
}

/// Refuses a destination that only the node's operator may send to, as the service refuses one that a function's role
/// may not: streams, whatever they are called, belong to no account.
pub fn may_send(call: &Call<'_>, arn: &str) -> Result<(), ApiError> {
    let action = match arn.split(':').nth(2) {
        _ if call.key.is_none() || call.node.auth.is_operator(&call.account) => return Ok(()),
        // Whether a function may be invoked is told by its policy.
        None | Some("lambda") => return Ok(()),
        Some("sns") => "Publish",
        Some("sqs") => "SendMessage",
        Some(_) => "PutRecord",
    };
    Err(ApiError::invalid(format!(
        "The function's execution role does not have permissions to call {action} on {arn}"
    )))
}

/// A moment as the wire's numbers have it: seconds since the Unix epoch.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}
