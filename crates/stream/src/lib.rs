//! Ordered event streams over many hosts, and the sessions of those who read them.
//!
//! A stream is one sequence of events in a global order. It consists of chains; each chain is written
//! by one host at a time and read by all. [`Log`] is what a reader sees of a stream.

mod append;
mod chain;
mod config;
mod event;
mod grow;
mod host;
mod hybrid;
mod key;
mod log;
mod name;
pub mod peers;
mod position;
mod reader;
mod record;
pub mod session;

pub use append::{AppendError, Record};
pub use config::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, BODY_BYTES_MAX, CommitWait, Config, Growth, HeadLimits, KEY_BYTES_MAX,
};
pub use event::{Event, EventId};
pub use host::{
    AlterError, ChainStat, CreateError, GuardedStore, Handle, ListError, Options, Service, SettingsChange, Sharing,
    StartError, Stat, wait_for_silence,
};
pub use hybrid::ClockSkew;
pub use log::{Log, Page, ReadError, ReadLimit};
pub use name::{InvalidStreamId, StreamId};
pub use peers::{Forward, ForwardedEvent, NoPeers, PeerChain, PeerError, PeerHost, Peers, PromiseRequest};
pub use position::{ChainId, HostId, InvalidPosition, Position, Stamp};
pub use reader::Backward;
pub use record::{ChainState, Settings};
