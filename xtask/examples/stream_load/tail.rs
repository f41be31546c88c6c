//! From the acknowledgement of an event to its being seen by a reader that follows a quiet stream.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::{Clock, Monotonic};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::http::{self, Connection};

const STREAM: &str = "bench-quiet";
/// Events a round.
const EVENTS: u32 = 200;
/// Not measured: the first ones set connections up.
const EVENTS_BEFORE: u32 = 10;

/// An event's position and when it was seen.
type Seen = (String, Monotonic);

/// The delays of one round, in milliseconds: events go to one node, the reader follows at another or the same.
pub async fn delays(append_at: &str, follow_at: &str) -> Result<Vec<f64>> {
    let clock = Clock::system();
    http::create(append_at, STREAM).await?;
    let mut seen = follow(follow_at, &clock).await?;
    let mut connection = Connection::open(append_at).await?;
    let request = http::append_of(STREAM, &[b"x".to_vec()]);
    let mut delays = Vec::new();
    for number in 0..EVENTS + EVENTS_BEFORE {
        // Pauses of many lengths, so that they fall on every moment of whatever beats in the nodes.
        tokio::time::sleep(Duration::from_millis(u64::from(5 + number * 13 % 41))).await;
        let reply = connection.exchange(&request).await?;
        let acknowledged = clock.monotonic();
        let text = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 201, "the node answered {}: {text}", reply.status);
        let answer: serde_json::Value = serde_json::from_slice(&reply.body)?;
        let stored = answer["last"].as_str().context("no position in the answer")?.to_owned();
        let at = when(&mut seen, &stored).await?;
        if number >= EVENTS_BEFORE {
            delays.push(at.since(acknowledged).as_secs_f64() * 1e3);
        }
    }
    Ok(delays)
}

async fn when(seen: &mut UnboundedReceiver<Seen>, stored: &str) -> Result<Monotonic> {
    let next = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await;
    let (position, at) = next.context("the event is not seen")?.context("the reader has ended")?;
    ensure!(
        position == stored,
        "the reader sees `{position}`, `{stored}` was stored"
    );
    Ok(at)
}

/// Begins to follow the stream from its end on.
async fn follow(address: &str, clock: &Clock) -> Result<UnboundedReceiver<Seen>> {
    let mut connection = Connection::open(address).await?;
    let request = format!(
        "GET /v1/streams/{STREAM}/events?from=latest HTTP/1.1\r\nHost: node\r\nAccept: text/event-stream\r\n\r\n"
    );
    connection.stream.write_all(request.as_bytes()).await?;
    let mut lines = BufReader::new(connection.stream);
    let mut line = String::new();
    while !line.starts_with("retry:") {
        line.clear();
        ensure!(
            lines.read_line(&mut line).await? > 0,
            "the node does not let the stream be followed"
        );
    }
    let (tell, seen) = unbounded_channel();
    tokio::spawn(watch(lines, clock.clone(), tell));
    Ok(seen)
}

async fn watch(mut lines: BufReader<tokio::net::TcpStream>, clock: Clock, tell: UnboundedSender<Seen>) {
    let mut line = String::new();
    while lines.read_line(&mut line).await.is_ok_and(|count| count > 0) {
        if let Some(position) = line.strip_prefix("id: ") {
            let told = tell.send((position.trim().to_owned(), clock.monotonic()));
            if told.is_err() {
                return;
            }
        }
        line.clear();
    }
}
