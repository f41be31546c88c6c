//! `GetDurableExecutionHistory`.

use bowline_functions::durable::shape::Moment;
use bowline_functions::durable::{Data, EventType, EventView};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::query::{data, flag, paging};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

/// `GetDurableExecutionHistory`.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let query = call.route.query;
    let data = data(query)?;
    let newest_first = flag(query, "ReverseOrder")?.unwrap_or(false);
    let functions = &call.node.functions;
    let found = functions
        .execution_history(&arn, data, newest_first, &paging(query)?)
        .await?;
    let events: Vec<Value> = found.items.iter().map(|view| shown(view, data)).collect();
    let mut answer = json!({ "Events": events });
    if let Some(marker) = found.next_marker {
        answer["NextMarker"] = marker.into();
    }
    Ok(reply::json(StatusCode::OK, &answer))
}

/// The shape `Event`.
pub(super) fn shown(view: &EventView, data: Data) -> Value {
    let event = &view.event;
    let mut shown = Map::new();
    shown.insert("EventType".to_owned(), json!(event.kind));
    shown.insert("EventId".to_owned(), event.number.into());
    shown.insert("EventTimestamp".to_owned(), json!(Moment::seconds(event.at)));
    let named = [
        ("Id", &event.id),
        ("ParentId", &event.parent),
        ("Name", &event.name),
        ("SubType", &event.sub_type),
    ];
    for (member, value) in named {
        if let Some(value) = value {
            shown.insert(member.to_owned(), value.clone().into());
        }
    }
    let name = serde_json::to_value(event.kind).unwrap_or_default();
    let member = format!("{}Details", name.as_str().unwrap_or_default());
    shown.insert(member, Value::Object(details(view, data)));
    Value::Object(shown)
}

fn details(view: &EventView, data: Data) -> Map<String, Value> {
    use EventType::*;
    let facts = &view.event.facts;
    let mut details = Details {
        members: Map::new(),
        data,
    };
    match view.event.kind {
        ExecutionStarted => {
            details.payload("Input", view.input.as_deref());
            details.put("ExecutionTimeout", facts.seconds);
        }
        ExecutionSucceeded | ContextSucceeded | ChainedInvokeSucceeded | CallbackSucceeded => {
            details.payload("Result", view.result.as_deref());
        }
        ExecutionFailed
        | ExecutionStopped
        | ContextFailed
        | ChainedInvokeFailed
        | ChainedInvokeTimedOut
        | ChainedInvokeStopped
        | CallbackFailed
        | CallbackTimedOut
        | ExecutionTimedOut => details.error(view),
        WaitCancelled => details.error_if_any(view),
        ContextStarted | StepStarted => {}
        WaitStarted => {
            details.put("Duration", facts.seconds);
            details.put("ScheduledEndTimestamp", facts.until.map(Moment::seconds));
        }
        WaitSucceeded => details.put("Duration", facts.seconds),
        StepSucceeded => {
            details.payload("Result", view.result.as_deref());
            details.retry(view);
        }
        StepFailed => {
            details.error(view);
            details.retry(view);
        }
        ChainedInvokeStarted => {
            details.put("FunctionName", facts.function.as_deref());
            details.payload("Input", view.input.as_deref());
            details.put("ExecutedVersion", facts.version.as_deref());
            details.put("DurableExecutionArn", facts.arn.as_deref());
        }
        CallbackStarted => {
            details.put("CallbackId", facts.callback_id.as_deref());
            details.put("HeartbeatTimeout", facts.heartbeat_seconds);
            details.put("Timeout", facts.seconds);
        }
        InvocationCompleted => {
            details.put("StartTimestamp", facts.since.map(Moment::seconds));
            details.put("EndTimestamp", Some(Moment::seconds(view.event.at)));
            details.put("RequestId", facts.request_id.as_deref());
            details.error_if_any(view);
        }
        ExecutionPaused => {
            details.put("PauseRequestTimestamp", facts.since.map(Moment::seconds));
            details.put("ExecutionTimeoutPaused", facts.timeout_paused);
            details.reason(facts.reason.as_deref());
        }
        ExecutionResumed => {
            details.put("ResumeRequestTimestamp", facts.since.map(Moment::seconds));
            details.reason(facts.reason.as_deref());
        }
    }
    details.members
}

struct Details {
    members: Map<String, Value>,
    data: Data,
}

impl Details {
    fn put(&mut self, member: &str, value: Option<impl serde::Serialize>) {
        if let Some(value) = value {
            self.members.insert(member.to_owned(), json!(value));
        }
    }

    /// A payload, or that it is left out.
    fn payload(&mut self, member: &str, text: Option<&str>) {
        let shown = match text {
            Some(text) => json!({ "Payload": text, "Truncated": false }),
            None => json!({ "Truncated": self.data == Data::Left }),
        };
        self.members.insert(member.to_owned(), shown);
    }

    fn reason(&mut self, reason: Option<&str>) {
        if reason.is_some() {
            self.payload("Reason", reason.filter(|_| self.data == Data::Included));
        }
    }

    fn error(&mut self, view: &EventView) {
        let shown = match &view.error {
            Some(error) => {
                let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
                json!({ "Payload": error, "Truncated": false })
            }
            None => json!({ "Truncated": self.data == Data::Left }),
        };
        self.members.insert("Error".to_owned(), shown);
    }

    fn error_if_any(&mut self, view: &EventView) {
        if view.event.facts.error.is_some() {
            self.error(view);
        }
    }

    fn retry(&mut self, view: &EventView) {
        let facts = &view.event.facts;
        let mut retry = Map::new();
        if let Some(attempt) = facts.attempt {
            retry.insert("CurrentAttempt".to_owned(), attempt.into());
        }
        if let Some(seconds) = facts.seconds {
            retry.insert("NextAttemptDelaySeconds".to_owned(), seconds.into());
        }
        self.members.insert("RetryDetails".to_owned(), Value::Object(retry));
    }
}
