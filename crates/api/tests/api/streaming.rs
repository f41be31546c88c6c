//! InvokeWithResponseStream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_api::event_stream::{self, Decoder, Message};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{Answer, FUNCTIONS, TestNode, request};

const STREAMED: &str = "/2021-11-15/functions";

fn path(name: &str) -> String {
    format!("{STREAMED}/{name}/response-streaming-invocations")
}

async fn stream(node: &TestNode, headers: &[(&str, &str)], event: Value) -> Answer {
    let body = Bytes::from(event.to_string());
    node.send(request("POST", &path("hello"), headers, body)).await
}

/// All messages of an answer, which must be whole.
fn messages(answer: &Answer) -> Vec<Message> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some(event_stream::CONTENT_TYPE));
    let mut decoder = Decoder::default();
    decoder.push(&answer.body);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next_message().expect("the messages are well formed") {
        messages.push(message);
    }
    assert!(!decoder.is_within_message());
    messages
}

/// The pieces of an answer, and the document of its end.
#[track_caller]
fn parts(answer: &Answer) -> (Vec<String>, Value) {
    let mut messages = messages(answer);
    let end = messages.pop().expect("there is an end");
    assert_eq!(end.header(":message-type"), Some("event"));
    assert_eq!(end.header(":event-type"), Some("InvokeComplete"));
    assert_eq!(end.header(":content-type"), Some("application/json"));
    let pieces = messages.iter().map(|message| {
        assert_eq!(message.header(":event-type"), Some("PayloadChunk"));
        String::from_utf8(message.payload.to_vec()).expect("text")
    });
    (pieces.collect(), serde_json::from_slice(&end.payload).expect("JSON"))
}

/// A connection with an answer of which nothing but the head was read.
async fn begin(node: &TestNode, event: Value) -> (http1::SendRequest<http_body_util::Full<Bytes>>, Response<Incoming>) {
    let stream = TcpStream::connect(node.addr).await.expect("the node listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let request = request("POST", &path("hello"), &[], event.to_string().into());
    let response = sender.send_request(request).await.expect("an answer");
    (sender, response)
}

#[tokio::test]
async fn a_piece_is_sent_when_it_is_written() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let (_sender, mut response) = begin(&node, json!({"pieces": ["one", "two"]})).await;
    assert_eq!(response.headers()["x-amz-executed-version"], "$LATEST");
    assert_eq!(response.headers()["x-amzn-requestid"].len(), 36);
    let mut decoder = Decoder::default();
    let mut next = async || loop {
        if let Some(message) = decoder.next_message().expect("well formed") {
            return message;
        }
        let frame = response
            .frame()
            .await
            .expect("more comes")
            .expect("the connection holds");
        decoder.push(frame.data_ref().expect("data"));
    };
    assert_eq!(next().await.payload, "one");
    // Only now may the function go on: the first piece did not wait for the second.
    node.gate.add_permits(1);
    assert_eq!(next().await.payload, "two");
    let end = next().await;
    assert_eq!(
        (end.header(":event-type"), &end.payload[..]),
        (Some("InvokeComplete"), &b"{}"[..])
    );
    assert!(response.frame().await.is_none(), "nothing follows the end");
    node.stop().await;
}

#[tokio::test]
async fn an_answer_in_one_piece_is_one_chunk() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let answer = stream(&node, &[], json!({"n": 1})).await;
    assert_eq!(parts(&answer), (vec![r#"{"n":1}"#.to_owned()], json!({})));
    let answer = stream(&node, &[("x-amzn-trace-id", "Root=1")], json!({"context": true})).await;
    assert_eq!(answer.header("x-amzn-trace-id"), Some("Root=1"));
    let (pieces, _) = parts(&answer);
    let seen: Value = serde_json::from_str(&pieces[0]).expect("JSON");
    assert_eq!(seen["request"].as_str(), answer.header("x-amzn-requestid"));
    assert_eq!(seen["trace"], "Root=1");
    node.post(&format!("{FUNCTIONS}/hello/versions"), &json!({})).await;
    let answer = node
        .request("POST", &format!("{}?Qualifier=1", path("hello")), "{}".into())
        .await;
    assert_eq!(answer.header("x-amz-executed-version"), Some("1"));
    node.stop().await;
}

#[tokio::test]
async fn the_end_tells_of_the_function_s_error_and_log() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let (pieces, end) = parts(&stream(&node, &[], json!({"fail": true})).await);
    assert_eq!(pieces, Vec::<String>::new());
    assert_eq!(end["ErrorCode"], "Sad");
    let details: Value = serde_json::from_str(end["ErrorDetails"].as_str().expect("text")).expect("JSON");
    assert_eq!(details, json!({"errorType": "Sad", "errorMessage": "it failed"}));

    let tail = [("x-amz-log-type", "Tail")];
    let event = json!({"pieces": ["half"], "fail": true, "say": "a word"});
    let (pieces, end) = parts(&stream(&node, &tail, event).await);
    assert_eq!((pieces, &end["ErrorCode"]), (vec!["half".to_owned()], &json!("Sad")));
    let log = STANDARD
        .decode(end["LogResult"].as_str().expect("a log"))
        .expect("base64");
    let log = String::from_utf8(log).expect("text");
    assert!(log.contains("a word\n") && log.contains("Error Type: Sad"), "{log}");
    node.stop().await;
}

#[tokio::test]
async fn the_platform_s_failure_is_an_exception() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let answer = stream(&node, &[], json!({"break": true})).await;
    answer.refused(500, "ServiceException");
    let answer = stream(&node, &[], json!({"pieces": ["half"], "break": true})).await;
    let messages = messages(&answer);
    assert_eq!(messages[0].payload, "half");
    assert_eq!(messages[1].header(":message-type"), Some("exception"));
    assert_eq!(messages[1].header(":exception-type"), Some("ServiceException"));
    let body: Value = serde_json::from_slice(&messages[1].payload).expect("JSON");
    assert_eq!(body["Type"], "Service");
    assert!(
        !answer.body.windows(8).any(|window| window == b"it broke"),
        "the cause stays inside"
    );
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_begin_is_refused_as_invoke_refuses_it() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let absent = node.request("POST", &path("absent"), "{}".into()).await;
    absent.refused(404, "ResourceNotFoundException");
    let no_json = node.request("POST", &path("hello"), "{".into()).await;
    no_json.refused(400, "InvalidRequestContentException");
    let event = stream(&node, &[("x-amz-invocation-type", "Event")], json!({})).await;
    event.refused(400, "ValidationException");
    let limit = json!({"ReservedConcurrentExecutions": 0});
    node.put("/2017-10-31/functions/hello/concurrency", &limit).await;
    let throttled = stream(&node, &[], json!({})).await;
    throttled.refused(429, "TooManyRequestsException");
    assert_eq!(
        throttled.json()["Reason"],
        "ReservedFunctionConcurrentInvocationLimitExceeded"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_dry_run_runs_nothing() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let dry = [("x-amz-invocation-type", "DryRun")];
    let answer = stream(&node, &dry, json!({"wait": true})).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(node.waiting.available_permits(), 0, "nothing waits at the gate");
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_nothing() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let limit = json!({"ReservedConcurrentExecutions": 1});
    node.put("/2017-10-31/functions/hello/concurrency", &limit).await;
    let (sender, response) = begin(&node, json!({"pieces": ["one", "two"]})).await;
    drop((sender, response));
    let busy = stream(&node, &[], json!({})).await;
    assert_eq!(busy.status, 429, "the invocation goes on: {busy:?}");
    node.gate.add_permits(1);
    loop {
        let answer = stream(&node, &[], json!({"n": 1})).await;
        if answer.status == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    node.stop().await;
}
