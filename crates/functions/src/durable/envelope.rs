//! What a durable function is invoked with, and what it answers.
//!
//! In: `{"DurableExecutionArn", "CheckpointToken", "InitialExecutionState": {"Operations", "NextMarker"},
//! "UpdatedOperationIds"}`, times in milliseconds. Out: `{"Status", "Result", "Error"}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::operation::ErrorObject;
use super::shape::OperationShape;

/// What a function's answer means.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Succeeded(Option<String>),
    Failed(ErrorObject),
    /// It waits for something.
    Pending,
}

/// The event of an invocation.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope<'a> {
    pub durable_execution_arn: String,
    pub checkpoint_token: String,
    pub initial_execution_state: InitialState<'a>,
    pub updated_operation_ids: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InitialState<'a> {
    pub operations: Vec<OperationShape<'a>>,
    /// Empty if that is all.
    pub next_marker: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    status: Option<String>,
    result: Option<Value>,
    error: Option<ErrorObject>,
}

/// Reads what a function answered; the refusal says what is wrong with it.
pub fn read_answer(payload: &[u8]) -> Result<Answer, String> {
    let value: Value =
        serde_json::from_slice(payload).map_err(|error| format!("Invalid invocation output: {error}"))?;
    if !value.is_object() {
        return Err("Invalid invocation output: it is not an object with a `Status`.".to_owned());
    }
    let output: Output =
        serde_json::from_value(value).map_err(|error| format!("Invalid invocation output: {error}"))?;
    match (output.status.as_deref(), output.result, output.error) {
        (Some("SUCCEEDED"), _, Some(_)) => Err("Cannot provide an Error for SUCCEEDED status.".to_owned()),
        (Some("SUCCEEDED"), None | Some(Value::Null), None) => Ok(Answer::Succeeded(None)),
        (Some("SUCCEEDED"), Some(Value::String(result)), None) => Ok(Answer::Succeeded(Some(result))),
        (Some("SUCCEEDED"), Some(_), None) => Err("Invalid invocation output: `Result` is not a string.".to_owned()),
        (Some("FAILED"), Some(result), _) if !result.is_null() => {
            Err("Cannot provide a Result for FAILED status.".to_owned())
        }
        (Some("FAILED"), _, error) => Ok(Answer::Failed(error.unwrap_or_default())),
        (Some("PENDING"), ..) => Ok(Answer::Pending),
        (Some(_), ..) => Err("Invalid invocation output: `Status` is none of SUCCEEDED, FAILED, PENDING.".to_owned()),
        (None, ..) => Err("Response status is required".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &str, expected: Result<Answer, &str>) {
        match (read_answer(payload.as_bytes()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{payload}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{payload}: {found}"),
            (found, expected) => panic!("{payload}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn answers_are_read_or_refused_with_a_reason() {
        check(
            r#"{"Status":"SUCCEEDED","Result":"{}"}"#,
            Ok(Answer::Succeeded(Some("{}".into()))),
        );
        check(r#"{"Status":"SUCCEEDED"}"#, Ok(Answer::Succeeded(None)));
        check(r#"{"Status":"PENDING","More":1}"#, Ok(Answer::Pending));
        let error = ErrorObject::new("Oops", "no");
        let failed = r#"{"Status":"FAILED","Error":{"ErrorType":"Oops","ErrorMessage":"no"}}"#;
        check(failed, Ok(Answer::Failed(error)));
        check(r#"{"Status":"FAILED"}"#, Ok(Answer::Failed(ErrorObject::default())));
        check(r#"{"Status":"SUCCEEDED","Error":{}}"#, Err("Cannot provide an Error"));
        check(r#"{"Status":"FAILED","Result":"x"}"#, Err("Cannot provide a Result"));
        check(r#"{"Status":"SUCCEEDED","Result":{}}"#, Err("not a string"));
        check(r#"{"Status":"DONE"}"#, Err("none of"));
        check(r#"{"Result":"x"}"#, Err("status is required"));
        check("[]", Err("not an object"));
        check("\"x\"", Err("not an object"));
        check("{", Err("Invalid invocation output"));
    }
}
