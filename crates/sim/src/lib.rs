//! Deterministic simulation of stream hosts: real code in a world of seeded faults.
//!
//! ```text
//!   seed ─▶ world: one thread, paused time, hosts with clocks of their own
//!             │  store: fails before applying, applies and loses the reply, delays, goes away
//!             │  network: loses, delays, reorders        hosts: crash, freeze, come back, clocks step
//!             ▼
//!           clients and readers ─▶ history ─▶ checkers
//! ```
//! One seed gives one history, to the last event; so a failing seed is a test case.

pub mod check;
mod clock;
mod history;
mod line;
mod network;
mod scenario;
mod world;

pub use clock::SimClock;
pub use history::{Acked, Ended, History, ReadStep};
pub use line::Gate;
pub use network::Loss;
pub use scenario::{Report, run};
pub use world::{World, config, record_of};
