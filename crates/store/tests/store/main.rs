//! The store crate's tests over real files, processes and threads.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod archives;
mod blobs;
mod controls;
mod crash;
mod faults;
mod fixtures;
mod full_disk;
mod model;
mod opening;
mod postgres;
mod process;
mod suite;
