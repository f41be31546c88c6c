//! The Lambda Runtime API, served to one sandbox alone.
//!
//! Four layers, each pure where it can be: [`http`] reads requests out of bytes, [`machine`] decides what
//! a request means in the guest's present state, [`connection`] moves bytes, [`server`] puts them together.
//! There is no task: whoever waits for the guest polls the server, so that in the steady state one task
//! writes the event and reads the answer.

mod connection;
mod http;
mod machine;
mod server;

pub use http::{Body, Head, Parsed, Reject, Request, RequestReader, Route, parse_request};
pub(crate) use server::{Answer, Ready, Server};
