//! A function's log, as it lies and as it grows.

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{mpsc, watch};

use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;

const BYTES_DEFAULT: usize = 64 * 1024;
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pieces that wait for a slow reader; after that the function's log passes it by.
const PIECES_MAX: usize = 64;

/// `GET /v1/functions/{name}/logs`: the last `bytes` bytes, and with `follow=true` whatever comes
/// after, until the reader goes or the server stops.
pub fn read_logs(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = super::function(call)?;
    let query = call.route.query;
    let bytes_max = match query.get("bytes") {
        None => BYTES_DEFAULT,
        Some(text) => number(&text)?.min(BYTES_MAX),
    };
    if !query.is("follow", "true") {
        let tail = call.node.functions.log_tail(&target, bytes_max)?;
        return Ok(reply::text(StatusCode::OK, tail));
    }
    // Following begins before the tail is read: a line may come twice, but none is missed.
    let news = call.node.functions.log_follow(&target)?;
    let tail = call.node.functions.log_tail(&target, bytes_max)?;
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    tokio::spawn(follow(tail.into(), news, pieces, call.node.stopping.clone()));
    Ok(reply::text_stream(body))
}

fn number(text: &str) -> Result<usize, ApiError> {
    text.parse()
        .map_err(|_| ApiError::new(Exception::Validation, format!("`bytes` is `{text}`, not a number")))
}

async fn follow(
    tail: Bytes,
    mut news: Receiver<Bytes>,
    pieces: mpsc::Sender<Bytes>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut piece = Some(tail);
    while let Some(bytes) = piece {
        if !bytes.is_empty() && pieces.send(bytes).await.is_err() {
            return;
        }
        piece = tokio::select! {
            received = news.recv() => received_piece(received),
            () = pieces.closed() => None,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
    }
}

fn received_piece(received: Result<Bytes, RecvError>) -> Option<Bytes> {
    match received {
        Ok(bytes) => Some(bytes),
        Err(RecvError::Lagged(lost)) => Some(format!("[{lost} pieces of the log passed by unread]\n").into()),
        Err(RecvError::Closed) => None,
    }
}
