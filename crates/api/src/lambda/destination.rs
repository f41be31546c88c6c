//! What configurations of events share: destinations and moments.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::read;
use crate::dispatch::Call;
use crate::error::ApiError;

/// Where outcomes go.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DestinationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_success: Option<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Destination>,
}

/// One of them; without an ARN there is none.
#[derive(Default, PartialEq, Serialize, Deserialize)]
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

const PATTERN: &str = "Member must satisfy regular expression pattern: \
     ^$|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\\-])+:([a-z]{2}(-gov)?-[a-z]+-\\d{1})?:(\\d{12})?:(.*)";

/// Refuses what is no ARN at all; none is nobody's.
pub fn check(member: &str, arn: &str) -> Result<(), ApiError> {
    if arn.is_empty() || arn.starts_with("arn:") {
        return Ok(());
    }
    let member = format!("destinationConfig.{member}.destination");
    Err(read::invalid(arn, &member, PATTERN))
}

/// Refuses a destination that only the node's operator may send to: streams, whatever they are called, and buckets belong to no
/// account. Queues belong to the account in their ARN.
pub fn may_send(call: &Call<'_>, arn: &str) -> Result<(), ApiError> {
    let is_operator = call.key.is_none() || call.node.auth.is_operator(&call.account);
    // Whether a function may be invoked is told by its policy.
    if is_operator || matches!(arn.split(':').nth(2), None | Some("lambda")) {
        return Ok(());
    }
    let mut parts = arn.split(':').skip(2);
    if parts.next() == Some("sqs") && call.node.functions.has_queues() {
        return match parts.nth(1) {
            Some(owner) if owner == call.account.as_str() => Ok(()),
            _ => Err(ApiError::invalid(
                "The provided execution role does not have permissions to call SendMessage on SQS",
            )),
        };
    }
    Err(ApiError::invalid(format!(
        "The destination ARN {arn} names a stream of this node or a bucket beside it, to which account {} may not send: \
         queues, topics and streams are the operator's. Name a function of the account instead.",
        call.account
    )))
}

/// A moment as the wire's numbers have it: seconds since the Unix epoch.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}
