//! Streamed answers by the clients that the binary carries and by the public one.

use std::time::Duration;

use bowline_sandbox::answer::{self, HTTP_CONTENT_TYPE, STREAM_CONTENT_TYPE};
use bowline_sandbox::{Outcome, Report, Runtime};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::clients::build_fixture;
use crate::harness::{Live, World, node};

const NODE_HANDLERS: &str = r#"
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const streamed = awslambda.streamifyResponse;
exports.pieces = streamed(async (event, stream) => {
  stream.setContentType('text/x-knots');
  for (const piece of event.pieces) stream.write(piece);
  stream.end();
});
exports.http = streamed(async (event, stream) => {
  const head = { statusCode: 201, headers: { 'x-knot': 'bowline' }, cookies: ['a=1'] };
  const body = awslambda.HttpResponseStream.from(stream, head);
  body.write('the body');
  body.end();
});
exports.bare = streamed(async (event, stream) => {
  awslambda.HttpResponseStream.from(stream, { statusCode: 204 }).end();
});
exports.large = streamed(async (event, stream) => {
  const piece = 'x'.repeat(65536);
  await pipeline(Readable.from((function* () { for (let n = 0; n < event.pieces; n += 1) yield piece; })()), stream);
});
exports.silent = streamed(async (event, stream) => { stream.end(); });
exports.unended = streamed(async (event, stream) => { stream.write('left open'); });
exports.early = streamed(async () => { throw new TypeError('before the first byte'); });
exports.late = streamed(async (event, stream) => { stream.write('half'); throw new RangeError('in the middle'); });
exports.stray = streamed(async (event, stream) => {
  stream.write('half');
  setTimeout(() => { throw new Error('stray'); }, 10);
  await new Promise(() => {});
});
exports.whole = async () => 'in one piece';
"#;

/// What a streamed invocation gave.
struct Streamed {
    report: Report,
    content_type: Option<Box<str>>,
    bytes: Vec<u8>,
}

impl Streamed {
    fn error(&self) -> (&str, Value) {
        match &self.report.outcome {
            Outcome::Failed(error) => {
                let payload = serde_json::from_slice(&error.payload).expect("an error is JSON");
                (&error.error_type, payload)
            }
            other => panic!("should have failed: {other:?}"),
        }
    }
}

async fn stream(live: &mut Live, event: &Value) -> Streamed {
    let mut invocation = live.invocation(event, Duration::from_secs(20));
    let (sink, mut stream) = answer::channel(u64::MAX);
    invocation.sink = Some(sink);
    let read = async {
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece);
        }
        (bytes, stream.content_type())
    };
    let (report, (bytes, content_type)) = tokio::join!(live.sandbox.invoke(invocation), read);
    Streamed {
        report,
        content_type,
        bytes,
    }
}

/// Streams one answer of a Node.js handler in a sandbox of its own; `None` without Node.js.
async fn by_node(world: &World, handler: &str, event: Value) -> Option<Streamed> {
    let code = world.code(&[("index.js", NODE_HANDLERS.as_bytes())]);
    let version = world.version(node()?, &format!("index.{handler}"), code);
    let mut live = world.create(version).await.expect("it starts");
    let streamed = stream(&mut live, &event).await;
    if matches!(streamed.report.outcome, Outcome::Success(_)) {
        // It serves on, and its next answer is its own.
        let again = stream(&mut live, &event).await;
        assert_eq!(again.bytes, streamed.bytes, "{handler}: {}", live.log.text());
    }
    live.sandbox.destroy().await;
    Some(streamed)
}

#[tokio::test(flavor = "multi_thread")]
async fn node_handlers_stream() {
    let world = World::start(1);
    let cases = [
        ("pieces", "text/x-knots", "onetwothree"),
        (
            "http",
            HTTP_CONTENT_TYPE,
            "{\"statusCode\":201,\"headers\":{\"x-knot\":\"bowline\"},\"cookies\":[\"a=1\"]}\0\0\0\0\0\0\0\0the body",
        ),
        ("bare", HTTP_CONTENT_TYPE, "{\"statusCode\":204}\0\0\0\0\0\0\0\0"),
        ("silent", STREAM_CONTENT_TYPE, ""),
        ("unended", STREAM_CONTENT_TYPE, "left open"),
    ];
    for (handler, content_type, expected) in cases {
        let event = json!({"pieces": ["one", "two", "three"]});
        let Some(streamed) = by_node(&world, handler, event).await else {
            return;
        };
        assert_eq!(streamed.report.outcome, Outcome::Success(Bytes::new()), "{handler}");
        assert_eq!(streamed.content_type.as_deref(), Some(content_type), "{handler}");
        assert_eq!(String::from_utf8_lossy(&streamed.bytes), expected, "{handler}");
    }
    let streamed = by_node(&world, "large", json!({"pieces": 160}))
        .await
        .expect("there is Node.js");
    assert_eq!(streamed.bytes.len(), 160 << 16);
    let whole = by_node(&world, "whole", json!({})).await.expect("there is Node.js");
    assert_eq!((whole.content_type, whole.bytes.len()), (None, 0), "the control");
    assert_eq!(whole.report.outcome, Outcome::Success("\"in one piece\"".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_handlers_fail_before_and_within_their_answer() {
    let world = World::start(1);
    let cases = [
        ("early", "TypeError", "before the first byte", ""),
        ("late", "RangeError", "in the middle", "half"),
        ("stray", "Runtime.UncaughtException", "stray", "half"),
    ];
    for (handler, error_type, message, bytes) in cases {
        let Some(streamed) = by_node(&world, handler, json!({})).await else {
            return;
        };
        let (found, payload) = streamed.error();
        assert_eq!(found, error_type, "{handler}: {payload}");
        assert_eq!(payload["errorMessage"], message, "{handler}: {payload}");
        assert!(payload["trace"].is_array(), "{handler}: {payload}");
        assert_eq!(String::from_utf8_lossy(&streamed.bytes), bytes, "{handler}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_rust_client_streams_unchanged() {
    let Some(bootstrap) = build_fixture("public-client") else {
        return;
    };
    let world = World::start(0);
    let code = world.code(&[("bootstrap", &bootstrap)]);
    let mut version = world.version(Runtime::ProvidedAl2023, "bootstrap", code);
    version.environment.insert("STREAM".to_owned(), "1".to_owned());
    let mut live = world.create(version).await.expect("it starts");
    for (pieces, bytes) in [(3, 5), (160, 1 << 16)] {
        let streamed = stream(&mut live, &json!({"pieces": pieces, "bytes": bytes})).await;
        assert_eq!(streamed.report.outcome, Outcome::Success(Bytes::new()));
        assert_eq!(streamed.content_type.as_deref(), Some(HTTP_CONTENT_TYPE));
        let at = streamed.bytes.windows(8).position(|window| window == [0; 8]);
        let (head, body) = streamed.bytes.split_at(at.expect("a head and a body"));
        let head: Value = serde_json::from_slice(head).expect("the head is JSON");
        assert_eq!(head["statusCode"], 200, "{head}");
        assert_eq!(body.len(), 8 + pieces * bytes);
        assert!(body[8..].iter().all(|byte| *byte == b'x'));
    }
    // The control: wanted in one piece, the same answer comes in one.
    match live.report(&json!({"pieces": 3, "bytes": 5})).await.outcome {
        Outcome::Success(answer) => assert!(answer.ends_with(b"\0\0\0\0\0\0\0\0xxxxxxxxxxxxxxx"), "{answer:?}"),
        other => panic!("{other:?}"),
    }
    live.sandbox.destroy().await;
}
