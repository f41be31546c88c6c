//! Streamed answers of commands and components; those of reactors are in the common suite.

use std::time::Duration;

use bowline_sandbox::answer::{self, AnswerStream, HTTP_CONTENT_TYPE, STREAM_BUFFER_BYTES, STREAM_CONTENT_TYPE};
use bowline_sandbox::{Outcome, Report};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::build;
use crate::guests::{Bench, answer, error, writer};

const FOR_EVER: &str = "(loop $for_ever (br $for_ever))";

/// Begins a streamed invocation in a sandbox of its own; the task ends when the sandbox is gone.
async fn begin(bench: &Bench, event: Value, bytes_max: u64) -> (tokio::task::JoinHandle<Report>, AnswerStream) {
    let mut sandbox = bench.start().await;
    let mut invocation = bench.invocation(&event);
    let (sink, stream) = answer::channel(bytes_max);
    invocation.sink = Some(sink);
    let running = tokio::spawn(async move {
        let report = sandbox.invoke(invocation).await;
        sandbox.destroy().await;
        report
    });
    (running, stream)
}

async fn rest(stream: &mut AnswerStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// All that a streamed invocation gave.
async fn whole(bench: &Bench, event: Value, bytes_max: u64) -> (Report, Vec<u8>, Option<Box<str>>) {
    let (running, mut stream) = begin(bench, event, bytes_max).await;
    let bytes = rest(&mut stream).await;
    (running.await.unwrap(), bytes, stream.content_type())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_s_output_goes_out_as_it_is_written() {
    let bench = Bench::of_text(&writer(1, "knot", FOR_EVER));
    let (running, mut stream) = begin(&bench, json!(1), u64::MAX).await;
    assert_eq!(stream.next().await.unwrap(), "knot");
    assert!(!running.is_finished(), "the guest computes on");
    let report = running.await.unwrap();
    let message = error(&report.outcome).1;
    assert!(message.contains("Task timed out after 2.00 seconds"), "{message}");
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_s_answer_ends_by_its_status() {
    let outcome = |end| async move { whole(&Bench::of_text(&writer(3, "42", end)), json!(1), u64::MAX).await };
    let (report, bytes, content_type) = outcome("").await;
    assert_eq!(
        (report.outcome, &bytes[..]),
        (Outcome::Success(Bytes::new()), &b"424242"[..])
    );
    assert_eq!(content_type.as_deref(), Some(STREAM_CONTENT_TYPE));
    let (report, bytes, _) = outcome("(call $exit (i32.const 3))").await;
    assert_eq!(bytes, b"424242", "what was written before stays");
    assert!(error(&report.outcome).1.ends_with("exit status 3"), "{report:?}");
    let (report, ..) = outcome("unreachable").await;
    assert!(error(&report.outcome).1.contains("unreachable"), "{report:?}");
    // A command that writes nothing gives an empty answer.
    let silent = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let (report, bytes, content_type) = whole(&Bench::of_text(silent), json!(1), u64::MAX).await;
    assert_eq!(
        (report.outcome, bytes.len(), content_type),
        (Outcome::Success(Bytes::new()), 0, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_its_reader_up_to_its_deadline() {
    let kilobyte = "1".repeat(1000);
    let bench = Bench::of_text(&writer(10_000, &kilobyte, ""));
    let (report, bytes, _) = whole(&bench, json!(1), u64::MAX).await;
    assert_eq!(
        report.outcome,
        Outcome::Success(Bytes::new()),
        "the control: read, it is done in time"
    );
    assert_eq!(bytes.len(), 10_000_000);
    let (running, stream) = begin(&bench, json!(1), u64::MAX).await;
    let report = running.await.unwrap();
    assert!(error(&report.outcome).1.contains("Task timed out"), "{report:?}");
    assert!(!report.reusable);
    let waiting = stream.waiting_bytes();
    assert!((1..=STREAM_BUFFER_BYTES + 1000).contains(&waiting), "{waiting}");
    assert_eq!(bench.backend.live_instances(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_s_streamed_answer_is_limited() {
    let bench = Bench::of_text(&writer(10, "0123456789", ""));
    let (report, bytes, _) = whole(&bench, json!(1), 100).await;
    assert_eq!((report.outcome, bytes.len()), (Outcome::Success(Bytes::new()), 100));
    let (report, bytes, _) = whole(&bench, json!(1), 99).await;
    assert_eq!(error(&report.outcome).0, "Function.ResponseSizeTooLarge");
    assert_eq!(bytes.len(), 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_s_response_is_a_head_and_a_body() {
    let module = build::wasm("examples/rust-http", "wasm32-wasip2", "rust_http.wasm");
    let bench = Bench::new(&module, 20);
    let event = |body: &str| {
        json!({
            "version": "2.0", "rawPath": "/knots", "body": body,
            "isBase64Encoded": false, "requestContext": {"http": {"method": "PUT", "path": "/knots"}},
        })
    };
    let (report, bytes, content_type) = whole(&bench, event("a rope"), u64::MAX).await;
    assert_eq!(report.outcome, Outcome::Success(Bytes::new()));
    assert_eq!(content_type.as_deref(), Some(HTTP_CONTENT_TYPE));
    let at = bytes.windows(8).position(|window| window == [0; 8]).unwrap();
    let head: Value = serde_json::from_slice(&bytes[..at]).unwrap();
    let expected = json!({"statusCode": 200, "headers": {"content-type": "text/plain"}, "cookies": ["visited=yes"]});
    assert_eq!(head, expected);
    assert_eq!(&bytes[at + 8..], b"PUT /knots\na rope");

    // One that is not read waits, and ends once it is read.
    let long = "x".repeat(600_000);
    let (running, mut stream) = begin(&bench, event(&long), u64::MAX).await;
    let full = async {
        while stream.waiting_bytes() < STREAM_BUFFER_BYTES * 9 / 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), full).await.unwrap();
    assert!(!running.is_finished());
    assert!(stream.waiting_bytes() <= STREAM_BUFFER_BYTES + 1_000_000);
    assert!(rest(&mut stream).await.len() > 600_000);
    assert_eq!(running.await.unwrap().outcome, Outcome::Success(Bytes::new()));
    // The control: wanted in one piece, the answer is the gateway's.
    let mut sandbox = bench.start().await;
    let report = sandbox.invoke(bench.invocation(&event("a rope"))).await;
    assert_eq!(answer(&report.outcome)["body"], "PUT /knots\na rope");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_s_response_is_limited() {
    let module = build::wasm("examples/rust-http", "wasm32-wasip2", "rust_http.wasm");
    let bench = Bench::new(&module, 20);
    let event = Value::from("x".repeat(100_000));
    let (report, bytes, _) = whole(&bench, event.clone(), 200_000).await;
    assert_eq!(report.outcome, Outcome::Success(Bytes::new()), "the control: inside");
    let (report, cut, _) = whole(&bench, event, bytes.len() as u64 - 1).await;
    assert_eq!(error(&report.outcome).0, "Function.ResponseSizeTooLarge");
    assert!(cut.len() < bytes.len());
}
