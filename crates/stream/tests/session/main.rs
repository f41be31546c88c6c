//! Receiver sessions over real stores and a stream in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod acceptance;
mod crash;
mod creation;
mod done;
mod faults;
mod filtering;
mod kill;
mod lanes;
mod memory_log;
mod model;
mod per_key;
mod settling;
mod world;
