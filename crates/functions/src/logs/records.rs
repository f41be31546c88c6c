//! The platform's records in a function's log of JSON lines, filtered by their levels.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use bowline_sandbox::SystemLogLevel;
use bowline_sandbox::record::{self, Done, Metrics};
use serde_json::Value;

use super::lines::{ReportLine, Status};

/// Writes what is told now.
pub(super) struct Records {
    /// The least level that is told.
    pub least: SystemLogLevel,
    pub now: Timestamp,
}

impl Records {
    pub fn start(&self, out: &mut Vec<u8>, request_id: &RequestId, version: &str) {
        self.put(out, SystemLogLevel::Info, "platform.start", || {
            record::start(request_id, version, None)
        });
    }

    /// What ends well is told in less detail than what does not.
    pub fn end(&self, out: &mut Vec<u8>, request_id: &RequestId, started: Timestamp, line: &ReportLine<'_>) {
        let (of_done, of_report) = match line.status {
            Status::Success => (SystemLogLevel::Debug, SystemLogLevel::Info),
            Status::Timeout | Status::Error { .. } => (SystemLogLevel::Warn, SystemLogLevel::Warn),
        };
        let status = status(line.status);
        self.put(out, of_done, "platform.runtimeDone", || {
            let done = Done {
                started,
                duration: line.duration,
                bytes: line.answer_bytes,
            };
            record::runtime_done(request_id, &status, None, done)
        });
        self.put(out, of_report, "platform.report", || {
            let metrics = Metrics {
                duration: line.duration,
                memory_mib: line.memory_mib,
                memory_bytes_max: line.memory_bytes_max,
                init: line.init,
            };
            record::report(request_id, &status, None, &metrics)
        });
    }

    fn put(&self, out: &mut Vec<u8>, level: SystemLogLevel, kind: &str, record: impl FnOnce() -> Value) {
        if level < self.least {
            return;
        }
        // What the guest printed last need not have ended its line.
        if out.last().is_some_and(|last| *last != b'\n') {
            out.push(b'\n');
        }
        out.extend_from_slice(record::whole(self.now, kind, &record()).as_bytes());
        out.push(b'\n');
    }
}

fn status(from: Status<'_>) -> record::Status {
    match from {
        Status::Success => record::Status::Success,
        Status::Timeout => record::Status::Timeout,
        Status::Error { error_type } => record::Status::of_error(error_type),
    }
}
