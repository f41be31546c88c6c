//! How an invocation ended, on its way back.

use std::time::Duration;

use bowline_sandbox::{FunctionError, Outcome, Report, Usage};
use bytes::{BufMut, Bytes, BytesMut};

use super::{byte, long, put_text, take_text};
use crate::wire::WireError;

const WHAT: &str = "a report";

/// What a report's frame says.
#[derive(Clone, Debug)]
pub struct ReportMessage {
    pub report: Report,
    /// Whether the invocation is over for everybody in the sandbox.
    pub settled: bool,
    pub resident_bytes: u64,
}

/// Writes a report.
pub fn put(out: &mut BytesMut, message: &ReportMessage) {
    let report = &message.report;
    let (outcome, error_type, payload): (u8, Option<&str>, &[u8]) = match &report.outcome {
        Outcome::Success(answer) => (0, None, answer),
        Outcome::Failed(error) => (1, Some(&error.error_type), &error.payload),
        Outcome::Broken(reason) => (2, None, reason.as_bytes()),
        // Nobody in an instance is asked to leave.
        Outcome::Suspended(_) => (2, None, b"the guest has left"),
    };
    out.extend_from_slice(&[outcome, report.reusable.into(), message.settled.into()]);
    out.put_u64_le(micros(report.usage.duration));
    out.put_u64_le(report.usage.memory_bytes_max);
    out.put_u64_le(micros(report.usage.cpu));
    out.put_u64_le(message.resident_bytes);
    put_text(out, error_type);
    out.extend_from_slice(payload);
}

/// Reads one.
pub fn take(mut body: Bytes) -> Result<ReportMessage, WireError> {
    let wrong = || WireError::Body(WHAT);
    let outcome = byte(&mut body, WHAT)?;
    let reusable = flag(&mut body)?;
    let settled = flag(&mut body)?;
    let usage = Usage {
        duration: Duration::from_micros(long(&mut body, WHAT)?),
        memory_bytes_max: long(&mut body, WHAT)?,
        cpu: Duration::from_micros(long(&mut body, WHAT)?),
    };
    let resident_bytes = long(&mut body, WHAT)?;
    let error_type = take_text(&mut body)?;
    let outcome = match (outcome, error_type) {
        (0, None) => Outcome::Success(body),
        (1, Some(error_type)) => Outcome::Failed(FunctionError {
            error_type,
            payload: body,
        }),
        (2, None) => Outcome::Broken(String::from_utf8_lossy(&body).into_owned()),
        _ => return Err(wrong()),
    };
    Ok(ReportMessage {
        report: Report {
            outcome,
            usage,
            reusable,
        },
        settled,
        resident_bytes,
    })
}

fn flag(body: &mut Bytes) -> Result<bool, WireError> {
    match byte(body, WHAT)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Body(WHAT)),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_out_as_it_went_in() {
        let outcomes = [
            Outcome::Success(Bytes::from_static(b"42")),
            Outcome::Failed(FunctionError::new("KnotError", "it slipped")),
            Outcome::Broken("the sandbox is gone".to_owned()),
        ];
        for outcome in outcomes {
            let message = ReportMessage {
                report: Report {
                    outcome: outcome.clone(),
                    usage: Usage {
                        duration: Duration::from_micros(17),
                        memory_bytes_max: 5,
                        cpu: Duration::from_micros(11),
                    },
                    reusable: true,
                },
                settled: false,
                resident_bytes: 9,
            };
            let mut body = BytesMut::new();
            put(&mut body, &message);
            let read = take(body.clone().freeze()).unwrap();
            assert_eq!(read.report.outcome, outcome);
            assert_eq!(read.report.usage, message.report.usage);
            assert_eq!(
                (read.report.reusable, read.settled, read.resident_bytes),
                (true, false, 9)
            );
            for (at, bad) in [(0, 3), (1, 2), (2, 9)] {
                let mut wrong = body.clone();
                wrong[at] = bad;
                assert!(take(wrong.freeze()).is_err(), "byte {at}");
            }
            assert!(take(body.freeze().slice(..20)).is_err());
        }
    }
}
