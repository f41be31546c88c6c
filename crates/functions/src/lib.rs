//! Functions: their registry, versions and aliases, and the way of an invocation through admission,
//! a warm or new sandbox, and the log.
//!
//! [`Service`] is the one entry. It keeps the truth in the store and a snapshot of it in memory; an
//! invocation reads only the snapshot and writes nothing durable.

pub mod access;
pub mod cluster;
mod crash;
pub mod durable;
pub mod error;
pub mod events;
mod invoke;
mod logs;
pub mod metrics;
pub mod model;
pub mod name;
mod operations;
pub mod package;
pub mod pattern;
pub mod policy;
mod registry;
mod service;
pub mod state;
pub mod suspend;

pub use crash::CrashPoints;
pub use invoke::{Interruption, ResponsePiece, ResponseStream, Rung, StreamEnd};
pub use service::{Handle, InvocationRequest, InvocationResponse, Options, Service, StreamingResponse};
