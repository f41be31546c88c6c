//! What configurations of events share: destinations and moments.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

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

/// A moment as the wire's numbers have it: seconds since the Unix epoch.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}
