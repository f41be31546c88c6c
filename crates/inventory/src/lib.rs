//! Instances: virtual servers from configuration files, kept, watched, and replaced when they break beyond repair.
//!
//! ```text
//!   file ─▶ Effective (file and role) ─▶ Provider: configure, spin up ─▶ Link to the agent ─▶ RUNNING
//!                                                                         │ an error
//!                        decide (pure): repair? replace? hold? ◀──────────┘
//!                           └─▶ fence ─▶ create ─▶ start ─▶ CMDB            (each step committed before the next)
//! ```
//! [`file`] and [`decide`] know no I/O; [`book`] makes each decision one conditional commit; [`service`] does what they say,
//! by a [`Provider`]. [`Placed`] is what the functions see: a backend that makes an account's sandboxes on its instances.

pub mod book;
pub mod crash;
pub mod decide;
mod drive;
pub mod file;
pub mod fleets;
#[cfg(test)]
mod idle;
pub mod inline;
pub mod metrics;
pub mod model;
mod placed;
mod ports;
pub mod process;
pub mod provider;
mod roster;
pub mod service;
mod suspending;
mod tend;
pub mod vm;
pub mod warming;

pub use placed::Placed;
pub use provider::{Declared, Offer, ProvideError, Provider, Reached, ServerOrder, Waiting};
pub use service::{Handle, Options, Service, default_server};
