//! Ordered event streams over many hosts, and the sessions of those who read them.
//!
//! A stream is one sequence of events in a global order. It consists of chains; each chain is written
//! by one host at a time and read by all. [`Log`] is what a reader sees of a stream.

mod event;
mod log;
mod name;
mod position;
pub mod session;

pub use event::{Event, EventId};
pub use log::{Log, Page, ReadError, ReadLimit};
pub use name::{InvalidStreamId, StreamId};
pub use position::{ChainId, HostId, InvalidPosition, Position, Stamp};
