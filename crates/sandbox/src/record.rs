//! What the platform tells of an invocation, by the schema of the Telemetry API: to extensions, and in logs of JSON
//! lines.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use serde_json::{Value, json};

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Success,
    /// The function or an extension is at fault; the type of the error.
    Error(String),
    /// The platform is.
    Failure(String),
    /// It reached its time limit.
    Timeout,
}

/// What an invocation used.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// How long it took.
    pub duration: Duration,
    /// What it may have.
    pub memory_mib: u32,
    /// The most that it had.
    pub memory_bytes_max: u64,
    /// Of the invocation for which the sandbox was made.
    pub init: Option<Duration>,
}

/// What the runtime has done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// When the invocation began.
    pub started: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The length of the answer.
    pub bytes: u64,
}

impl Status {
    /// The status of what ended with an error of this type.
    pub fn of_error(error_type: &str) -> Self {
        match error_type {
            "Sandbox.Timedout" => Self::Timeout,
            other if other.starts_with("Sandbox.") => Self::Failure(other.to_owned()),
            other => Self::Error(other.to_owned()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error(_) => "error",
            Self::Failure(_) => "failure",
            Self::Timeout => "timeout",
        }
    }

    /// Puts the status, and the error's type if there is one.
    pub fn put(&self, record: &mut Value) {
        record["status"] = self.name().into();
        if let Self::Error(error_type) | Self::Failure(error_type) = self {
            record["errorType"] = error_type.as_str().into();
        }
    }
}

impl Metrics {
    /// The object of that name in a report.
    pub fn render(&self) -> Value {
        let mut metrics = json!({
            "durationMs": milliseconds(self.duration),
            "billedDurationMs": whole_milliseconds(self.duration),
            "memorySizeMB": self.memory_mib,
            "maxMemoryUsedMB": self.memory_bytes_max.div_ceil(1024 * 1024),
        });
        if let Some(init) = self.init {
            metrics["initDurationMs"] = milliseconds(init).into();
        }
        metrics
    }
}

/// The record of `platform.start`.
pub fn start(request_id: &RequestId, version: &str, trace_id: Option<&str>) -> Value {
    let mut record = json!({"requestId": request_id.as_str(), "version": version});
    put_tracing(&mut record, trace_id);
    record
}

/// The record of `platform.runtimeDone`.
pub fn runtime_done(request_id: &RequestId, status: &Status, trace_id: Option<&str>, done: Done) -> Value {
    let duration = milliseconds(done.duration);
    let mut record = json!({
        "requestId": request_id.as_str(),
        "metrics": {"durationMs": duration, "producedBytes": done.bytes},
        "spans": [{"name": "responseLatency", "start": rfc3339(done.started), "durationMs": duration}],
    });
    status.put(&mut record);
    put_tracing(&mut record, trace_id);
    record
}

/// The record of `platform.report`.
pub fn report(request_id: &RequestId, status: &Status, trace_id: Option<&str>, metrics: &Metrics) -> Value {
    let mut record = json!({"requestId": request_id.as_str(), "metrics": metrics.render()});
    status.put(&mut record);
    put_tracing(&mut record, trace_id);
    record
}

/// A record with its time and type, as one JSON object.
pub fn whole(time: Timestamp, kind: &str, record: &Value) -> String {
    let time = rfc3339(time);
    format!(r#"{{"time":"{time}","type":"{kind}","record":{record}}}"#)
}

/// A duration as records have it.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn put_tracing(record: &mut Value, trace_id: Option<&str>) {
    if let Some(value) = trace_id {
        record["tracing"] = json!({"type": "X-Amzn-Trace-Id", "value": value});
    }
}

/// `2026-11-20T23:24:39.123Z`.
fn rfc3339(time: Timestamp) -> String {
    let text = time.to_lambda_string();
    let text = text.strip_suffix("+0000").unwrap_or(&text);
    format!("{text}Z")
}
