//! The Lambda Runtime API, served to one sandbox alone.
//!
//! Four layers, each pure where it can be: [`http`] reads requests out of bytes, [`machine`] decides what
//! a request means in the guest's present state, [`connection`] moves bytes, [`server`] puts them together.
//! The APIs of extensions and of telemetry are served on the same connections: [`extension`] keeps who
//! stands where, [`telemetry`] reads subscriptions.
//!
//! There is no task: whoever waits for the guest polls the server, so that in the steady state one task
//! writes the event and reads the answer.

mod connection;
mod extension;
mod http;
mod machine;
mod platform;
mod server;
mod telemetry;

pub use extension::request::{Action, Call, Events, Registration};
pub(crate) use extension::{Kind, NewSubscription, Standing, shutdown_event};
pub use http::{Body, Head, Parsed, Part, Reject, Request, RequestReader, Route, Streamed, Taken, parse_request};
pub(crate) use server::{About, Answer, Ready, Server};
pub use telemetry::{Api, Buffering, Destination, Schema, Stream, Subscription};
