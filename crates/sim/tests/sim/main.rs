//! The simulation's tests: seeds, the same seed twice, and checkers that fire.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod controls;
mod hosts;
mod members;
mod seeds;
