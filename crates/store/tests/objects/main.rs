//! Objects over independent stores: real store processes, simulated crashes and faults, and their checkers.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod behaviour;
mod checker;
mod frozen;
mod killed;
mod outages;
mod process;
mod simulated;
mod sweeping;
mod wire;
mod world;
