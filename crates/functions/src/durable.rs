//! Durable executions: functions that go on where they stopped, after waits of any length and after crashes.
//!
//! ```text
//!   Invoke ─▶ start ─▶ ledger ◀── checkpoint ◀── the function, by its sandbox's loopback
//!                        │  ▲                          ▲
//!                        ▼  └── finish ◀── invocation ─┘
//!                      drive ─────────────────▲   what is due: an invocation, a timer, a child, an end
//! ```
//! **Durability.** A checkpoint is answered once it is one commit in the store: the execution's head, the
//! operations that changed, the events that tell of it, and the time at which the execution is due next. A
//! crash loses what was not checkpointed; the function is invoked again and sees each completed step's result.
//!
//! **Who works.** Whoever claims an invocation writes a number into the head that its checkpoints must name.
//! A node that takes over from one that is gone writes another, and so fences it.

mod drive;
mod engine;
pub mod envelope;
mod event;
mod head;
mod id;
mod invocation;
mod keys;
mod ledger;
pub mod limits;
mod operation;
mod operations;
mod query;
mod record;
pub mod shape;
mod start;
mod state;

pub use engine::{Guests, Options, Timing};
pub use event::{Event, EventType, Facts};
pub use head::{DurableConfig, ExecutionStatus, Pause};
pub use id::{CallbackId, CheckpointToken, ExecutionArn, ExecutionId, ExecutionKey, ExecutionName};
pub use operation::{ErrorObject, Operation, OperationAction, OperationStatus, OperationType};
pub use operations::{Callback, CheckpointAnswer, CheckpointRequest, ControlBody};
pub use query::{Data, EventView, ExecutionFilter, ExecutionSummary, ExecutionView, Paging, Part};
pub use shape::OperationView;
pub use state::update::{CheckpointBody, OperationUpdate};

pub(crate) use engine::Engine;
pub(crate) use start::DEFAULT_CONFIG;
