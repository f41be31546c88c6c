//! Receiver sessions: the service remembers what a fleet of workers that remember nothing has been given.
//!
//! A session reads one stream from its cursor on. A worker names the session and no event; it gets the
//! next *set* of events. In the mode `AT_LEAST_ONCE` each set has a marker in the store until it is
//! acknowledged:
//!
//! ```text
//!              read                    ack
//!  (cursor) ─────────▶ IN FLIGHT ─────────────────▶ gone
//!                       │  ▲  │ nack, for all or some of the events
//!        lease runs out │  │  ▼
//!                       │  │ WAITING until its delay is over
//!                       ▼  │read: attempt + 1
//!                    due again ── attempts used up, or nack with `Park` ──▶ PARKED
//!                                                                           │ redrive: attempts 0, due
//!                                                                           │ drop: gone
//! ```
//!
//! **Who holds state.** Only the store. The session's record holds the cursor; creating a marker changes
//! that record too, in the same commit and on condition of its version, so two nodes never give out the
//! same events. Acknowledging touches the marker alone, or goes with the read of the next set. What a node keeps in
//! memory is the queue of readers who wait at it, and while they keep coming what it has read ahead for them.
//!
//! **Concurrency.** All readers of one session at one node are served together, by one commit. Across nodes
//! the loser of a commit reads again and tries again, a bounded number of times.
//!
//! **Order.** Sets are given out in the stream's order, contiguous but for what the filter leaves out; a
//! set that is due again goes before newer events. With [`Order::PerKey`] an event whose key has a set in
//! flight, waiting or due is withheld, and so is everything after it with that key, while other keys go on.

mod ahead;
mod crash;
mod create;
mod deliver;
mod error;
mod fetch;
mod filter;
mod fresh;
mod handle;
mod id;
mod keys;
mod lane;
pub mod limits;
mod parking;
mod plan;
mod record;
mod removal;
mod scanner;
mod seek;
mod service;
mod settings;
mod settle;
mod show;
mod state;
mod sweep;

pub use crash::{CrashPoints, Fate};
pub use deliver::{Batch, ReadRequest};
pub use error::{
    CreateError, Damaged, DeleteError, Gone, NoSuchSession, ParkingError, ReadError, RetryLater, SeekError,
    SettleError, ShowError, StaleToken,
};
pub use filter::{Filter, InvalidFilter};
pub use handle::Handle;
pub use id::{BatchToken, InvalidBatchToken, InvalidSessionId, SessionId};
pub use parking::{ParkedSet, Pick};
pub(crate) use removal::{audit_row, removal_of_stream};
pub use service::{Options, Service};
pub use settings::{Caller, CreateRequest, InvalidSettings, Mode, Order, Settings, Start};
pub use settle::{Failed, Outcome, Retry};
pub use show::{InFlight, Overview, Stat, State};
