//! Sandboxes made of WebAssembly, inside the node's own process.
//!
//! A version's module is compiled when the version is prepared and mapped when its first sandbox is
//! created. Three shapes of module are run: WASI preview 1 commands ([`ModuleShape::Command`]), reactors
//! through the guest SDK ([`ModuleShape::Reactor`]), and `wasi:http` proxy components
//! ([`ModuleShape::HttpComponent`]). A guest has no files, no sockets and no threads; it has its
//! environment, clocks, randomness, standard error as its log, and its linear memory up to the limit.
//!
//! A command whose environment asks for it can be *checkpointed*: it is instrumented, one word stops it, and a guest
//! that was stopped goes on here or elsewhere. It may read the files of its package besides, in `/var/task`.

mod accept;
mod backend;
mod checkpointed;
mod command;
mod compiler;
mod engine;
mod failure;
mod fresh;
mod guest;
mod http;
mod image;
mod lane;
mod outlet;
mod preview1;
mod reactor;
mod runner;
mod store;
mod ticker;

pub use bowline_checkpoint::SigningKey;

pub use accept::{ModuleShape, Rejection, accept};
pub use backend::{Options, StartError, WasmBackend};
pub use compiler::{COMPILER_ARGUMENT, Compiler, compiler_main};
