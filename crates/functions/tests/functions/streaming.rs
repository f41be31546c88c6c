//! Streamed answers: pieces as they come, ends of every kind, slow readers and readers that go away.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, TimeSource, Timestamp};

use bowline_functions::error::Error;
use bowline_functions::{Interruption, ResponsePiece, ResponseStream, StreamEnd, StreamingResponse};
use bowline_sandbox::answer::{HTTP_CONTENT_TYPE, STREAM_BUFFER_BYTES, STREAM_CONTENT_TYPE};
use bowline_store::MemoryStore;
use bowline_store::blob::Blobs;
use serde_json::{Value, json};

use crate::fake::{PATIENCE, Script};
use crate::world::{World, WorldSettings, request, target};

impl World {
    async fn stream(&self, name: &str, event: Value) -> Result<StreamingResponse, Error> {
        let target = target(name);
        let invoked = self.handle.invoke_streaming(&target, request(event));
        tokio::time::timeout(PATIENCE, invoked)
            .await
            .expect("the answer begins")
    }
}

async fn next(body: &mut ResponseStream) -> Option<ResponsePiece> {
    tokio::time::timeout(PATIENCE, body.next())
        .await
        .expect("something comes")
}

/// Takes all bytes that are left; returns the end.
async fn take(body: &mut ResponseStream, mut each: impl FnMut(&[u8])) -> StreamEnd {
    loop {
        match next(body).await.expect("an end is told") {
            ResponsePiece::Data(piece) => each(&piece),
            ResponsePiece::End(end) => {
                assert!(next(body).await.is_none(), "nothing follows the end");
                return end;
            }
        }
    }
}

/// All bytes that are left, and the end.
async fn rest(body: &mut ResponseStream) -> (Vec<u8>, StreamEnd) {
    let mut bytes = Vec::new();
    let end = take(body, |piece| bytes.extend_from_slice(piece)).await;
    (bytes, end)
}

/// How many bytes are left, and the end.
async fn measure(body: &mut ResponseStream) -> (usize, StreamEnd) {
    let mut bytes = 0;
    let end = take(body, |piece| bytes += piece.len()).await;
    (bytes, end)
}

#[tokio::test]
async fn pieces_come_while_the_function_runs() {
    let world = World::new().await;
    world.deploy("f").await;
    let event = json!({"do": "stream", "pieces": 3, "bytes": 5, "held": true, "type": HTTP_CONTENT_TYPE});
    let mut response = world.stream("f", event).await.unwrap();
    assert_eq!(response.content_type.as_deref(), Some(HTTP_CONTENT_TYPE));
    assert_eq!(response.executed_version.to_string(), "$LATEST");
    let Some(ResponsePiece::Data(first)) = next(&mut response.body).await else {
        panic!("the first piece comes first");
    };
    assert_eq!(first, "xxxxx");
    assert_eq!(world.fake.count().ended, 0, "the function is still held");
    world.fake.hold_invocations(false);
    let (bytes, end) = rest(&mut response.body).await;
    assert_eq!(bytes.len(), 10);
    assert!(end.result.is_ok());
    let log = String::from_utf8(end.log_tail.unwrap()).unwrap();
    for line in ["START RequestId: ", "END RequestId: ", "REPORT RequestId: "] {
        assert!(log.contains(line), "{log}");
    }
    assert_eq!(world.answer("f", json!({})).await["served"], 2, "its sandbox came back");
    assert_eq!(world.metric("invocations_total{function=\"f\",kind=\"linux\"}"), 2.0);
}

#[tokio::test]
async fn an_answer_in_one_piece_is_one_piece() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut response = world.stream("f", json!({})).await.unwrap();
    assert_eq!(response.content_type, None);
    let (bytes, end) = rest(&mut response.body).await;
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer["code"], "one");
    assert!(end.result.is_ok() && end.log_tail.is_some());
    // The control: asked for in one piece, a function that could stream answers in one piece.
    assert_eq!(world.answer("f", json!({"do": "stream"})).await["code"], "one");
}

#[tokio::test]
async fn functions_fail_before_and_within_their_answer() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut response = world.stream("f", json!({"do": "fail"})).await.unwrap();
    assert_eq!(response.content_type, None);
    let (bytes, end) = rest(&mut response.body).await;
    assert!(bytes.is_empty());
    assert!(matches!(end.result, Err(Interruption::Function(error)) if error.error_type == "Oops"));

    let event = json!({"do": "stream", "bytes": 4, "then": "fail"});
    let mut response = world.stream("f", event).await.unwrap();
    assert_eq!(response.content_type.as_deref(), Some(STREAM_CONTENT_TYPE));
    let (bytes, end) = rest(&mut response.body).await;
    assert_eq!(bytes, b"xxxx");
    assert!(matches!(end.result, Err(Interruption::Function(error)) if error.error_type == "Oops"));
    assert_eq!(world.metric("errors_total{function=\"f\",error=\"handler\"}"), 2.0);
}

#[tokio::test]
async fn the_platform_fails_before_and_within_an_answer() {
    let world = World::new().await;
    world.deploy("f").await;
    assert!(matches!(
        world.stream("f", json!({"do": "break"})).await,
        Err(Error::Service(_))
    ));
    let mut response = world
        .stream("f", json!({"do": "stream", "then": "break"}))
        .await
        .unwrap();
    let (bytes, end) = rest(&mut response.body).await;
    assert_eq!(bytes, b"x");
    assert!(matches!(end.result, Err(Interruption::Service(Error::Service(_)))));
    world.fake.create_as(Some(Script::InitError));
    world.fake.until(|counts| counts.destroyed == 2).await;
    let mut response = world.stream("f", json!({})).await.unwrap();
    let (_, end) = rest(&mut response.body).await;
    assert!(
        matches!(end.result, Err(Interruption::Function(error)) if error.error_type == "Runtime.ImportModuleError")
    );
}

#[tokio::test]
async fn a_slow_reader_holds_the_function_back() {
    let world = World::new().await;
    world.deploy("f").await;
    let event = json!({"do": "stream", "pieces": 200, "bytes": 64 * 1024});
    let mut response = world.stream("f", event).await.unwrap();
    let mut streamed = world.fake.streamed();
    streamed.wait_for(|bytes| *bytes > 0).await.unwrap();
    // As far as it goes without a reader: until no task has anything to do.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let ahead = *world.fake.streamed().borrow();
    assert!(
        ahead <= STREAM_BUFFER_BYTES + 64 * 1024,
        "{ahead} bytes ahead of the reader"
    );
    let (bytes, end) = rest(&mut response.body).await;
    assert_eq!(bytes.len(), 200 * 64 * 1024);
    assert!(end.result.is_ok());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_any_more_ends_all_the_same() {
    let world = World::new().await;
    world.deploy("f").await;
    let event = json!({"do": "stream", "pieces": 200, "bytes": 64 * 1024, "held": true});
    let response = world.stream("f", event).await.unwrap();
    drop(response);
    assert_eq!(world.fake.count().ended, 0);
    world.fake.hold_invocations(false);
    world.fake.until(|counts| counts.ended == 1).await;
    assert_eq!(world.answer("f", json!({})).await["served"], 2, "its sandbox came back");
}

#[tokio::test]
async fn an_answer_over_two_hundred_megabytes_is_cut() {
    let world = World::new().await;
    world.deploy("f").await;
    let mebibyte = 1024 * 1024;
    let event = |pieces| json!({"do": "stream", "pieces": pieces, "bytes": mebibyte});
    let mut response = world.stream("f", event(200)).await.unwrap();
    let (bytes, end) = measure(&mut response.body).await;
    assert_eq!(bytes, 200 * mebibyte);
    assert!(end.result.is_ok(), "the control: just inside");
    let mut response = world.stream("f", event(201)).await.unwrap();
    let (bytes, end) = measure(&mut response.body).await;
    assert_eq!(bytes, 200 * mebibyte);
    let Err(Interruption::Function(error)) = end.result else {
        panic!("one more is too much");
    };
    assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
}

#[tokio::test]
async fn a_streamed_invocation_counts_until_its_end() {
    let settings = WorldSettings {
        concurrency_max: 1,
        keep_alive: Duration::from_secs(600),
        ..WorldSettings::default()
    };
    let world = World::with(settings).await;
    world.deploy("f").await;
    let event = json!({"do": "stream", "held": true});
    let mut response = world.stream("f", event).await.unwrap();
    assert!(matches!(world.stream("f", json!({})).await, Err(Error::Throttled(_))));
    world.fake.hold_invocations(false);
    rest(&mut response.body).await;
    assert!(world.stream("f", json!({})).await.is_ok(), "the control: free again");
}

/// The time of the test's runtime, which jumps to the next timer when nothing else is to be done.
#[derive(Debug)]
struct RuntimeTime(tokio::time::Instant);

impl TimeSource for RuntimeTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_795_000_000_000_000).after(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How long ten mebibytes take, and a mebibyte after them.
async fn time_of_ten_mebibytes(stream_bytes_per_second: Option<u32>) -> Duration {
    let settings = WorldSettings {
        stream_bytes_per_second,
        ..WorldSettings::default()
    };
    let clock = Clock::driven_by(Arc::new(RuntimeTime(tokio::time::Instant::now())));
    let (store, blobs) = (Arc::new(MemoryStore::default()), Blobs::in_memory());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let world = World::over_streams(store, blobs, folder, settings, (clock, None)).await;
    world.deploy("f").await;
    let event = json!({"do": "stream", "pieces": 160, "bytes": 64 * 1024});
    let begin = tokio::time::Instant::now();
    let mut response = world
        .handle
        .invoke_streaming(&target("f"), request(event))
        .await
        .unwrap();
    let mut bytes = 0;
    while let Some(piece) = response.body.next().await {
        if let ResponsePiece::Data(piece) = piece {
            bytes += piece.len();
        }
    }
    assert_eq!(bytes, 160 * 64 * 1024);
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_answer_keeps_to_its_bandwidth_after_the_first_six_mebibytes() {
    let took = time_of_ten_mebibytes(Some(2 * 1024 * 1024)).await;
    // Four mebibytes at two a second, but for the last piece, which nobody waits for.
    let expected = Duration::from_secs(2);
    assert!(
        (expected - Duration::from_millis(50)..expected + Duration::from_millis(50)).contains(&took),
        "{took:?}"
    );
    let unhindered = time_of_ten_mebibytes(None).await;
    assert!(unhindered < Duration::from_millis(50), "the control: {unhindered:?}");
}
