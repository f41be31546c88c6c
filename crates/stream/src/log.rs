//! What a reader sees of streams: pages of events in the global order.

use async_trait::async_trait;

use crate::{Event, Position, StreamId};

/// How much one read may return. A single event larger than `bytes` is still returned alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// From 1.
    pub events: usize,
    /// Sum of keys and bodies.
    pub bytes: usize,
}

/// Consecutive events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the global order, without a gap.
    pub events: Vec<Event>,
    /// From where to read on. Never goes back; beyond the last event if the stream is known to hold
    /// nothing more up to there.
    pub next: Position,
    /// Whether more events can be read at once.
    pub more: bool,
}

/// Streams, to be read in their global order.
///
/// **Order.** Every reader sees the same events in the same order; nothing is ever inserted before a
/// position that a page's `next` has passed.
///
/// **Idempotence.** Reading changes nothing. The same `after` gives the same events until they are
/// trimmed, and perhaps more of them.
///
/// **Cancellation.** Dropping a future has no effect.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// The events after `after`.
    async fn read(&self, stream: &StreamId, after: Position, limit: ReadLimit) -> Result<Page, ReadError>;

    /// The bound after everything that is readable now.
    async fn end(&self, stream: &StreamId) -> Result<Position, ReadError>;

    /// Completes once something after `after` may be readable. A hint: it may complete too early, and
    /// the caller sets the limit of time.
    async fn wait(&self, stream: &StreamId, after: Position);
}

/// Why a stream could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("stream `{0}` does not exist")]
    NoSuchStream(StreamId),
    /// Retention has removed events after the asked position; reading on from `available` skips them.
    #[error("events of stream `{stream}` up to `{available}` have been trimmed")]
    Trimmed { stream: StreamId, available: Position },
    /// The store cannot be reached now; retry later.
    #[error("stream `{stream}` cannot be read now: {reason}")]
    Unavailable { stream: StreamId, reason: String },
    /// What is stored is damaged or of a format this build does not know.
    #[error("stream `{stream}` is damaged: {reason}")]
    Damaged { stream: StreamId, reason: String },
}
