//! The way of an invocation: resolve, admit, take a sandbox, run, give it back.
//!
//! ```text
//!   snapshot ─▶ version ─▶ admission ─▶ warm sandbox │ another node │ room ─▶ new sandbox ─▶ run ─▶ idle list │ destroyed
//! ```
//! Nothing here waits for a lock while it awaits something, and nothing is written to the store.

mod admission;
mod create;
mod enter;
mod fleets;
mod foresight;
mod inline;
mod mounted;
mod pace;
mod payload;
mod pool;
mod provision;
mod resolve;
mod room;
mod run;
mod rung;
mod sizes;
mod stale;
mod streaming;
mod sweeper;

pub(crate) use admission::{Accounts, Admission, FunctionLive, Running};
pub(crate) use create::seat_for_run;
pub(crate) use foresight::Foresight;
pub(crate) use payload::{check, check_event};
pub(crate) use pool::{Pool, PoolParts, Slot};
pub(crate) use provision::Keeper;
pub(crate) use resolve::{Readiness, Target};
pub(crate) use room::{Claim, Room};
pub(crate) use run::{Finish, Job, Outlet, run};
pub use rung::Rung;
pub(crate) use sizes::Inbox;
pub use streaming::{Interruption, ResponsePiece, ResponseStream, StreamEnd};
pub(crate) use sweeper::Sweeper;
