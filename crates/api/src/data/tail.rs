//! Following a stream by server-sent events: each event's identifier is its position, so that a client
//! which connects again with `Last-Event-ID` misses none.
//!
//! A slow reader holds back its own task, which holds at most a few pages; a reader that goes away, or the
//! server's stop, ends it wherever it waits.

use std::sync::Arc;
use std::time::Duration;

use bowline_stream::{Log, Position, ReadError, ReadLimit, StreamId};
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response};
use tokio::sync::mpsc;

use super::event::{Place, position_text};
use super::params;
use super::problem::Problem;
use super::streams::events::{line, place};
use super::{Ask, Data};
use crate::body::Body;
use crate::reply;

/// Pages that wait for a slow reader.
const PAGES_MAX: usize = 2;
/// How much is read at once.
const PAGE: ReadLimit = ReadLimit {
    events: 500,
    bytes: 256 * 1024,
};
/// A quiet connection says so as often as this.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The pause before a stream that cannot be read now is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Begins to follow `stream`, after `Last-Event-ID` if the client names one.
pub async fn follow(ask: &Ask<'_>, stream: StreamId, from: Option<Place>) -> Result<Response<Body>, Problem> {
    let resumed = match ask.header("last-event-id") {
        None => None,
        Some(text) => {
            let position = text.parse().map(Place::Position);
            Some(position.map_err(|_| params::invalid("Last-Event-ID", text, "a position"))?)
        }
    };
    let from = resumed.or(from).unwrap_or(Place::Latest);
    let after = place(&ask.data.streams, &stream, from).await?;
    // A stream that does not exist is refused with its status, not in the middle of an answer.
    ask.data.streams.end(&stream).await?;
    let (pieces, body) = mpsc::channel(PAGES_MAX);
    let tail = Tail {
        data: Arc::clone(ask.data),
        stream,
        after,
        skips_trimmed: from == Place::Oldest,
        pieces: pieces.clone(),
    };
    let mut stopping = ask.call.node.stopping.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = tail.run() => {}
            () = pieces.closed() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    let mut response = reply::event_stream(body);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

struct Tail {
    data: Arc<Data>,
    stream: StreamId,
    after: Position,
    /// Whether what retention takes before it is read is passed over without a word.
    skips_trimmed: bool,
    pieces: mpsc::Sender<Bytes>,
}

/// Nobody reads any more, or there is nothing more to read.
struct Ended;

impl Tail {
    async fn run(mut self) {
        // The first bytes tell the client that it is connected.
        let mut ended = self.send("retry: 1000\n\n".into()).await;
        while ended.is_ok() {
            ended = self.step().await;
        }
    }

    async fn step(&mut self) -> Result<(), Ended> {
        let log = &self.data.streams;
        match log.read(&self.stream, self.after, PAGE).await {
            Ok(page) => {
                self.data.metrics.read(self.stream.name(), &page.events);
                let is_empty = page.events.is_empty();
                if !is_empty {
                    self.send(written(&page.events)).await?;
                }
                self.after = page.next;
                if is_empty && !page.more {
                    self.quiet().await?;
                }
                Ok(())
            }
            Err(ReadError::Trimmed { available, .. }) if self.skips_trimmed => {
                self.after = available;
                Ok(())
            }
            Err(error) => self.trouble(error).await,
        }
    }

    /// Waits for news; tells the reader that it is still there.
    async fn quiet(&self) -> Result<(), Ended> {
        let news = self.data.streams.wait(&self.stream, self.after);
        match tokio::time::timeout(KEEP_ALIVE, news).await {
            Ok(()) => Ok(()),
            Err(_) => self.send(Bytes::from_static(b": quiet\n\n")).await,
        }
    }

    async fn trouble(&mut self, error: ReadError) -> Result<(), Ended> {
        let available = match &error {
            ReadError::Trimmed { available, .. } => Some(*available),
            ReadError::Unavailable { .. } => {
                tokio::time::sleep(RETRY).await;
                return self.send(Bytes::from_static(b": retrying\n\n")).await;
            }
            _ => None,
        };
        let document = Problem::from(error).document();
        let mut text = Vec::with_capacity(document.len() + 128);
        let name = if available.is_some() { "trimmed" } else { "error" };
        text.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        text.extend_from_slice(&document);
        if let Some(available) = available {
            text.extend_from_slice(format!("\nid: {}", position_text(available)).as_bytes());
            self.after = available;
        }
        text.extend_from_slice(b"\n\n");
        self.send(text.into()).await?;
        available.map(|_| ()).ok_or(Ended)
    }

    async fn send(&self, piece: Bytes) -> Result<(), Ended> {
        self.pieces.send(piece).await.map_err(|_| Ended)
    }
}

fn written(events: &[bowline_stream::Event]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        text.extend_from_slice(b"id: ");
        text.extend_from_slice(position_text(event.position).as_bytes());
        text.extend_from_slice(b"\ndata: ");
        line(&mut text, event);
        text.push(b'\n');
    }
    text.into()
}
