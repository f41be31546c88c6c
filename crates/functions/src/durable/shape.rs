//! Operations as functions and callers see them; the wire's names.

use bowline_foundation::clock::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;

use super::operation::{Operation, OperationStatus, OperationType};

/// How a moment is written: functions read milliseconds, callers seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeForm {
    Millis,
    Seconds,
}

/// A moment on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Moment(Timestamp, TimeForm);

impl Moment {
    pub fn seconds(at: Timestamp) -> Self {
        Self(at, TimeForm::Seconds)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            TimeForm::Millis => to.serialize_u64(self.0.as_millis()),
            // A double holds microseconds of this era exactly enough to be read back.
            TimeForm::Seconds => to.serialize_f64(self.0.as_micros() as f64 / 1e6),
        }
    }
}

/// An operation with its payloads at hand.
#[derive(Clone, Debug)]
pub struct OperationView {
    pub operation: Operation,
    pub input: Option<String>,
    pub result: Option<String>,
    /// The JSON of the error.
    pub error: Option<Box<RawValue>>,
    pub callback_id: Option<String>,
}

/// The shape `Operation`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperationShape<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    r#type: OperationType,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_type: Option<&'a str>,
    start_timestamp: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_timestamp: Option<Moment>,
    status: OperationStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_details: Option<ExecutionDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_details: Option<ContextDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_details: Option<StepDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_details: Option<WaitDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_details: Option<CallbackDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chained_invoke_details: Option<OutcomeDetails<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecutionDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input_payload: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OutcomeDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContextDetails<'a> {
    replay_children: bool,
    #[serde(flatten)]
    outcome: OutcomeDetails<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StepDetails<'a> {
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_timestamp: Option<Moment>,
    #[serde(flatten)]
    outcome: OutcomeDetails<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_end_timestamp: Option<Moment>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CallbackDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_id: Option<&'a str>,
    #[serde(flatten)]
    outcome: OutcomeDetails<'a>,
}

impl<'a> OperationShape<'a> {
    pub fn new(view: &'a OperationView, form: TimeForm) -> Self {
        let operation = &view.operation;
        let moment = |at: Timestamp| Moment(at, form);
        let outcome = || OutcomeDetails {
            result: view.result.as_deref(),
            error: view.error.as_deref(),
        };
        let of = |kind: OperationType| operation.kind == kind;
        let ends = operation.seconds.map(|seconds| {
            let length = std::time::Duration::from_secs(seconds.into());
            moment(operation.started.after(length))
        });
        Self {
            id: &operation.id,
            parent_id: operation.parent.as_deref(),
            name: operation.name.as_deref(),
            r#type: operation.kind,
            sub_type: operation.sub_type.as_deref(),
            start_timestamp: moment(operation.started),
            end_timestamp: operation.ended.map(moment),
            status: operation.status,
            execution_details: of(OperationType::Execution).then_some(ExecutionDetails {
                input_payload: view.input.as_deref(),
            }),
            context_details: of(OperationType::Context).then(|| ContextDetails {
                replay_children: operation.replays_children,
                outcome: outcome(),
            }),
            step_details: of(OperationType::Step).then(|| StepDetails {
                attempt: operation.attempt,
                next_attempt_timestamp: operation.due.map(moment),
                outcome: outcome(),
            }),
            wait_details: of(OperationType::Wait).then_some(WaitDetails {
                scheduled_end_timestamp: ends,
            }),
            callback_details: of(OperationType::Callback).then(|| CallbackDetails {
                callback_id: view.callback_id.as_deref(),
                outcome: outcome(),
            }),
            chained_invoke_details: of(OperationType::ChainedInvoke).then(outcome),
        }
    }
}
