//! Records in their public form, and queues at their limits; delivery is tested with real sandboxes.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_sandbox::record::{Done, Metrics, Status};
use bytes::Bytes;
use serde_json::{Value, json};

use super::queue::Queue;
use super::*;
use crate::runtime_api::Buffering;

const TIME: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);
const OLD_LOGS: Schema = Schema::Logs { runtime_done: false };
const LOGS: Schema = Schema::Logs { runtime_done: true };

fn rendered(record: &Record, schema: Schema) -> Option<Value> {
    let text = record.render(TIME, schema)?;
    Some(serde_json::from_slice(&text).expect("records are JSON"))
}

#[test]
fn an_invocation_reads_as_each_api_says_it() {
    let id = RequestId::random(&Entropy::seeded(1));
    let metrics = Metrics {
        duration: Duration::from_micros(1_234_500),
        memory_mib: 128,
        memory_bytes_max: 30 * 1024 * 1024 + 1,
        init: Some(Duration::from_millis(50)),
    };
    let report = Record::Report {
        request_id: id,
        status: Status::Error("Runtime.ExitError".to_owned()),
        trace_id: Some("Root=1".to_owned()),
        metrics,
    };
    let shown = json!({
        "durationMs": 1234.5, "billedDurationMs": 1235, "memorySizeMB": 128, "maxMemoryUsedMB": 31,
        "initDurationMs": 50.0,
    });
    let expected = json!({
        "time": "2023-11-14T22:13:20.123Z", "type": "platform.report", "record": {
            "requestId": id.as_str(), "status": "error", "errorType": "Runtime.ExitError", "metrics": shown,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1"},
        },
    });
    assert_eq!(rendered(&report, Schema::Telemetry), Some(expected));
    let logs = rendered(&report, LOGS).expect("this API has it too");
    assert_eq!(logs["record"], json!({"requestId": id.as_str(), "metrics": shown}));

    let done = Record::RuntimeDone {
        request_id: id,
        status: Status::Timeout,
        trace_id: None,
        done: Done {
            started: TIME,
            duration: Duration::from_millis(3),
            bytes: 17,
        },
    };
    let telemetry = rendered(&done, Schema::Telemetry).expect("it is known");
    assert_eq!(telemetry["record"]["status"], "timeout");
    assert_eq!(
        telemetry["record"]["metrics"],
        json!({"durationMs": 3.0, "producedBytes": 17})
    );
    assert_eq!(rendered(&done, OLD_LOGS), None, "the older version does not know it");
    assert_eq!(
        rendered(&done, LOGS).map(|record| record["type"].clone()),
        Some("platform.runtimeDone".into())
    );
    let end = Record::End(id);
    assert_eq!(rendered(&end, Schema::Telemetry), None);
    assert_eq!(
        rendered(&end, OLD_LOGS).map(|record| record["type"].clone()),
        Some("platform.end".into())
    );
}

#[test]
fn statuses_follow_from_error_types() {
    assert_eq!(Status::of_error("Sandbox.Timedout"), Status::Timeout);
    assert_eq!(
        Status::of_error("Sandbox.Failure"),
        Status::Failure("Sandbox.Failure".to_owned())
    );
    assert_eq!(Status::of_error("ValueError"), Status::Error("ValueError".to_owned()));
}

#[tokio::test]
async fn what_is_printed_is_cut_into_lines() {
    let hub = Hub::new(Clock::fake(TIME));
    let mut lines = Lines::new(hub.clone(), Stream::Function);
    lines.take(b"one\ntw");
    lines.take(b"o\n\nthr");
    lines.end();
    lines.end();
    lines.take(&[b'x'; 70 * 1024]);
    lines.take(b"\n");
    let state = hub.state.lock();
    let told: Vec<_> = state.early.iter().flatten().collect();
    let texts: Vec<_> = told
        .iter()
        .map(|(_, record)| match record {
            Record::Line(Stream::Function, text) => text.as_str(),
            other => panic!("no line: {other:?}"),
        })
        .collect();
    assert_eq!(texts[..3], ["one", "two", "thr"]);
    assert_eq!(
        texts[3..].iter().map(|text| text.len()).collect::<Vec<_>>(),
        [64 * 1024, 6 * 1024]
    );
}

#[tokio::test]
async fn nothing_is_kept_once_nobody_can_subscribe() {
    let hub = Hub::new(Clock::fake(TIME));
    for _ in 0..EARLY_RECORDS_MAX + 5 {
        hub.tell(Record::Line(Stream::Extension, "x".to_owned()));
    }
    assert_eq!(hub.state.lock().early.as_ref().map(Vec::len), Some(EARLY_RECORDS_MAX));
    assert!(hub.wants(Stream::Extension));
    assert!(!hub.close(), "nobody subscribed");
    assert!(!hub.wants(Stream::Extension));
    hub.tell(Record::Line(Stream::Extension, "x".to_owned()));
    assert!(hub.state.lock().early.is_none());
}

fn queue(timeout: Duration) -> Arc<Queue> {
    let buffering = Buffering {
        items_max: 3,
        bytes_max: 100,
        timeout,
    };
    Queue::new(Clock::fake(TIME), Schema::Telemetry, buffering)
}

/// The next batch, if it is due now.
fn due(queue: &Queue) -> Option<Vec<Bytes>> {
    let mut batch = std::pin::pin!(queue.batch());
    match batch.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => Some(batch),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn batches_are_cut_by_items_bytes_and_time() {
    let long = queue(Duration::from_secs(600));
    for text in ["1", "2", "3", "4"] {
        long.push(Bytes::from_static(text.as_bytes()));
    }
    assert_eq!(due(&long).expect("a full batch waits for nothing"), ["1", "2", "3"]);
    long.sent();
    assert_eq!(due(&long), None, "one record waits for more");
    let large = Bytes::from(vec![b'x'; 60]);
    long.push(large.clone());
    long.push(large.clone());
    assert_eq!(due(&long).expect("the bytes are enough").len(), 2);
    long.sent();
    assert_eq!(due(&long), None);
    long.hurry();
    assert_eq!(due(&long).expect("nothing waits any more"), [large]);
    long.sent();
    long.empty().await;

    let short = queue(Duration::from_millis(25));
    short.push(Bytes::from_static(b"1"));
    assert_eq!(due(&short), None);
    assert_eq!(short.batch().await, ["1"], "time cuts a batch as well");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let queue = queue(Duration::from_secs(600));
    for _ in 0..7 {
        queue.push(Bytes::from_static(b"ab"));
    }
    let batch = due(&queue).expect("it is full");
    assert_eq!(batch.len(), 4, "a full batch, and what is said of the seventh");
    let told: Value = serde_json::from_slice(&batch[3]).expect("JSON");
    assert_eq!(told["type"], "platform.logsDropped");
    assert_eq!(
        (&told["record"]["droppedRecords"], &told["record"]["droppedBytes"]),
        (&json!(1), &json!(2))
    );
    queue.given_up(&batch[..3]);
    let batch = due(&queue).expect("it is still full");
    let told: Value = serde_json::from_slice(&batch[3]).expect("JSON");
    assert_eq!(
        told["record"]["droppedRecords"], 3,
        "a batch that did not arrive counts too"
    );
    queue.sent();
    queue.hurry();
    queue.push(Bytes::from(vec![b'x'; 201]));
    queue.push(Bytes::from_static(b"ab"));
    let batch = due(&queue).expect("nothing waits any more");
    assert_eq!(batch.len(), 2, "what is too large by itself is dropped as well");
}

#[tokio::test]
async fn a_sandbox_that_stands_still_is_sent_nothing() {
    let queue = queue(Duration::from_millis(25));
    queue.hurry();
    queue.pause(true);
    queue.push(Bytes::from_static(b"1"));
    assert_eq!(due(&queue), None, "it stands still");
    queue.pause(false);
    assert_eq!(due(&queue).expect("it moves again"), ["1"]);
}
