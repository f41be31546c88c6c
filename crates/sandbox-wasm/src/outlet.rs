//! Where a guest's answer goes while the guest writes it: to the caller's sink, or into one piece.

use bowline_sandbox::AnswerSink;
use bowline_sandbox::answer::STREAM_PIECE_BYTES;
use bytes::Bytes;
use wasmtime::Result;

use crate::failure::GuestFailure;
use crate::guest::Answer;

/// The outlet of one invocation.
pub(crate) enum Outlet {
    /// What the guest writes is kept; nothing if it never does.
    Whole(Option<Answer>),
    /// What the guest writes is passed on at once.
    Sink(AnswerSink),
}

impl From<Option<AnswerSink>> for Outlet {
    fn from(sink: Option<AnswerSink>) -> Self {
        sink.map_or(Self::Whole(None), Self::Sink)
    }
}

impl Outlet {
    /// Whether the guest has written or said that it will.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Whole(answer) => answer.is_some(),
            Self::Sink(sink) => sink.has_begun(),
        }
    }

    /// Says that an answer of this type begins.
    pub(crate) fn begin(&mut self, content_type: &str) {
        match self {
            Self::Whole(answer) => {
                answer.get_or_insert_default();
            }
            Self::Sink(sink) => sink.begin(content_type),
        }
    }

    /// Passes on one piece of what the guest writes; waits while the reader is behind.
    ///
    /// # Errors
    /// If a streamed answer becomes too large: the guest has failed then.
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<()> {
        match self {
            Self::Whole(answer) => answer.get_or_insert_default().extend(&piece),
            Self::Sink(sink) => {
                let first = !sink.has_content();
                sink.send(piece).await.map_err(|refused| GuestFailure(refused.into()))?;
                if first {
                    // The caller may be polling this very guest: let it see that the answer begins.
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }
}

/// The largest part of `bytes` that makes one piece.
pub(crate) fn piece(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(STREAM_PIECE_BYTES)]
}
