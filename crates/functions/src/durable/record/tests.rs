//! Golden files and round trips of every record of executions.

use bowline_foundation::clock::Timestamp;
use bowline_store::record::FrameError;

use super::*;
use crate::durable::event::{EventType, Facts};
use crate::durable::head::{
    DurableConfig, ExecutionStatus, LastCheckpoint, LastControl, Origin, Parent, Pause, Running,
};
use crate::durable::operation::{Chained, OperationStatus, OperationType, Payload};

const ID: &str = "019ddf3a-5e50-7123-8000-0000000000aa";

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000)
}

/// What is written is the golden file, and the golden file reads as what was written.
fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, golden: &str) {
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
    assert_eq!(written, golden, "written: {written:#}");
    assert_eq!(R::decode(golden.to_string().as_bytes()).unwrap(), *record);
}

fn head() -> Head {
    let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:f:3/durable-execution/order-7/{ID}");
    Head {
        arn: arn.parse().unwrap(),
        origin: Origin::Chained,
        status: ExecutionStatus::Running,
        started: at(0),
        ended: None,
        config: DurableConfig {
            execution_timeout_seconds: 600,
            retention_days: 14,
        },
        deadline: at(600),
        result: None,
        error: None,
        trace_id: Some("Root=1-5".to_owned()),
        secret: 7,
        invocation: Some(Running {
            id: 9,
            request_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
            since: at(1),
            node: 11,
            lease: Some(at(31)),
            changes: 2,
        }),
        sequence: 4,
        last_checkpoint: Some(LastCheckpoint {
            client_token: "t".to_owned(),
            sequence: 3,
            at: at(2),
            seen: 1,
        }),
        changes: 6,
        seen: 5,
        wanted: true,
        retry_at: Some(at(7)),
        failures: 1,
        idle_pendings: 1,
        not_made: 2,
        pause: Some(Pause {
            requested: at(8),
            reason: Some("lunch".to_owned()),
            timeout_paused: true,
            since: Some(at(9)),
        }),
        last_control: Some(LastControl {
            client_token: "p".to_owned(),
            is_pause: true,
            at: at(8),
        }),
        parent: Some(Parent {
            key: format!("000000000000/g/{ID}").parse().unwrap(),
            operation: "o".to_owned(),
            is_told: false,
        }),
        is_plain: false,
        operations: 3,
        events: 12,
        texts: 1,
        stored_bytes: 4_000,
        due: at(31),
    }
}

#[test]
fn heads() {
    check(&head(), include_str!("golden/head-1.json"));
    let mut over = head();
    over.status = ExecutionStatus::Succeeded;
    over.ended = Some(at(40));
    over.result = Some(Payload::Stored { number: 0, bytes: 9 });
    over.error = Some("{}".into());
    (over.trace_id, over.invocation, over.last_checkpoint) = (None, None, None);
    (over.retry_at, over.pause, over.last_control, over.parent) = (None, None, None, None);
    check(&over, include_str!("golden/head-1-over.json"));
}

#[test]
fn operations() {
    let mut operation = Operation::new("o".to_owned(), OperationType::ChainedInvoke, at(0));
    check(&operation, include_str!("golden/operation-1-bare.json"));
    operation.parent = Some("p".to_owned());
    operation.name = Some("other".to_owned());
    operation.sub_type = Some("ChainedInvoke".to_owned());
    operation.status = OperationStatus::TimedOut;
    operation.ended = Some(at(5));
    operation.touched = 4;
    operation.input = Some("in".into());
    operation.result = Some(Payload::Stored {
        number: 2,
        bytes: 5_000,
    });
    operation.error = Some("{}".into());
    operation.attempt = 2;
    operation.due = Some(at(6));
    operation.seconds = Some(6);
    operation.heartbeat_due = Some(at(3));
    operation.heartbeat_seconds = Some(3);
    operation.replays_children = true;
    operation.chained = Some(Chained {
        function: "g:live".to_owned(),
        child: format!("000000000000/g/{ID}").parse().unwrap(),
        version: "2".to_owned(),
        is_plain: true,
        is_dispatched: true,
    });
    check(&operation, include_str!("golden/operation-1-full.json"));
}

#[test]
fn events() {
    let operation = Operation::new("o".to_owned(), OperationType::Callback, at(0));
    let facts = Facts {
        input: Some("in".into()),
        result: Some("out".into()),
        error: Some("{}".into()),
        seconds: Some(1),
        heartbeat_seconds: Some(2),
        until: Some(at(3)),
        attempt: Some(4),
        callback_id: Some("Y2I=".to_owned()),
        function: Some("g".to_owned()),
        version: Some("2".to_owned()),
        arn: Some("arn".to_owned()),
        since: Some(at(5)),
        request_id: Some("r".to_owned()),
        reason: Some("lunch".to_owned()),
        timeout_paused: Some(true),
    };
    let event = Event::of(&operation, 6, EventType::CallbackStarted, at(7), facts);
    check(&event, include_str!("golden/event-1-full.json"));
    let event = Event::new(1, EventType::ExecutionResumed, at(7), Facts::default());
    check(&event, include_str!("golden/event-1-bare.json"));
}

#[test]
fn names() {
    let record = NameRecord {
        id: ID.parse().unwrap(),
        arn: head().arn.to_string(),
        payload: Digest::of(b"{}"),
    };
    check(&record, include_str!("golden/name-1.json"));
}

#[test]
fn another_format_is_refused() {
    let newer = br#"{"format": 2, "record": {}}"#;
    assert!(matches!(
        Event::decode(newer),
        Err(FrameError::Format { actual: 2, expected: 1 })
    ));
    assert!(matches!(Head::decode(b"{"), Err(FrameError::Json(_))));
}
