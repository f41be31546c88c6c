//! What happens on and to connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{FUNCTIONS, TestNode};

fn raw_invoke(event: &str, close: &str) -> String {
    format!(
        "POST {FUNCTIONS}/hello/invocations HTTP/1.1\r\nhost: n\r\n{close}content-length: {}\r\n\r\n{event}",
        event.len()
    )
}

async fn exchange(node: &TestNode, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.addr).await.expect("the node listens");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let requests = [
        raw_invoke("1", ""),
        raw_invoke("22", ""),
        raw_invoke("333", "connection: close\r\n"),
    ];
    let answers = exchange(&node, requests.concat().as_bytes()).await;
    let bodies: Vec<_> = answers
        .split("HTTP/1.1 200 OK")
        .filter_map(|answer| answer.split("\r\n\r\n").nth(1))
        .collect();
    assert_eq!(bodies, ["1", "22", "333"], "{answers}");
    node.stop().await;
}

#[tokio::test]
async fn a_chunked_event_is_read_whole() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let request = format!(
        "POST {FUNCTIONS}/hello/invocations HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n"
    );
    let answer = exchange(&node, request.as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\n[1,2]"), "{answer}");
    node.stop().await;
}

#[tokio::test]
async fn a_head_with_too_many_lines_is_refused() {
    let node = TestNode::start().await;
    let head = |lines: usize| {
        let lines = "x: y\r\n".repeat(lines);
        format!("GET / HTTP/1.1\r\nhost: n\r\nconnection: close\r\n{lines}\r\n")
    };
    let answer = exchange(&node, head(90).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = exchange(&node, head(200).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    node.stop().await;
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_next_request() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let mut stream = TcpStream::connect(node.addr).await.expect("the node listens");
    let begun = raw_invoke("22", "");
    let (part, rest) = begun.split_at(20);
    let first = raw_invoke("1", "") + part;
    stream.write_all(first.as_bytes()).await.expect("sent");
    let mut answers = Vec::new();
    while !answers.ends_with(b"\r\n\r\n1") {
        assert_ne!(stream.read_buf(&mut answers).await.expect("read"), 0, "ended early");
    }
    stream.write_all(rest.as_bytes()).await.expect("sent");
    while !answers.ends_with(b"\r\n\r\n22") {
        assert_ne!(stream.read_buf(&mut answers).await.expect("read"), 0, "ended early");
    }
    node.stop().await;
}

#[tokio::test]
async fn an_invocation_outlives_its_client() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let event = r#"{"wait": true, "say": "still here"}"#;
    let mut stream = TcpStream::connect(node.addr).await.expect("the node listens");
    stream.write_all(raw_invoke(event, "").as_bytes()).await.expect("sent");
    node.waiting.acquire().await.expect("open").forget();
    drop(stream);
    // The server has certainly seen the end of the connection once it answered on another.
    assert_eq!(node.get("/healthz").await.status, 200);
    node.gate.add_permits(1);
    loop {
        let log = node.get("/v1/functions/hello/logs").await;
        if log.text().contains("still here\n") {
            break;
        }
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn stopping_waits_for_what_runs() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let (addr, gate) = (node.addr, node.gate.clone());
    let mut stream = TcpStream::connect(addr).await.expect("the node listens");
    let event = r#"{"wait": true}"#;
    stream.write_all(raw_invoke(event, "").as_bytes()).await.expect("sent");
    node.waiting.acquire().await.expect("open").forget();
    let mut stopping = tokio::spawn(node.stop());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut stopping).await;
    assert!(early.is_err(), "stopped before the invocation ended");
    assert!(TcpStream::connect(addr).await.is_err(), "still accepts");
    gate.add_permits(1);
    stopping.await.expect("stopped in order");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(event),
        "{answer}"
    );
}
