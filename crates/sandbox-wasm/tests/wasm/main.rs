//! The Wasm sandboxes as a whole.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod asking;
mod build;
mod checkpointed;
mod conformance;
mod guests;
mod streaming;
