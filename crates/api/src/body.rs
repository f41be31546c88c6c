//! Bodies: a request's, collected within its limit, and an answer's, whole or as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

/// What is read and thrown away of a body that is too large, so that the client gets to read the
/// answer instead of a broken connection.
const DRAIN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// An answer's body.
pub enum Body {
    /// The whole of it; `None` once it was sent.
    Whole(Option<Bytes>),
    /// Pieces as they come; ends when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
    /// Pieces that are made when the connection takes them.
    Made(Box<dyn Pieces>),
}

/// Makes the pieces of a body one by one; dropped when the client goes away.
pub trait Pieces: Send {
    /// The next piece; `None` after the last one.
    ///
    /// # Errors
    /// If the body cannot be completed: the connection is broken off, so that the client can tell.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>>;
}

/// A body that ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body broke off")]
pub struct BrokenOff;

impl Body {
    /// A body without a byte.
    pub fn empty() -> Self {
        Self::Whole(None)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => pieces
                .poll_recv(context)
                .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Made(pieces) => pieces
                .poll_piece(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) | Self::Made(_) => SizeHint::default(),
        }
    }
}

/// Why a request's body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// It has more bytes than its operation takes.
    #[error("request body exceeds `{bytes_max}` bytes")]
    TooLarge { bytes_max: usize },
    /// The connection failed; nobody waits for an answer.
    #[error("request body ended early")]
    Broken(#[source] hyper::Error),
}

/// Reads a whole body of at most `bytes_max` bytes. `waits` says that the client sends the body only
/// once it is asked for it (`Expect: 100-continue`).
pub async fn collect(mut body: Incoming, bytes_max: usize, waits: bool) -> Result<Bytes, CollectError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let expected = body.size_hint().exact();
    if expected.is_some_and(|bytes| bytes > bytes_max as u64) {
        if !waits {
            drain(body).await;
        }
        return Err(CollectError::TooLarge { bytes_max });
    }
    // A small body is usually one frame, already in the connection's buffer: take it as it is.
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() <= bytes_max && (Some(first.len() as u64) == expected || body.is_end_stream()) {
        return Ok(first);
    }
    let capacity = expected.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut whole = BytesMut::with_capacity(capacity.max(first.len()));
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > bytes_max {
            drain(body).await;
            return Err(CollectError::TooLarge { bytes_max });
        }
        whole.extend_from_slice(&bytes);
        piece = next(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of data; trailers are skipped.
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>, CollectError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads what is on its way, up to a limit, so that its sender gets to read the answer.
pub async fn drain(mut body: Incoming) {
    let mut drained = 0;
    while let Ok(Some(bytes)) = next(&mut body).await {
        drained += bytes.len();
        if drained > DRAIN_BYTES_MAX {
            return;
        }
    }
}
