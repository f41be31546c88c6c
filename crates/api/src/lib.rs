//! The node's HTTP server and its wires: Lambda's API as AWS clients speak it, and the operator's
//! endpoints beside it, and streams, sessions and objects.
//!
//! The way of a request: [`server`] reads it, [`route`] names the operation, `dispatch` runs it against
//! [`bowline_functions::Handle`], and `error` gives a refusal the shape that clients expect. Domain
//! types never appear on the wire: each resource in `lambda` has its own.

pub mod auth;
pub mod data;
pub mod event_stream;
pub mod route;
pub mod server;
pub mod url;

mod account;
mod body;
mod dispatch;
mod error;
mod lambda;
mod metrics;
mod native;
mod origin;
mod reply;
mod trace;

pub use data::Data;
pub use data::metrics::DataMetrics;
pub use lambda::GuestWire;
pub use server::tls::{Tls, TlsError};
pub use server::{BindError, Options, Running, Server};
