//! A streamed answer on its way out of a sandbox: a channel for one writer and one reader, bounded in bytes.
//!
//! ```text
//!   guest ─▶ sandbox ─▶ AnswerSink ═══ at most STREAM_BUFFER_BYTES ═══▶ AnswerStream ─▶ caller
//! ```
//! A reader that is slow holds the sandbox back, and thereby the guest. A reader that goes away holds
//! nothing back: what is written for it is dropped, and the invocation runs to its end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::FunctionError;

/// What waits between a sandbox and the reader of its answer, before the sandbox is held back.
pub const STREAM_BUFFER_BYTES: usize = 256 * 1024;
/// The largest piece a sandbox should make of what it reads at once.
pub const STREAM_PIECE_BYTES: usize = 64 * 1024;
/// What a piece costs beside its bytes, so that many tiny ones are bounded too.
const PIECE_OVERHEAD_BYTES: usize = 128;

/// Longest content type.
const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// The content type of a streamed answer whose function declared none.
pub const STREAM_CONTENT_TYPE: &str = "application/octet-stream";
/// The content type of a streamed answer that begins with the head of an HTTP response: JSON with
/// `statusCode`, `headers` and `cookies`, then eight zero bytes, then the body.
pub const HTTP_CONTENT_TYPE: &str = "application/vnd.awslambda.http-integration-response";

/// Makes a channel for an answer of at most `bytes_max` bytes.
pub fn channel(bytes_max: u64) -> (AnswerSink, AnswerStream) {
    let shared = Arc::new(Mutex::new(State::default()));
    let sink = AnswerSink {
        shared: shared.clone(),
        begun: false,
        bytes: 0,
        bytes_max,
    };
    (sink, AnswerStream { shared })
}

#[derive(Default)]
struct State {
    content_type: Option<Box<str>>,
    pieces: VecDeque<Bytes>,
    cost: usize,
    /// The sink is gone: nothing more comes.
    ended: bool,
    /// The stream is gone: nobody reads.
    abandoned: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

impl State {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// The answer is larger than a streamed answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("streamed answer of `{bytes}` bytes exceeds `{bytes_max}`")]
pub struct AnswerTooLarge {
    /// The bytes up to and with the piece that was refused.
    pub bytes: u64,
    /// The limit.
    pub bytes_max: u64,
}

impl From<AnswerTooLarge> for FunctionError {
    fn from(refused: AnswerTooLarge) -> Self {
        let bytes_max = usize::try_from(refused.bytes_max).unwrap_or(usize::MAX);
        Self::response_too_large(refused.bytes, bytes_max)
    }
}

/// Where a sandbox puts an answer while the function still writes it.
///
/// The first thing is [`Self::begin`], the pieces follow. The sandbox drops the sink when the function has
/// ended, before or when it hands over its [`Report`](crate::Report).
pub struct AnswerSink {
    shared: Arc<Mutex<State>>,
    begun: bool,
    bytes: u64,
    bytes_max: u64,
}

impl std::fmt::Debug for AnswerSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerSink").field("bytes", &self.bytes).finish()
    }
}

impl AnswerSink {
    /// Says that a streamed answer begins, and of which type it is. Only the first time counts. What
    /// cannot be the value of a header field is no type.
    pub fn begin(&mut self, content_type: &str) {
        if !std::mem::replace(&mut self.begun, true) {
            let visible = content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let content_type = if visible && content_type.len() <= CONTENT_TYPE_BYTES_MAX {
                content_type
            } else {
                STREAM_CONTENT_TYPE
            };
            let mut state = self.shared.lock();
            state.content_type = Some(content_type.into());
            state.wake_reader();
        }
    }

    /// The longest answer that it takes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether a streamed answer has begun.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether a piece of it was handed over.
    pub fn has_content(&self) -> bool {
        self.bytes > 0
    }

    /// Waits until there is room for another piece. There always is once the reader has gone away.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if state.abandoned || state.cost < STREAM_BUFFER_BYTES {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Adds a piece, whether or not there is room: [`Self::poll_ready`] comes first.
    ///
    /// # Errors
    /// If the answer would be too large; the function has failed then.
    pub fn push(&mut self, piece: Bytes) -> Result<(), AnswerTooLarge> {
        self.begin(STREAM_CONTENT_TYPE);
        if piece.is_empty() {
            return Ok(());
        }
        let bytes = self.bytes.saturating_add(piece.len() as u64);
        if bytes > self.bytes_max {
            let bytes_max = self.bytes_max;
            return Err(AnswerTooLarge { bytes, bytes_max });
        }
        self.bytes = bytes;
        let mut state = self.shared.lock();
        if !state.abandoned {
            state.cost += piece.len() + PIECE_OVERHEAD_BYTES;
            state.pieces.push_back(piece);
            state.wake_reader();
        }
        Ok(())
    }

    /// Adds a piece once there is room.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn send(&mut self, piece: Bytes) -> Result<(), AnswerTooLarge> {
        self.begin(STREAM_CONTENT_TYPE);
        poll_fn(|cx| self.poll_ready(cx)).await;
        self.push(piece)
    }
}

impl Drop for AnswerSink {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.wake_reader();
    }
}

/// The reader's end.
pub struct AnswerStream {
    shared: Arc<Mutex<State>>,
}

impl AnswerStream {
    /// Waits until the answer begins: its content type, or `None` if the sink went away before that.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<str>>> {
        let mut state = self.shared.lock();
        if state.content_type.is_some() || state.ended {
            return Poll::Ready(state.content_type.clone());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The content type, if the answer has begun.
    pub fn content_type(&self) -> Option<Box<str>> {
        self.shared.lock().content_type.clone()
    }

    /// What waits to be read, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().pieces.iter().map(Bytes::len).sum()
    }

    /// The next piece; `None` after the last one. How the invocation ended is told elsewhere.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.shared.lock();
        let Some(piece) = state.pieces.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.cost -= piece.len() + PIECE_OVERHEAD_BYTES;
        // Half of it, so that the two do not wake each other for each piece.
        if state.cost <= STREAM_BUFFER_BYTES / 2 {
            state.wake_writer();
        }
        Poll::Ready(Some(piece))
    }

    /// The next piece; `None` after the last one.
    pub async fn next(&mut self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        state.pieces = VecDeque::new();
        state.cost = 0;
        state.wake_writer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn pieces_come_in_order_after_the_content_type() {
        let (mut sink, mut stream) = channel(100);
        assert!(poll(|cx| stream.poll_begin(cx)).is_pending());
        sink.begin("text/plain");
        sink.begin("text/html");
        assert_eq!(poll(|cx| stream.poll_begin(cx)), Poll::Ready(Some("text/plain".into())));
        assert!(poll(|cx| stream.poll_next(cx)).is_pending());
        for piece in ["a", "", "b"] {
            sink.send(Bytes::from(piece)).await.expect("it is small");
        }
        drop(sink);
        assert_eq!(stream.next().await.as_deref(), Some(&b"a"[..]));
        assert_eq!(stream.next().await.as_deref(), Some(&b"b"[..]));
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back_and_an_absent_one_does_not() {
        let (mut sink, mut stream) = channel(u64::MAX);
        let piece = Bytes::from(vec![0; STREAM_PIECE_BYTES]);
        let mut pushed = 0;
        while poll(|cx| sink.poll_ready(cx)).is_ready() {
            sink.push(piece.clone()).expect("there is no limit");
            pushed += 1;
        }
        assert!(
            (2..=STREAM_BUFFER_BYTES / STREAM_PIECE_BYTES).contains(&pushed),
            "{pushed}"
        );
        let more = tokio::spawn(async move {
            sink.send(piece).await.expect("there is no limit");
            sink
        });
        for _ in 0..pushed {
            assert!(stream.next().await.is_some());
        }
        let mut sink = more.await.expect("the writer was woken");
        drop(stream);
        for _ in 0..100 {
            sink.send(Bytes::from(vec![0; STREAM_PIECE_BYTES]))
                .await
                .expect("it is dropped");
        }
    }

    #[test]
    fn many_tiny_pieces_are_bounded_too() {
        let (mut sink, _stream) = channel(u64::MAX);
        let mut pushed = 0;
        while poll(|cx| sink.poll_ready(cx)).is_ready() {
            sink.push(Bytes::from_static(b"x")).expect("there is no limit");
            pushed += 1;
        }
        assert!(pushed <= STREAM_BUFFER_BYTES / PIECE_OVERHEAD_BYTES, "{pushed}");
    }

    #[test]
    fn an_answer_ends_at_its_limit() {
        let (mut sink, _stream) = channel(10);
        sink.push(Bytes::from_static(b"0123456789")).expect("just inside");
        let refused = sink.push(Bytes::from_static(b"x")).expect_err("one more");
        assert_eq!(
            refused,
            AnswerTooLarge {
                bytes: 11,
                bytes_max: 10
            }
        );
        assert_eq!(FunctionError::from(refused).error_type, "Function.ResponseSizeTooLarge");
    }

    #[test]
    fn what_is_no_header_value_is_no_content_type() {
        for (declared, expected) in [
            (HTTP_CONTENT_TYPE, HTTP_CONTENT_TYPE),
            ("text/plain\r\nx: y", STREAM_CONTENT_TYPE),
            ("text/\u{17e}", STREAM_CONTENT_TYPE),
            (&"x".repeat(300), STREAM_CONTENT_TYPE),
        ] {
            let (mut sink, stream) = channel(10);
            sink.begin(declared);
            assert_eq!(stream.content_type().as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_sink_that_goes_away_ends_the_stream() {
        let (sink, mut stream) = channel(10);
        drop(sink);
        assert_eq!(poll(|cx| stream.poll_begin(cx)), Poll::Ready(None));
        assert_eq!(poll(|cx| stream.poll_next(cx)), Poll::Ready(None));
    }
}
