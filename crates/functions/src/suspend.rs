//! Suspended invocations: stopped where they stand, kept as bytes, and gone on with later, here or elsewhere.
//!
//! ```text
//!            ┌────────────── Running ◀───────────── resume ──────────────┐
//!            │   │ take: a checkpoint is kept, it goes on                │
//!   Invoke ──┘   ├── take --suspend, a rule, preemption ──▶ Suspended ───┘
//!                │                                             │ rm
//!                ▼                                             ▼
//!            Finished: the caller has its answer           ended with an error
//! ```
//!  - A run is named by its request id, which it keeps for life, as it keeps its deadline. A caller that waits goes on
//!    waiting and gets the one answer.
//!  - [`ledger`] makes each transition one conditional commit under an *epoch*. Whoever goes on with a run raises the
//!    epoch first; what an older epoch wants to write is refused, so that no run has two ends.
//!  - A run has a record from its first checkpoint on. One that never needs one costs the store a single look.
//!  - A node that is short of memory or of processors for a while moves runs to nodes where they find more ([`pressure`]).
//!  - After a crash every run goes on from its last checkpoint ([`recover`]). An event that is delivered again joins
//!    the run that it began.

mod ahead;
mod carry;
mod engine;
mod fit;
mod keep;
mod ledger;
mod live;
mod moving;
mod operations;
mod preempt;
mod pressure;
mod record;
mod recover;
mod relieve;
mod seat;

pub(crate) use carry::Seed;
pub use engine::Options;
pub(crate) use engine::Suspends;
pub(crate) use fit::Candidate;
pub use fit::{Facts, Misfit, Needs};
pub use moving::MoveRequest;
pub use operations::{Refused, RunView, TakeRequest};
pub use pressure::Rules;
pub use record::{Decision, Phase};
pub use relieve::Meter;
pub(crate) use seat::Left;
