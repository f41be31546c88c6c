//! Capacity as pure policy: what is kept warm, where a request runs, how many wait, how big they are.
//!
//! Nothing here does I/O, locks, or reads a clock: events and times come in, decisions come out, so the
//! node and the simulator run the same code, and the same events give the same decisions.

pub mod draining;
pub mod fleet;
pub mod forecast;
pub mod identity;
pub mod keeper;
pub mod ladder;
pub mod placement;
pub mod rate;
pub mod sizing;
pub mod slot;
pub mod trend;
pub mod warming;
pub mod worker;
