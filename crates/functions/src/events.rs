//! Events that nobody waits for: asynchronous invocation, and functions that read streams.
//!
//! ```text
//!   Invoke (Event) ─▶ bowline.async.ACCOUNT.FUNCTION ─▶ pump ─▶ invocation ─▶ outcome ─▶ acknowledged
//!                        ▲                                          │ the function's error, tries left
//!                        └── relay, when it is due ◀── bowline.async-delay-1, -2
//!
//!   a stream ─▶ session of the mapping, ordered by key ─▶ worker ─▶ invocation ─▶ acknowledged
//!   a new object, a new file of a watched folder ─▶ the functions whose tag names its key ─▶ bowline.async.ACCOUNT.FUNCTION, as above
//!
//!   a queue beside the node ─▶ poller ─▶ invocation ─▶ deleted there
//!   an outcome, a dead letter ─▶ function, stream, or a queue or bucket beside the node
//!                              └▶ bowline.waiting.DESTINATION while that takes nothing
//! ```
//! **Durability.** An event is accepted once it lies in its function's stream. It is acknowledged only after
//! its outcome is where the configuration wants it or waits for it on disk, or it lies in a delay line: a crash before
//! that repeats a step. What a repeated step appends carries the same identifier, and so is stored once.
//!
//! **Fairness.** Each function has a stream, a session and a pump of its own. A function that fails, is slow
//! or throttled holds up its own events only, a destination that is away nobody's. An event waits for its retry in a delay line that all
//! functions share; there it waits for nothing but the time, which is the same for all.
//!
//! **Who works.** Any node; sessions see to it that an event is in one hand at a time.

mod addressee;
pub(crate) mod arn;
mod attempt;
mod audit;
mod away;
mod batch;
mod content;
mod deliver;
mod engine;
mod envelope;
pub mod folder;
mod gate;
mod headed;
mod mapping;
mod outcome;
mod outside;
mod parcel;
mod policy;
mod poll;
mod post;
mod pump;
mod queue;
mod relay;
mod set;
mod trouble;
mod turn;
mod upload;

pub use engine::{Options, Timing};
pub use folder::Folder;
pub use upload::Upload;

pub(crate) use engine::Engine;
pub(crate) use poll::find as find_queue;
