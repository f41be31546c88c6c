//! The stream crate's tests: hosts over memory, SQLite and failing stores.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod appending;
mod node;
mod peers;
mod removal;
mod restart;
mod retention;
