//! What a checkpoint, an answer, a pause may do, one rule a row.

use serde_json::{Value, json};

use super::*;
use crate::durable::envelope::Answer;
use crate::durable::limits::*;
use crate::durable::operation::OperationStatus;

fn step(id: &str, action: &str) -> Value {
    json!({ "Id": id, "Type": "STEP", "Action": action })
}

/// Applies checkpoints one after the other; the last gives `expected`, a part of the refusal or nothing.
fn check(checkpoints: &[Value], expected: &str) {
    let (mut execution, mut token) = running(Origin::Waiting);
    let (last, earlier) = checkpoints.split_last().unwrap();
    for checkpoint in earlier {
        let done = execution
            .checkpoint(token, updates(checkpoint.clone()), None, (&OnePlain, at(1)))
            .unwrap();
        token = done.token.unwrap();
    }
    let found = execution.checkpoint(token, updates(last.clone()), None, (&OnePlain, at(2)));
    match found {
        Ok(_) => assert_eq!(expected, "", "{last}"),
        Err(refusal) => {
            let text = refusal.to_string();
            assert!(!expected.is_empty() && text.contains(expected), "{last}: {text}");
        }
    }
}

#[test]
fn updates_fit_the_operations_or_are_refused() {
    let start = json!([step("s", "START")]);
    check(&[json!([])], "");
    check(&[start.clone(), json!([step("s", "SUCCEED")])], "");
    check(&[json!([step("s", "START"), step("s", "SUCCEED")])], "");
    check(&[json!([step("s", "SUCCEED")])], "");
    check(&[start.clone(), start.clone()], "Invalid current STEP state to start");
    check(&[json!([step("s", "START"), step("s", "START")])], "same ID");
    check(
        &[start.clone(), json!([step("s", "SUCCEED")]), json!([step("s", "FAIL")])],
        "state to close",
    );
    check(&[start.clone(), json!([step("s", "RETRY")])], "StepOptions");
    check(&[start.clone(), json!([step("s", "CANCEL")])], "Invalid action");
    let other_name = json!([{ "Id": "s", "Type": "STEP", "Action": "SUCCEED", "Name": "other" }]);
    check(&[start.clone(), other_name], "Inconsistent operation name");
    check(
        &[start, json!([{ "Id": "s", "Type": "WAIT", "Action": "CANCEL" }])],
        "Inconsistent operation type",
    );
    let child = json!({ "Id": "s", "Type": "STEP", "Action": "START", "ParentId": "c" });
    check(&[json!([child])], "Invalid parent");
    check(&[json!([step("c", "START"), child])], "Invalid parent");
    let context = json!({ "Id": "c", "Type": "CONTEXT", "Action": "START" });
    check(&[json!([context, child])], "");
    check(&[json!([context]), json!([context])], "already exist");
    let wait = json!({ "Id": "w", "Type": "WAIT", "Action": "START", "WaitOptions": { "WaitSeconds": 5 } });
    check(&[json!([wait])], "");
    check(
        &[json!([{ "Id": "w", "Type": "WAIT", "Action": "START" }])],
        "WaitOptions",
    );
    check(
        &[
            json!([wait]),
            json!([{ "Id": "w", "Type": "WAIT", "Action": "CANCEL" }]),
        ],
        "",
    );
    check(
        &[json!([{ "Id": "w", "Type": "WAIT", "Action": "CANCEL" }])],
        "Cannot cancel",
    );
    check(&[json!([{ "Id": "b", "Type": "CALLBACK", "Action": "START" }])], "");
    check(
        &[json!([{ "Id": "b", "Type": "CALLBACK", "Action": "SUCCEED" }])],
        "Invalid action",
    );
    let chain = |name: &str| json!([{ "Id": "i", "Type": "CHAINED_INVOKE", "Action": "START", "ChainedInvokeOptions": { "FunctionName": name } }]);
    check(&[chain("plain")], "");
    check(&[chain("nobody")], "");
    check(&[chain("bad name")], "Invalid function ARN");
    check(
        &[json!([{ "Id": "i", "Type": "CHAINED_INVOKE", "Action": "START" }])],
        "ChainedInvokeOptions",
    );
    let end = json!({ "Id": "e", "Type": "EXECUTION", "Action": "SUCCEED" });
    check(&[json!([end])], "");
    check(&[json!([end, end])], "multiple EXECUTION");
    check(&[json!([end, step("s", "START")])], "must be the last");
    check(
        &[json!([{ "Id": "s", "Type": "STEP", "Action": "FAIL", "Payload": "x" }])],
        "Cannot provide a Payload",
    );
    check(
        &[json!([{ "Id": "s", "Type": "STEP", "Action": "SUCCEED", "Error": {} }])],
        "Cannot provide an Error",
    );
}

#[test]
fn every_limit_of_a_checkpoint_is_a_limit() {
    let many = |count: usize| Value::Array((0..count).map(|n| step(&format!("s{n}"), "START")).collect());
    check(&[many(BATCH_UPDATES_MAX)], "");
    check(&[many(BATCH_UPDATES_MAX + 1)], "at most 250 updates");
    let sized = |kind: &str, bytes: usize| json!({ "Id": kind, "Type": kind, "Action": "SUCCEED", "Payload": "x".repeat(bytes) });
    check(&[json!([sized("STEP", PAYLOAD_BYTES_MAX)])], "");
    check(
        &[json!([sized("STEP", PAYLOAD_BYTES_MAX + 1)])],
        "at most 1048576 bytes",
    );
    check(&[json!([sized("EXECUTION", RESULT_BYTES_MAX)])], "");
    check(
        &[json!([sized("EXECUTION", RESULT_BYTES_MAX + 1)])],
        "at most 6291456 bytes",
    );
    check(&[json!([sized("STEP", BATCH_BYTES_MAX - 20), step("s", "START")])], "");
    check(
        &[json!([sized("STEP", BATCH_BYTES_MAX), step("s", "START")])],
        "must be sent alone",
    );
    let error = json!({ "ErrorMessage": "x".repeat(PAYLOAD_BYTES_MAX) });
    check(
        &[json!([{ "Id": "s", "Type": "STEP", "Action": "FAIL", "Error": error }])],
        "Error object size",
    );
    let batch = |from: usize| Value::Array((0..250).map(|n| step(&format!("s{}", from + n), "START")).collect());
    let mut batches: Vec<Value> = (0..11).map(|n| batch(n * 250)).collect();
    // The execution itself is an operation too.
    batches.push(Value::Array(
        (0..249).map(|n| step(&format!("t{n}"), "START")).collect(),
    ));
    check(&batches, "");
    batches.push(json!([step("last", "START")]));
    check(&batches, "at most 3000 operations");
    let hundred: Vec<Value> = (0..100).map(|n| json!([sized_step(n)])).collect();
    check(&hundred, "An execution stores at most");
}

fn sized_step(n: usize) -> Value {
    json!({ "Id": format!("s{n}"), "Type": "STEP", "Action": "SUCCEED", "Payload": "x".repeat(PAYLOAD_BYTES_MAX) })
}

#[test]
fn members_are_checked_one_by_one() {
    let refused = |update: Value| {
        let body: CheckpointBody = serde_json::from_value(json!({ "Updates": [update] })).unwrap();
        let update = body.updates.unwrap().remove(0);
        update.read(1).map(drop).unwrap_err().to_string()
    };
    assert!(refused(json!({ "Type": "STEP", "Action": "START" })).contains("updates.1.member.id"));
    assert!(refused(json!({ "Id": "a b", "Type": "STEP", "Action": "START" })).contains("member.id"));
    assert!(refused(json!({ "Id": "x".repeat(65), "Type": "STEP", "Action": "START" })).contains("member.id"));
    assert!(refused(json!({ "Id": "s", "Type": "STEPS", "Action": "START" })).contains("member.type"));
    assert!(refused(json!({ "Id": "s", "Type": "STEP" })).contains("member.action"));
    assert!(refused(json!({ "Id": "s", "Type": "STEP", "Action": "START", "Name": "\u{e9}" })).contains("member.name"));
    let wait = |seconds: i64| json!({ "Id": "w", "Type": "WAIT", "Action": "START", "WaitOptions": { "WaitSeconds": seconds } });
    assert!(refused(wait(0)).contains("between 1 and 31622400"));
    assert!(refused(wait(31_622_401)).contains("between 1 and 31622400"));
}

#[test]
fn a_token_is_good_once_and_a_client_token_repeats_its_answer() {
    let (mut execution, token) = running(Origin::Waiting);
    let start = updates(json!([step("s", "START")]));
    let first = execution
        .checkpoint(token, start.clone(), Some("c"), (&OnePlain, at(1)))
        .unwrap();
    let again = execution
        .checkpoint(token, start.clone(), Some("c"), (&OnePlain, at(2)))
        .unwrap();
    assert_eq!(first, again);
    let events = execution.head.events;
    assert_eq!(
        execution.checkpoint(token, Vec::new(), Some("d"), (&OnePlain, at(3))),
        Err(Refusal::Token)
    );
    assert_eq!(
        execution.checkpoint(token, Vec::new(), None, (&OnePlain, at(3))),
        Err(Refusal::Token)
    );
    let late = at(3).after(CLIENT_TOKEN_KEPT);
    assert_eq!(
        execution.checkpoint(token, start, Some("c"), (&OnePlain, late)),
        Err(Refusal::Token)
    );
    assert_eq!(execution.head.events, events, "nothing of all that is told");
    let next = first.token.unwrap();
    assert_eq!(next.sequence, token.sequence + 1);
    assert!(execution.checkpoint(next, Vec::new(), None, (&OnePlain, at(4))).is_ok());
}

#[test]
fn another_nodes_invocation_is_taken_over_and_fenced() {
    let (mut execution, token) = running(Origin::Waiting);
    let other = Node { number: 2, lease: None };
    let Step::Invoke(ticket) = execution.begin(other, 100, "second", at(1)) else {
        panic!("where nobody shares the store, another number means a process that is gone");
    };
    assert_eq!(
        execution.checkpoint(token, Vec::new(), None, (&OnePlain, at(1))),
        Err(Refusal::Token)
    );
    assert!(!execution.finish(token, Outcome::Answered(Answer::Succeeded(None)), DELAYS, at(2)));
    assert!(execution.finish(ticket.token, Outcome::Answered(Answer::Succeeded(None)), DELAYS, at(3)));
    assert_eq!(execution.head.status, ExecutionStatus::Succeeded);

    let lease = Some(Duration::from_secs(30));
    let mut execution = Execution::start(beginning(Origin::Event), at(0));
    let first = Node { number: 1, lease };
    let Step::Invoke(ticket) = execution.begin(first, 1, "r", at(0)) else {
        panic!()
    };
    let second = Node { number: 2, lease };
    assert_eq!(execution.begin(second, 2, "r", at(29)), Step::Rest, "the lease holds");
    assert!(execution.renew(ticket.token, first, at(29)));
    assert_eq!(execution.begin(second, 2, "r", at(31)), Step::Rest, "it was renewed");
    assert_eq!(execution.next_due(), at(59));
    assert!(matches!(execution.begin(second, 2, "r", at(59)), Step::Invoke(_)));
    assert!(!execution.renew(ticket.token, first, at(59)));
}

#[test]
fn failures_are_tried_again_and_no_longer_than_that() {
    let (mut execution, mut token) = running(Origin::Event);
    let mut now = 0;
    for failure in 1..=FAILURES_MAX {
        let error = ErrorObject::new("Oops", "no");
        assert!(execution.finish(token, Outcome::Failed(error), DELAYS, at(now)));
        if failure == FAILURES_MAX {
            break;
        }
        assert_eq!(execution.next_due(), at(now + 5));
        assert_eq!(execution.begin(NODE, 1, "r", at(now + 4)), Step::Rest);
        now += 5;
        let Step::Invoke(ticket) = execution.begin(NODE, failure.into(), "r", at(now)) else {
            panic!("{failure}")
        };
        token = ticket.token;
    }
    assert_eq!(execution.head.status, ExecutionStatus::Failed);
    let (mut execution, token) = running(Origin::Event);
    execution.finish(token, Outcome::NotNow, DELAYS, at(0));
    assert_eq!(
        (execution.head.failures, execution.next_due()),
        (0, at(1)),
        "a throttle is no failure"
    );
}

#[test]
fn pending_needs_something_to_wait_for() {
    let (mut execution, mut token) = running(Origin::Event);
    for pending in 1..=IDLE_PENDING_MAX {
        execution.finish(token, Outcome::Answered(Answer::Pending), DELAYS, at(0));
        if let Step::Invoke(ticket) = execution.begin(NODE, pending.into(), "r", at(5)) {
            token = ticket.token;
        }
    }
    assert_eq!(execution.head.status, ExecutionStatus::Failed);
    let (mut execution, token) = running(Origin::Event);
    let callback = updates(
        json!([{ "Id": "b", "Type": "CALLBACK", "Action": "START", "CallbackOptions": { "TimeoutSeconds": 100, "HeartbeatTimeoutSeconds": 10 } }]),
    );
    execution.checkpoint(token, callback, None, (&OnePlain, at(0))).unwrap();
    execution.finish(token, Outcome::Answered(Answer::Pending), DELAYS, at(1));
    assert_eq!(execution.head.status, ExecutionStatus::Running);
    assert_eq!(execution.next_due(), at(10), "the heartbeat's limit");
    let id = execution.callback_id(1);
    execution.call_back(&id, CallbackVerdict::Heartbeat, at(9)).unwrap();
    assert_eq!(execution.begin(NODE, 5, "r", at(18)), Step::Rest);
    let Step::Invoke(ticket) = execution.begin(NODE, 5, "r", at(19)) else {
        panic!("silent for too long")
    };
    assert_eq!(ticket.news, vec![1]);
    assert_eq!(execution.operations[1].status, OperationStatus::TimedOut);
    let late = execution.call_back(&id, CallbackVerdict::Succeeded(None), at(20));
    assert_eq!(late, Err(CallbackRefusal::Closed));
    let forged = crate::durable::id::CallbackId::new(execution.head.key(), 1, 8);
    let refused = execution.call_back(&forged, CallbackVerdict::Heartbeat, at(20));
    assert_eq!(refused, Err(CallbackRefusal::Unknown));
}

#[test]
fn a_pause_withholds_the_token_and_the_time() {
    let (mut execution, token) = running(Origin::Event);
    let request = PauseRequest {
        client_token: Some("p".to_owned()),
        reason: None,
        timeout_paused: true,
    };
    execution.pause(&request, at(1)).unwrap();
    assert_eq!(execution.head.shown_status(), ExecutionStatus::Pausing);
    execution.pause(&request, at(2)).unwrap();
    let done = execution
        .checkpoint(token, updates(json!([step("s", "START")])), None, (&OnePlain, at(3)))
        .unwrap();
    assert_eq!(done.token, None);
    assert_eq!(execution.head.shown_status(), ExecutionStatus::Paused);
    execution.finish(token, Outcome::Answered(Answer::Pending), DELAYS, at(4));
    assert_eq!(
        execution.begin(NODE, 2, "r", at(5000)),
        Step::Rest,
        "neither invoked nor timed out"
    );
    execution.resume(&PauseRequest::default(), at(5001)).unwrap();
    assert_eq!(execution.head.deadline, at(600 + 5000));
    assert!(
        matches!(execution.begin(NODE, 2, "r", at(5001)), Step::Invoke(_)),
        "what was interrupted goes on"
    );
    assert!(execution.resume(&PauseRequest::default(), at(5002)).is_err());
}

#[test]
fn an_execution_takes_no_longer_than_it_may_and_is_kept_for_its_days() {
    let (mut execution, _) = running(Origin::Event);
    assert_eq!(execution.begin(NODE, 2, "r", at(599)), Step::Rest);
    assert_eq!(execution.begin(NODE, 2, "r", at(600)), Step::Again);
    assert_eq!(execution.head.status, ExecutionStatus::TimedOut);
    let days = Duration::from_secs(14 * 24 * 3600);
    assert_eq!(execution.next_due(), at(600).after(days));
    assert_eq!(execution.begin(NODE, 2, "r", at(601)), Step::Rest);
    assert_eq!(execution.begin(NODE, 2, "r", at(600).after(days)), Step::Remove);
    assert!(execution.stop(None, at(700)).is_err());
}

#[test]
fn children_of_a_finished_context_are_not_replayed_unless_wanted() {
    for (wanted, expected) in [(false, vec![0, 1]), (true, vec![0, 1, 2, 3])] {
        let (mut execution, token) = running(Origin::Event);
        let all = updates(json!([
            { "Id": "c", "Type": "CONTEXT", "Action": "START" },
            { "Id": "d", "Type": "CONTEXT", "Action": "START", "ParentId": "c" },
            { "Id": "s", "Type": "STEP", "Action": "SUCCEED", "ParentId": "d" },
            { "Id": "c", "Type": "CONTEXT", "Action": "SUCCEED", "ContextOptions": { "ReplayChildren": wanted } },
        ]));
        execution.checkpoint(token, all, None, (&OnePlain, at(1))).unwrap();
        assert_eq!(execution.replayed(), expected);
    }
}
