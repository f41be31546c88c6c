//! Images as a whole: made by code and laid out, and fetched from a registry in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod registry;
mod unpacking;
