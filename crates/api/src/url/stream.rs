//! Answers of URLs with `RESPONSE_STREAM`: sent on as the function writes them.
//!
//! ```text
//!   HTTP integration:  {"statusCode", "headers", "cookies"} 00 00 00 00 00 00 00 00 body ...
//!   anything else:     body ...                                           (200, the declared type)
//! ```

use std::task::{Context, Poll, ready};

use bowline_functions::{InvocationRequest, ResponsePiece, ResponseStream};
use bowline_sandbox::answer::HTTP_CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::UrlRequest;
use super::answer::{Head, InvalidAnswer};
use super::refusal::Refusal;
use crate::body::{Body, BrokenOff, Pieces};
use bowline_functions::model::attached::UrlConfig;

/// What ends the head of an answer of the HTTP integration.
const SEPARATOR: [u8; 8] = [0; 8];
/// Largest head, separator included.
const HEAD_BYTES_MAX: usize = 128 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Invokes the function and begins to answer.
pub async fn answer(
    request: &UrlRequest<'_>,
    config: &UrlConfig,
    invocation: InvocationRequest,
) -> Result<Response<Body>, Refusal> {
    let functions = &request.node.functions;
    let streaming = functions.invoke_streaming(&config.target, invocation).await?;
    let mut body = streaming.body;
    let (mut response, first) = match streaming.content_type.as_deref() {
        Some(HTTP_CONTENT_TYPE) => {
            let (head, first) = read_head(&mut body).await.map_err(|error| {
                tracing::info!(request_id = %request.request_id, function = %config.target.name, %error,
                    "the answer cannot be sent as HTTP");
                Refusal::BadGateway
            })?;
            (head, Some(first).filter(|first| !first.is_empty()))
        }
        content_type => {
            // The status is not sent before it is known that there is an answer.
            let first = next(&mut body).await.map_err(|BrokenOff| Refusal::BadGateway)?;
            let content_type = content_type.and_then(|kind| HeaderValue::from_str(kind).ok());
            let mut response = Response::new(());
            response
                .headers_mut()
                .insert(CONTENT_TYPE, content_type.unwrap_or(JSON));
            (response, first)
        }
    };
    response.headers_mut().entry(CONTENT_TYPE).or_insert(JSON);
    Ok(response.map(|()| Body::Made(Box::new(Streamed { first, body }))))
}

/// Why the head of an answer cannot be read; for the node's log.
#[derive(Debug, thiserror::Error)]
enum InvalidHead {
    #[error("the answer ended before its head did")]
    Incomplete,
    #[error("the head of the answer has more than `{HEAD_BYTES_MAX}` bytes")]
    TooLarge,
    #[error("the head of the answer is not JSON")]
    NotJson,
    #[error("the head of the answer cannot be sent: {0}")]
    Invalid(#[from] InvalidAnswer),
}

/// Reads up to the separator; returns what came after it already.
async fn read_head(body: &mut ResponseStream) -> Result<(Response<()>, Bytes), InvalidHead> {
    let mut read = BytesMut::new();
    let end = loop {
        let piece = next(body).await.ok().flatten().ok_or(InvalidHead::Incomplete)?;
        // A separator may lie across two pieces.
        let from = read.len().saturating_sub(SEPARATOR.len() - 1);
        read.extend_from_slice(&piece);
        if let Some(at) = find_separator(&read[from..]) {
            break from + at;
        }
        if read.len() > HEAD_BYTES_MAX {
            return Err(InvalidHead::TooLarge);
        }
    };
    let head = read.split_to(end).freeze();
    let rest = read.freeze().slice(SEPARATOR.len()..);
    let head: Head = serde_json::from_slice(&head).map_err(|_| InvalidHead::NotJson)?;
    let (status, headers) = head.into_parts()?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok((response, rest))
}

fn find_separator(bytes: &[u8]) -> Option<usize> {
    bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)
}

/// The next piece; `None` at the end of a whole answer.
async fn next(body: &mut ResponseStream) -> Result<Option<Bytes>, BrokenOff> {
    match body.next().await {
        Some(ResponsePiece::Data(piece)) => Ok(Some(piece)),
        Some(ResponsePiece::End(end)) => end.result.map(|()| None).map_err(|_| BrokenOff),
        None => Ok(None),
    }
}

/// A body that comes from a function. One that fails on the way is broken off, so that the client can tell.
struct Streamed {
    first: Option<Bytes>,
    body: ResponseStream,
}

impl Pieces for Streamed {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        match ready!(self.body.poll_next(context)) {
            Some(ResponsePiece::Data(piece)) => Poll::Ready(Some(Ok(piece))),
            Some(ResponsePiece::End(end)) => Poll::Ready(end.result.err().map(|_| Err(BrokenOff))),
            None => Poll::Ready(None),
        }
    }
}
