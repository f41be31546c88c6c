//! Streams, sessions and objects on the wire, over real engines on SQLite.

pub mod engines;

mod objects;
mod openapi;
mod sessions;
mod streams;
mod tail;
