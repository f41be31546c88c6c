//! Following a stream by server-sent events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::streams::node;
use crate::harness::{TestNode, request};

const EVENTS: &str = "/v1/streams/orders/events";
const PATIENCE: Duration = Duration::from_secs(20);

/// A reader that follows the stream.
struct Follower {
    body: Incoming,
    seen: String,
    connection: JoinHandle<Result<(), hyper::Error>>,
}

impl Follower {
    async fn connect(node: &TestNode, query: &str, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(node.addr).await.expect("the node listens");
        let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.expect("HTTP/1.1");
        let connection = tokio::spawn(connection);
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let path = format!("{EVENTS}?{query}");
        let response = sender.send_request(request("GET", &path, &headers, Bytes::new())).await;
        let response = response.expect("an answer");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut follower = Self {
            body: response.into_body(),
            seen: String::new(),
            connection,
        };
        follower.until("retry: 1000\n\n").await;
        follower
    }

    /// Reads on until `text` was seen; returns everything seen so far.
    async fn until(&mut self, text: &str) -> &str {
        while !self.seen.contains(text) {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            let data = frame.expect("the stream goes on").expect("a whole frame").into_data();
            self.seen += std::str::from_utf8(&data.expect("data")).expect("UTF-8");
        }
        &self.seen
    }

    /// The identifier of the last event seen.
    fn last_id(&self) -> String {
        let mut lines = self.seen.lines().rev();
        let id = lines.find_map(|line| line.strip_prefix("id: "));
        id.expect("an event").to_owned()
    }
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_resumes_where_it_was() {
    let node = node().await;
    node.append_bodies(&["before"]).await;
    let mut follower = Follower::connect(&node, "", None).await;
    node.append_bodies(&["one"]).await;
    let seen = follower.until("\"body\":\"one\"}\n\n").await;
    assert!(!seen.contains("before"), "a tail begins at the end: {seen}");
    let last = follower.last_id();
    drop(follower);
    node.append_bodies(&["two", "three"]).await;
    let mut again = Follower::connect(&node, "", Some(&last)).await;
    let seen = again.until("\"body\":\"three\"}\n\n").await;
    assert!(
        seen.contains("\"body\":\"two\"") && !seen.contains("\"body\":\"one\""),
        "{seen}"
    );
    // The control: without its place a follower does not get what came meanwhile.
    let mut fresh = Follower::connect(&node, "from=latest", None).await;
    node.append_bodies(&["four"]).await;
    assert!(!fresh.until("four").await.contains("three"));
    drop((again, fresh));
    node.stop().await;
}

#[tokio::test]
async fn a_follower_is_told_that_its_place_was_trimmed() {
    let node = node().await;
    let positions = node.append_bodies(&["a", "b"]).await;
    let body = serde_json::json!({ "until": positions[0] });
    assert_eq!(node.post("/v1/streams/orders/trim", &body).await.status, 204);
    let start = "0".repeat(56);
    let mut told = Follower::connect(&node, "", Some(&start)).await;
    let seen = told.until("\"body\":\"b\"").await;
    assert!(seen.contains("event: trimmed\ndata: {\"code\":\"trimmed\""), "{seen}");
    let mut untold = Follower::connect(&node, "from=oldest", None).await;
    assert!(!untold.until("\"body\":\"b\"").await.contains("event: trimmed"));
    drop((told, untold));
    node.stop().await;
}

#[tokio::test]
async fn a_follower_that_goes_away_frees_everything() {
    let node = node().await;
    let handles = node.engines().handles();
    let quiet = Arc::strong_count(&handles);
    let follower = Follower::connect(&node, "", None).await;
    assert!(Arc::strong_count(&handles) > quiet, "a follower holds the engines");
    follower.connection.abort();
    drop(follower);
    let freed = async {
        while Arc::strong_count(&handles) > quiet {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed)
        .await
        .expect("the follower is gone");
    node.stop().await;
}

#[tokio::test]
async fn a_reader_that_waits_ends_with_its_connection() {
    let node = node().await;
    let handles = node.engines().handles();
    let quiet = Arc::strong_count(&handles);
    let stream = TcpStream::connect(node.addr).await.expect("the node listens");
    let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let wait = request("GET", &format!("{EVENTS}?wait_ms=20000"), &[], Bytes::new());
    let answer = tokio::spawn(async move { sender.send_request(wait).await });
    let count = async |wanted: std::ops::RangeInclusive<usize>| {
        while !wanted.contains(&Arc::strong_count(&handles)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let began = tokio::time::Instant::now();
    tokio::time::timeout(PATIENCE, count(quiet + 1..=usize::MAX))
        .await
        .expect("it waits");
    connection.abort();
    answer.abort();
    tokio::time::timeout(PATIENCE, count(0..=quiet))
        .await
        .expect("it has ended");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "long before its wait was over"
    );
    node.stop().await;
}

#[tokio::test]
async fn the_servers_stop_ends_a_follower() {
    let node = node().await;
    let mut follower = Follower::connect(&node, "", None).await;
    tokio::time::timeout(PATIENCE, node.stop())
        .await
        .expect("the server stops");
    let end = tokio::time::timeout(PATIENCE, follower.body.frame())
        .await
        .expect("an end");
    assert!(end.is_none(), "the answer ends properly");
}
