//! Invoke.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Answer, FUNCTIONS, TestNode, request, send};

async fn invoke(node: &TestNode, headers: &[(&str, &str)], event: &str) -> Answer {
    let body = Bytes::copy_from_slice(event.as_bytes());
    node.send(request(
        "POST",
        &format!("{FUNCTIONS}/hello/invocations"),
        headers,
        body,
    ))
    .await
}

#[tokio::test]
async fn an_answer_carries_the_version_and_the_request() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let answer = invoke(&node, &[], r#"{"n": 1}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "n": 1 }));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(answer.header("x-amzn-remapped-content-length"), Some("0"));
    assert_eq!(answer.header("x-bowline-provisioned"), Some("created"));
    assert_eq!(answer.header("x-amz-function-error"), None);
    assert_eq!(answer.header("x-amz-log-result"), None);
    assert_eq!(answer.header("x-amzn-requestid").map(str::len), Some(36));

    node.post(&format!("{FUNCTIONS}/hello/versions"), &json!({})).await;
    let path = format!("{FUNCTIONS}/hello/invocations?Qualifier=1");
    let answer = node.request("POST", &path, "{}".into()).await;
    assert_eq!(answer.header("x-amz-executed-version"), Some("1"));
    node.stop().await;
}

#[tokio::test]
async fn the_function_learns_its_context() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let context = STANDARD.encode(r#"{"client":{"app_title":"t"}}"#);
    let headers = [
        ("x-amz-client-context", context.as_str()),
        ("x-amzn-trace-id", "Root=1-2-3;Sampled=1"),
    ];
    let answer = invoke(&node, &headers, r#"{"context": true}"#).await;
    assert_eq!(answer.header("x-amzn-trace-id"), Some("Root=1-2-3;Sampled=1"));
    let seen = answer.json();
    assert_eq!(seen["client"], r#"{"client":{"app_title":"t"}}"#);
    assert_eq!(seen["trace"], "Root=1-2-3;Sampled=1");
    assert_eq!(seen["request"].as_str(), answer.header("x-amzn-requestid"));
    assert_eq!(seen["arn"], "arn:aws:lambda:eu-central-1:000000000000:function:hello");
    // Who brings no trace gets one.
    let answer = invoke(&node, &[], r#"{"context": true}"#).await;
    let trace = answer.header("x-amzn-trace-id").expect("a trace").to_owned();
    assert!(
        trace.starts_with("Root=1-6b00d6b7-") && trace.ends_with(";Sampled=0"),
        "{trace}"
    );
    assert_eq!(answer.json()["trace"], trace.as_str());
    node.stop().await;
}

#[tokio::test]
async fn a_functions_error_is_a_success_of_the_service() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let headers = [("x-amz-log-type", "Tail")];
    let answer = invoke(&node, &headers, r#"{"fail": true, "say": "why"}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
    assert_eq!(
        answer.json(),
        json!({ "errorType": "Sad", "errorMessage": "it failed" })
    );
    let tail = answer.header("x-amz-log-result").expect("the log's tail");
    let tail = String::from_utf8(STANDARD.decode(tail).expect("base64")).expect("UTF-8");
    assert!(tail.contains("why\n"), "{tail}");
    assert!(tail.contains("REPORT RequestId: "), "{tail}");
    node.stop().await;
}

#[tokio::test]
async fn a_dry_run_runs_nothing() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let dry = [("x-amz-invocation-type", "DryRun")];
    let answer = invoke(&node, &dry, r#"{"wait": true}"#).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let path = format!("{FUNCTIONS}/nobody/invocations");
    let nobody = node.send(request("POST", &path, &dry, Bytes::new())).await;
    nobody.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn invocations_are_refused_as_the_service_does() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let check = async |headers: &[(&str, &str)], event: &str, status: u16, name: &str| {
        invoke(&node, headers, event).await.refused(status, name)
    };
    let (invalid, content) = ("InvalidParameterValueException", "InvalidRequestContentException");
    check(&[], "{", 400, content).await;
    check(&[("x-amz-invocation-type", "event")], "{}", 400, "ValidationException").await;
    check(&[("x-amz-invocation-type", "Later")], "{}", 400, "ValidationException").await;
    check(&[("x-amz-log-type", "Head")], "{}", 400, "ValidationException").await;
    check(&[("x-amz-client-context", "e30")], "{}", 400, content).await;
    check(&[("x-amz-client-context", &STANDARD.encode("{"))], "{}", 400, content).await;
    let long = STANDARD.encode(vec![b' '; 3000]);
    check(&[("x-amz-client-context", &long)], "{}", 400, content).await;
    check(&[("x-amz-tenant-id", "t")], "{}", 400, invalid).await;
    check(&[("x-amz-durable-execution-name", "d")], "{}", 400, invalid).await;
    node.invoke("nobody", "{}")
        .await
        .refused(404, "ResourceNotFoundException");
    node.invoke("hello:9", "{}")
        .await
        .refused(404, "ResourceNotFoundException");
    node.invoke("hello:1?Qualifier=2", "{}").await.status_is(404);
    node.stop().await;
}

impl Answer {
    #[track_caller]
    fn status_is(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
    }
}

#[tokio::test]
async fn events_end_at_the_limit() {
    const BYTES_MAX: usize = 6_291_556;
    let node = TestNode::start().await;
    node.create("hello").await;
    let event = |bytes: usize| Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
    let path = format!("{FUNCTIONS}/hello/invocations");
    let largest = node.request("POST", &path, event(BYTES_MAX)).await;
    assert_eq!((largest.status, largest.body.len()), (200, BYTES_MAX));
    let larger = node.request("POST", &path, event(BYTES_MAX + 1)).await;
    let message = larger.refused(413, "RequestTooLargeException");
    assert!(message.contains("6291556"), "{message}");
    node.request("POST", &path, event(8_000_000))
        .await
        .refused(413, "RequestTooLargeException");
    node.stop().await;
}

#[tokio::test]
async fn throttling_says_which_limit_and_when_to_come_back() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let reserve = json!({ "ReservedConcurrentExecutions": 0 });
    node.put("/2017-10-31/functions/hello/concurrency", &reserve).await;
    let throttled = invoke(&node, &[], "{}").await;
    throttled.refused(429, "TooManyRequestsException");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    let body: Value = throttled.json();
    assert_eq!(body["Reason"], "ReservedFunctionConcurrentInvocationLimitExceeded");
    node.stop().await;
}

#[tokio::test]
async fn over_the_accounts_concurrency_nothing_waits() {
    let node = TestNode::start().await;
    for name in ["hello", "other"] {
        node.create(name).await;
    }
    // The service leaves a hundred to those without a reservation.
    let reserve = json!({ "ReservedConcurrentExecutions": 900 });
    node.put("/2017-10-31/functions/other/concurrency", &reserve).await;
    let (addr, path) = (node.addr, format!("{FUNCTIONS}/hello/invocations"));
    let running: Vec<_> = (0..100)
        .map(|_| tokio::spawn(send(addr, request("POST", &path, &[], r#"{"wait": true}"#.into()))))
        .collect();
    node.waiting.acquire_many(100).await.expect("all run").forget();
    let throttled = invoke(&node, &[], "{}").await;
    throttled.refused(429, "TooManyRequestsException");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    assert_eq!(throttled.json()["Reason"], "ConcurrentInvocationLimitExceeded");
    let reserved = node.invoke("other", "{}").await;
    assert_eq!(reserved.status, 200, "what is reserved is free: {reserved:?}");
    node.gate.add_permits(100);
    for one in running {
        assert_eq!(one.await.expect("no panic").status, 200);
    }
    assert_eq!(
        invoke(&node, &[], "{}").await.status,
        200,
        "control: one below the limit"
    );
    node.stop().await;
}
