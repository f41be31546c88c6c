//! The cases of streamed answers.

use std::time::Duration;

use bowline_foundation::clock::Monotonic;
use bytes::Bytes;
use serde_json::{Value, json};

use super::cases::{GRACE, error_of};
use super::{Ability, Bench, Live, Prober};
use crate::answer::{self, AnswerStream, STREAM_BUFFER_BYTES, STREAM_PIECE_BYTES};
use crate::{FunctionError, Outcome, Report};

const TYPE: &str = "text/x-knots";

/// What came out of a streamed invocation.
struct Streamed {
    report: Report,
    content_type: Option<Box<str>>,
    bytes: usize,
    /// When the first piece came.
    first: Option<Monotonic>,
}

/// The event of a streamed answer; more is added by the case.
fn event(pieces: usize, bytes: usize, more: &[(&str, Value)]) -> Value {
    let mut event = json!({"do": "stream", "pieces": pieces, "bytes": bytes, "type": TYPE});
    for (name, value) in more {
        event[*name] = value.clone();
    }
    event
}

impl Live {
    /// Begins a streamed invocation beside `read`.
    async fn beside<T>(
        &mut self,
        event: &Value,
        bytes_max: u64,
        read: impl AsyncFnOnce(AnswerStream) -> T,
    ) -> (Report, T) {
        let mut invocation = self.invocation(event);
        let (sink, stream) = answer::channel(bytes_max);
        invocation.sink = Some(sink);
        tokio::join!(self.sandbox.invoke(invocation), read(stream))
    }

    async fn stream_up_to(&mut self, event: &Value, bytes_max: u64) -> Streamed {
        let clock = self.clock.clone();
        let read = async move |mut stream: AnswerStream| {
            let (mut bytes, mut first) = (0, None);
            while let Some(piece) = stream.next().await {
                assert!(piece.iter().all(|byte| *byte == b'x'), "the bytes are the guest's");
                first.get_or_insert_with(|| clock.monotonic());
                bytes += piece.len();
            }
            (stream.content_type(), bytes, first)
        };
        let (report, (content_type, bytes, first)) = self.beside(event, bytes_max, read).await;
        Streamed {
            report,
            content_type,
            bytes,
            first,
        }
    }

    async fn stream(&mut self, event: &Value) -> Streamed {
        self.stream_up_to(event, u64::MAX).await
    }
}

/// Whether the kind cannot stream; then what is asked for so is answered in one piece all the same.
async fn answers_whole(bench: &Bench<'_>) -> bool {
    let lacks = bench.lacks(Ability::Stream);
    if lacks {
        let mut live = bench.start(Prober::named("whole")).await;
        let streamed = live.stream(&json!({"do": "echo", "value": 1})).await;
        assert_eq!((streamed.content_type, streamed.bytes), (None, 0));
        assert!(matches!(streamed.report.outcome, Outcome::Success(answer) if !answer.is_empty()));
        live.end().await;
    }
    lacks
}

/// A streamed answer has its type and all its bytes; wanted in one piece, it is the same.
pub async fn streams_an_answer(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("stream")).await;
    let event = event(5, 1000, &[]);
    for _ in 0..3 {
        let streamed = live.stream(&event).await;
        assert_eq!(streamed.content_type.as_deref(), Some(TYPE));
        assert_eq!(streamed.bytes, 5000);
        assert_eq!(streamed.report.outcome, Outcome::Success(Bytes::new()));
        assert!(streamed.report.reusable);
    }
    let whole = live.report(event).await;
    assert_eq!(whole.outcome, Outcome::Success("x".repeat(5000).into()), "the control");
    assert_eq!(live.ask_ok(json!({"do": "count"})).await["count"], 5);
    live.end().await;
}

/// A piece goes out when it is written, not when the answer is over.
pub async fn streams_the_first_piece_at_once(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("early")).await;
    let slow = event(2, 10, &[("pause_ms", json!(3000))]);
    let begin = bench.clock.monotonic();
    let streamed = live.stream(&slow).await;
    let first = streamed.first.expect("there are pieces").since(begin);
    let whole = bench.clock.monotonic().since(begin);
    assert!(
        first < Duration::from_millis(1500),
        "the first piece came after {first:?}"
    );
    assert!(
        whole >= Duration::from_millis(3000),
        "the control: the answer took {whole:?}"
    );
    assert_eq!(streamed.bytes, 20);
    live.end().await;
}

/// A guest writes no further than its reader reads.
pub async fn holds_a_guest_back(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("held").memory_mib(256)).await;
    let total = 64 << 20;
    let event = event(total >> 16, 1 << 16, &[]);
    let read = async move |mut stream: AnswerStream| {
        let first = stream.next().await.expect("the answer begins");
        // The reader does nothing for a while; unhindered, the guest would be done by then.
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let waiting = stream.waiting_bytes();
        let mut bytes = first.len();
        while let Some(piece) = stream.next().await {
            bytes += piece.len();
        }
        (waiting, bytes)
    };
    let (report, (waiting, bytes)) = live.beside(&event, u64::MAX, read).await;
    assert!(
        waiting <= STREAM_BUFFER_BYTES + STREAM_PIECE_BYTES,
        "{waiting} bytes waited"
    );
    assert_eq!(bytes, total, "the control: read on, it came whole");
    assert_eq!(report.outcome, Outcome::Success(Bytes::new()));
    live.end().await;
}

/// A guest that waits for its reader still ends at its deadline.
pub async fn ends_a_guest_that_is_held_back(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let limit = Duration::from_millis(5000);
    let mut live = bench.start(Prober::named("stalled").timeout_ms(5000)).await;
    let event = event(192, 1 << 16, &[]);
    let streamed = live.stream(&event).await;
    assert_eq!(streamed.bytes, 192 << 16, "the control: read, it comes in time");

    let mut invocation = live.invocation(&event);
    let request_id = invocation.request_id;
    let (sink, stream) = answer::channel(u64::MAX);
    invocation.sink = Some(sink);
    let begin = bench.clock.monotonic();
    let report = live.sandbox.invoke(invocation).await;
    let took = bench.clock.monotonic().since(begin);
    assert_eq!(
        report.outcome,
        Outcome::Failed(FunctionError::timed_out(request_id, limit))
    );
    assert!(!report.reusable, "{report:?}");
    assert!(took < limit + GRACE, "came back after {took:?}");
    drop(stream);
    live.end().await;
}

/// A reader that goes away does not stop the guest, nor the next invocation.
pub async fn goes_on_without_a_reader(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("unread")).await;
    let event = event(1024, 1 << 16, &[]);
    let leave = async |mut stream: AnswerStream| {
        stream.next().await.expect("the answer begins");
    };
    let (report, ()) = live.beside(&event, u64::MAX, leave).await;
    assert_eq!(report.outcome, Outcome::Success(Bytes::new()));
    assert!(report.reusable, "{report:?}");
    assert_eq!(live.ask_ok(json!({"do": "count"})).await["count"], 2);
    live.end().await;
}

/// A guest that fails after it began has sent what it sent, and its error is told.
pub async fn fails_in_the_middle_of_an_answer(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("middle").timeout_ms(1200)).await;
    let streamed = live.stream(&event(2, 1000, &[("then", json!("fail"))])).await;
    assert_eq!(streamed.bytes, 2000);
    let (error_type, payload) = error_of(&streamed.report);
    assert_eq!(error_type, "KnotError");
    assert_eq!(payload["errorMessage"], "it slipped");
    assert!(streamed.report.reusable, "{:?}", streamed.report);
    let whole = live.report(event(2, 1000, &[("then", json!("fail"))])).await;
    assert_eq!(error_of(&whole).0, "KnotError", "wanted whole, it fails whole");
    for (then, expected) in [("crash", "Runtime.ExitError"), ("hang", "Sandbox.Timedout")] {
        let mut live = bench.start(Prober::named("middle").timeout_ms(1200)).await;
        let streamed = live.stream(&event(2, 1000, &[("then", json!(then))])).await;
        assert_eq!(streamed.bytes, 2000, "{then}");
        assert_eq!(error_of(&streamed.report).0, expected);
        assert!(!streamed.report.reusable, "{then}");
        live.end().await;
    }
    live.end().await;
}

/// An answer over the sink's limit is an error; one just inside passes.
pub async fn bounds_a_streamed_answer(bench: &Bench<'_>) {
    if answers_whole(bench).await {
        return;
    }
    let mut live = bench.start(Prober::named("bounded")).await;
    let bytes_max = 10 << 16;
    let streamed = live.stream_up_to(&event(10, 1 << 16, &[]), bytes_max).await;
    assert_eq!(streamed.report.outcome, Outcome::Success(Bytes::new()));
    assert_eq!(streamed.bytes as u64, bytes_max);
    let streamed = live.stream_up_to(&event(11, 1 << 16, &[]), bytes_max).await;
    let (error_type, payload) = error_of(&streamed.report);
    assert_eq!(error_type, "Function.ResponseSizeTooLarge", "{payload}");
    assert!(streamed.bytes as u64 <= bytes_max);
    live.end().await;
}
