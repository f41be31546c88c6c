//! Events that nobody waits for, over real stores, streams and sessions.

mod audit;
mod crash;
mod folder;
mod harness;
mod invoke;
mod mapping;
mod upload;
mod waiting;
