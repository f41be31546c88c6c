//! One invocation: what goes into a sandbox and what comes out.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_foundation::id::RequestId;
use bytes::Bytes;
use serde::Serialize;

use crate::AnswerSink;
use crate::platform::Platform;
use crate::suspension::{Frozen, Suspension};

/// When an invocation must have ended, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// For the guest, as `Lambda-Runtime-Deadline-Ms`.
    pub wall: Timestamp,
    /// For the platform's own reckoning.
    pub monotonic: Monotonic,
    /// The time left when the invocation was handed to the sandbox.
    pub budget: Duration,
}

/// An event for a function, with what the runtime tells the handler about it.
#[derive(Debug)]
pub struct Invocation {
    /// Identifies the invocation in logs and to the guest.
    pub request_id: RequestId,
    /// The event: JSON, at most [`SYNC_PAYLOAD_BYTES_MAX`](bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX).
    pub payload: Bytes,
    /// When it must have ended.
    pub deadline: Deadline,
    /// The ARN the caller used, qualifier included.
    pub invoked_arn: String,
    /// The client context, decoded to JSON.
    pub client_context: Option<String>,
    /// The `X-Amzn-Trace-Id` the caller sent.
    pub trace_id: Option<String>,
    /// Where the answer goes while the function still writes it, if the caller takes it so.
    pub sink: Option<AnswerSink>,
    /// What the guest may ask the platform meanwhile, if anything.
    pub platform: Option<Arc<dyn Platform>>,
    /// How it is suspended and resumed, if it can be.
    pub suspension: Option<Suspension>,
}

/// How an invocation ended, with what it used.
#[derive(Clone, Debug)]
pub struct Report {
    /// The answer or the error.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// Whether the sandbox may serve another invocation.
    pub reusable: bool,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function's answer; empty if it went to the invocation's sink.
    Success(Bytes),
    /// The function failed: it returned an error, crashed, ran out of time or of memory.
    Failed(FunctionError),
    /// The platform failed: the caller may retry.
    Broken(String),
    /// It was asked to leave and has: it goes on from this, here or elsewhere.
    Suspended(Frozen),
}

/// A function error as the caller sees it: HTTP 200, `X-Amz-Function-Error` and this payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// For logs and metrics: `Runtime.ExitError`, `Sandbox.Timedout`, or the handler's own type.
    pub error_type: String,
    /// JSON with `errorMessage` and, where known, `errorType` and `stackTrace`.
    pub payload: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorPayload<'a> {
    error_type: &'a str,
    error_message: &'a str,
}

impl FunctionError {
    /// An error whose payload is `{"errorType", "errorMessage"}`.
    pub fn new(error_type: &str, message: &str) -> Self {
        let payload = ErrorPayload {
            error_type,
            error_message: message,
        };
        let payload = serde_json::to_vec(&payload).expect("two strings always serialise");
        Self {
            error_type: error_type.to_owned(),
            payload: payload.into(),
        }
    }

    /// The error of a function that ran longer than `limit`.
    pub fn timed_out(request_id: RequestId, limit: Duration) -> Self {
        let message = format!(
            "RequestId: {request_id} Error: Task timed out after {:.2} seconds",
            limit.as_secs_f64()
        );
        Self::new("Sandbox.Timedout", &message)
    }

    /// The error of a runtime that ended in the middle of an invocation; `status` reads like
    /// `exit status 1` or `signal: killed`.
    pub fn exited(request_id: RequestId, status: &str) -> Self {
        let message = format!("RequestId: {request_id} Error: Runtime exited with error: {status}");
        Self::new("Runtime.ExitError", &message)
    }

    /// The error of an answer that is larger than a synchronous caller may get.
    pub fn response_too_large(bytes: u64, bytes_max: usize) -> Self {
        let message =
            format!("Response payload size ({bytes} bytes) exceeded maximum allowed payload size ({bytes_max} bytes).");
        Self::new("Function.ResponseSizeTooLarge", &message)
    }
}

/// What an invocation used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From handing the event over to having the whole answer.
    pub duration: Duration,
    /// The highest memory use seen while the sandbox lived, in bytes; zero if unknown.
    pub memory_bytes_max: u64,
    /// Processor time of the invocation; zero if unknown.
    pub cpu: Duration,
}
