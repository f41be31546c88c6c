//! How hosts speak to each other: forwarding an append, and asking for a promise.
//!
//! Both are only short cuts. A forward that fails leaves the append with the sender; a promise that cannot
//! be had is read from the other host's beat instead.

pub mod tcp;
pub mod wire;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ChainId, EventId, HostId, Position, Stamp, StreamId};

/// Another host, with where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHost {
    pub id: HostId,
    pub address: String,
}

/// A chain of the stream, as the sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerChain {
    pub id: ChainId,
    pub owner: HostId,
}

/// An event that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedEvent {
    pub id: EventId,
    /// Whether the client gave the identifier.
    pub is_given: bool,
    pub key: Option<Bytes>,
    pub body: Bytes,
}

/// An append that one host hands to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub stream: StreamId,
    pub events: Vec<ForwardedEvent>,
    /// The hosts and chains that the sender knows of, a chain that it has just added included.
    pub hosts: Vec<PeerHost>,
    pub chains: Vec<PeerChain>,
    /// Which of the receiver's chains is to take the events; none: any of them.
    pub chain: Option<ChainId>,
    /// The sender's time. The receiver stamps the events later than that.
    pub stamp: Stamp,
    /// Set if copies of the events may come to lie in other chains; all have stamps after this one.
    pub origin: Option<Stamp>,
}

/// A question for a host's promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseRequest {
    /// Whose promise is wanted: another host may live at the address by now.
    pub host: HostId,
    pub stream: StreamId,
    /// The asker's time: the promise reaches at least as far, if nothing is in the way.
    pub stamp: Stamp,
}

/// Why a host did not do what another asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was stored.
    #[error("the host refuses: {0}")]
    Refused(String),
    /// Stored or not, unknown.
    #[error("the host did not answer: {0}")]
    Unknown(String),
    /// The host could not be reached; nothing was stored.
    #[error("the host cannot be reached: {0}")]
    Unreachable(String),
}

/// The way to other hosts.
///
/// **Delivery.** A call may be lost, delayed, or carried out without its answer coming back
/// ([`PeerError::Unknown`]); it is carried out at most once. **Cancellation** leaves open whether a forward
/// is carried out.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Has `to` store the events; returns their positions.
    async fn forward(&self, to: &PeerHost, forward: Forward) -> Result<Vec<Position>, PeerError>;

    /// Has `to` promise a stamp: it has stored, and will store, nothing at or under it in the stream that
    /// is not readable already.
    async fn promise(&self, to: &PeerHost, request: PromiseRequest) -> Result<Stamp, PeerError>;
}

/// The peers of a host that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn forward(&self, to: &PeerHost, _: Forward) -> Result<Vec<Position>, PeerError> {
        Err(PeerError::Unreachable(format!("there is no way to host `{}`", to.id.0)))
    }

    async fn promise(&self, to: &PeerHost, _: PromiseRequest) -> Result<Stamp, PeerError> {
        Err(PeerError::Unreachable(format!("there is no way to host `{}`", to.id.0)))
    }
}
