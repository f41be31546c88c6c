//! The records of telemetry and their public form, by the schemas of the Telemetry API and the Logs API.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use bowline_sandbox::VersionSpec;
use bowline_sandbox::record::{self, Done, Metrics, Status, milliseconds};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::runtime_api::{Schema, Stream};

/// How sandboxes come to be here.
const INITIALISATION: &str = "on-demand";

/// Something that is told.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// The initialisation began.
    InitStart(Arc<VersionSpec>),
    /// The runtime has asked for its first event, or will not.
    InitRuntimeDone(Status),
    /// The initialisation ended.
    InitReport(Status, Duration),
    /// How an extension came through the initialisation.
    Extension {
        name: Box<str>,
        state: &'static str,
        events: Vec<&'static str>,
        error_type: Option<Box<str>>,
    },
    /// An extension subscribed.
    Subscription { name: Box<str>, streams: Vec<Stream> },
    /// An invocation began.
    Start {
        request_id: RequestId,
        version: String,
        trace_id: Option<String>,
    },
    /// The runtime has answered, or will not.
    RuntimeDone {
        request_id: RequestId,
        status: Status,
        trace_id: Option<String>,
        done: Done,
    },
    /// The invocation is over for everybody.
    Report {
        request_id: RequestId,
        status: Status,
        trace_id: Option<String>,
        metrics: Metrics,
    },
    /// The invocation is over, as the Logs API says it.
    End(RequestId),
    /// Records were dropped.
    LogsDropped { records: u64, bytes: u64 },
    /// A line that was printed.
    Line(Stream, String),
}

impl Record {
    /// The stream it belongs to.
    pub(crate) fn stream(&self) -> Stream {
        match self {
            Self::Line(stream, _) => *stream,
            _ => Stream::Platform,
        }
    }

    /// The record as one JSON object; `None` if the schema does not know it.
    pub(crate) fn render(&self, time: Timestamp, schema: Schema) -> Option<Bytes> {
        let (kind, record) = match schema {
            Schema::Telemetry => self.telemetry()?,
            Schema::Logs { runtime_done } => self.logs(runtime_done)?,
        };
        Some(record::whole(time, kind, &record).into())
    }

    fn telemetry(&self) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::InitStart(spec) => ("platform.initStart", init_start(spec)),
            Self::InitRuntimeDone(status) => {
                let mut record = json!({"initializationType": INITIALISATION, "phase": "init"});
                status.put(&mut record);
                ("platform.initRuntimeDone", record)
            }
            Self::InitReport(status, duration) => {
                let metrics = json!({"durationMs": milliseconds(*duration)});
                let mut record = json!({"initializationType": INITIALISATION, "phase": "init", "metrics": metrics});
                status.put(&mut record);
                ("platform.initReport", record)
            }
            Self::Subscription { name, streams } => ("platform.telemetrySubscription", subscription(name, streams)),
            Self::Start {
                request_id,
                version,
                trace_id,
            } => {
                let record = record::start(request_id, version, trace_id.as_deref());
                ("platform.start", record)
            }
            Self::RuntimeDone {
                request_id,
                status,
                trace_id,
                done,
            } => {
                let record = record::runtime_done(request_id, status, trace_id.as_deref(), *done);
                ("platform.runtimeDone", record)
            }
            Self::Report {
                request_id,
                status,
                trace_id,
                metrics,
            } => {
                let record = record::report(request_id, status, trace_id.as_deref(), metrics);
                ("platform.report", record)
            }
            Self::End(_) => return None,
            both => return both.both(),
        })
    }

    fn logs(&self, runtime_done: bool) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::InitStart(_) | Self::InitRuntimeDone(_) | Self::InitReport(..) => return None,
            Self::Subscription { name, streams } => ("platform.logsSubscription", subscription(name, streams)),
            Self::Start {
                request_id, version, ..
            } => {
                let record = record::start(request_id, version, None);
                ("platform.start", record)
            }
            Self::RuntimeDone { request_id, status, .. } if runtime_done => {
                // This API has one word for all that is neither success nor a timeout.
                let status = match status {
                    Status::Success => "success",
                    Status::Timeout => "timeout",
                    Status::Error(_) | Status::Failure(_) => "failure",
                };
                let record = json!({"requestId": request_id.as_str(), "status": status});
                ("platform.runtimeDone", record)
            }
            Self::RuntimeDone { .. } => return None,
            Self::Report {
                request_id, metrics, ..
            } => {
                let record = json!({"requestId": request_id.as_str(), "metrics": metrics.render()});
                ("platform.report", record)
            }
            Self::End(request_id) => ("platform.end", json!({"requestId": request_id.as_str()})),
            both => return both.both(),
        })
    }

    /// What both APIs say alike.
    fn both(&self) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::Extension {
                name,
                state,
                events,
                error_type,
            } => {
                let mut record = json!({"name": name, "state": state, "events": events});
                if let Some(error_type) = error_type {
                    record["errorType"] = (&**error_type).into();
                }
                ("platform.extension", record)
            }
            Self::LogsDropped { records, bytes } => {
                let reason = "the listener takes records more slowly than they come";
                let record = json!({"reason": reason, "droppedRecords": records, "droppedBytes": bytes});
                ("platform.logsDropped", record)
            }
            Self::Line(stream, text) => (stream.name(), text.as_str().into()),
            _ => return None,
        })
    }
}

fn init_start(spec: &VersionSpec) -> Value {
    json!({
        "initializationType": INITIALISATION,
        "phase": "init",
        "functionName": spec.function,
        "functionVersion": spec.version,
        "runtimeVersion": spec.runtime.to_string(),
        "instanceMaxMemory": spec.memory.bytes(),
    })
}

fn subscription(name: &str, streams: &[Stream]) -> Value {
    let types: Vec<_> = streams.iter().map(|stream| stream.name()).collect();
    json!({"name": name, "state": "Subscribed", "types": types})
}
