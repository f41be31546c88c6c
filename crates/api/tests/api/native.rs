//! The operator's endpoints.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::harness::{MODULE, TestNode, request};

#[tokio::test]
async fn health_metrics_and_welcome_answer() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.invoke("hello", "{}").await;
    node.get("/nowhere").await;
    assert_eq!(node.get("/healthz").await.text(), "ok\n");
    assert!(node.get("/").await.text().contains("Bowline"));
    let metrics = node.get("/metrics").await;
    let text = metrics.text();
    for line in [
        r#"bowline_http_requests_total{operation="Invoke",status="200"} 1"#,
        r#"bowline_http_requests_total{operation="CreateFunction",status="201"} 1"#,
        r#"bowline_http_requests_total{operation="UnknownOperation",status="404"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    node.stop().await;
}

#[tokio::test]
async fn code_is_served_as_uploaded() {
    let node = TestNode::start().await;
    node.create("hello").await;
    assert_eq!(node.get("/v1/functions/hello/code").await.body, MODULE);
    node.get("/v1/functions/hello/code?version=4")
        .await
        .refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn a_followed_log_grows_until_the_server_stops() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.invoke("hello", r#"{"say": "before"}"#).await;
    let stream = TcpStream::connect(node.addr).await.expect("the node listens");
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .expect("HTTP/1.1");
    tokio::spawn(connection);
    let path = "/v1/functions/hello/logs?follow=true";
    let response = sender
        .send_request(request("GET", path, &[], Bytes::new()))
        .await
        .expect("an answer");
    let mut body = response.into_body();
    let mut seen = String::new();
    read_until(&mut body, &mut seen, "before\n").await;
    node.invoke("hello", r#"{"say": "after"}"#).await;
    read_until(&mut body, &mut seen, "after\n").await;
    let whole = node.get("/v1/functions/hello/logs?bytes=100000").await;
    assert!(whole.text().contains("after\n"));
    node.get("/v1/functions/hello/logs?bytes=x")
        .await
        .refused(400, "ValidationException");
    node.stop().await;
    let rest = body.collect().await.expect("the stream ends in order");
    drop(rest);
}

async fn read_until(body: &mut hyper::body::Incoming, seen: &mut String, words: &str) {
    while !seen.contains(words) {
        let frame = body.frame().await.expect("more follows").expect("a frame");
        seen.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"));
    }
}
