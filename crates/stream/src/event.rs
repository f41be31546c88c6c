//! An event of a stream, as readers get it.

use bytes::Bytes;

use crate::Position;

/// What tells an event from every other: drawn at random, or the client's token of the append. The same
/// identifier appended again within the stream's window has no second effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 16]);

/// An event with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub position: Position,
    pub id: EventId,
    /// What the event is about: who wants order per key gets events of one key one after the other.
    pub key: Option<Bytes>,
    pub body: Bytes,
}
