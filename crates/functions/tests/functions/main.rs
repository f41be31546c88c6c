//! The service as a whole, over real stores and a scripted backend.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod access;
mod aliases;
mod attached;
mod capacity;
mod crash;
mod durable;
mod events;
mod fake;
mod faults;
mod fleets;
mod follow;
mod images;
mod invoke;
mod layers;
mod lifecycle;
mod limits;
mod logs;
mod packages;
mod policies;
mod provisioned;
mod rollout;
mod sizing;
mod streaming;
mod suspend;
mod world;
