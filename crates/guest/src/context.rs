//! What a handler may know about its invocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The invocation's circumstances.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) deadline_ms: u64,
    pub(crate) invoked_arn: &'a str,
    pub(crate) client_context: Option<&'a str>,
    pub(crate) trace_id: Option<&'a str>,
}

impl<'a> Context<'a> {
    /// Identifies the invocation in the logs.
    pub fn request_id(&self) -> &'a str {
        self.request_id
    }

    /// When the invocation is ended if it has not answered, in milliseconds since the Unix epoch.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The time left until the deadline.
    #[allow(clippy::disallowed_methods, reason = "a guest has no other clock than its host's")]
    pub fn remaining(&self) -> Duration {
        let deadline = UNIX_EPOCH + Duration::from_millis(self.deadline_ms);
        deadline.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// The ARN by which the caller named the function.
    pub fn invoked_arn(&self) -> &'a str {
        self.invoked_arn
    }

    /// The client context, as JSON text.
    pub fn client_context(&self) -> Option<&'a str> {
        self.client_context
    }

    /// The tracing header the caller sent.
    pub fn trace_id(&self) -> Option<&'a str> {
        self.trace_id
    }

    /// The function's name.
    pub fn function_name(&self) -> String {
        std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default()
    }

    /// The function's version.
    pub fn function_version(&self) -> String {
        std::env::var("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_default()
    }
}
