//! Stopping a running WebAssembly function anywhere, and going on elsewhere.
//!
//! ```text
//!  module ─▶ Plan ─▶ instrumented module ─▶ runs ─▶ word is set ─▶ every frame spills and returns
//!              │                                                            │
//!              │                                             memories, globals, tables, frames
//!              │                                                            ▼
//!              └──▶ continuation of each frame's place ◀── checked ◀── Checkpoint (signed bytes)
//! ```
//!
//! Four parts, and what each may know:
//!  - the *pass* ([`Plan`]): bytes in, bytes out; no engine, no input or output;
//!  - the *format* ([`Checkpoint`], `docs/checkpoint-format.md`): independent of engine and processor;
//!  - the *engine* ([`engine`]): the only part that knows wasmtime. It runs, stops, captures and restores;
//!  - *WASI* ([`wasi`]): a host whose state is part of the checkpoint.
//!
//! How a stop works: instrumented code polls one word in each round of a loop and of a recursion. The word lies
//! in a shared memory that the guest has no index for. Once it is set, the innermost frame writes what lives to the
//! save memory, another one without an index, and returns; its caller, behind each call that may have been stopped
//! inside, sees that frames are being written and does the same, to the outermost frame. To go on, a
//! *continuation* is generated for each saved frame: a function in a module of its own that loads the
//! values, enters the enclosing blocks again and runs the rest of the original function.

mod body;
mod calls;
mod checkpoint;
mod delta;
mod emit;
pub mod engine;
mod features;
mod format;
mod frame;
mod liveness;
mod names;
mod options;
mod outline;
mod pieces;
mod plan;
mod refusal;
mod segments;
mod state;
mod validate;
mod value;
pub mod wasi;

pub use checkpoint::{Checkpoint, Frame, Identity, MemoryImage, Page, TableImage};
pub use delta::{Delta, DeltaError, Mark, MemoryChanges};
pub use format::{DELTA_VERSION, FORMAT_VERSION, ReadError, ReadLimits, SigningKey};
pub use frame::{Layout, Place, Site, Stop};
pub use options::{CODE_VERSION, Options, PASS_VERSION, Poll};
pub use plan::Plan;
pub use refusal::Refusal;
pub use validate::Mismatch;
pub use value::{Value, ValueType};
