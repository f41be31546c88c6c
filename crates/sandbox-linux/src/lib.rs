//! Linux sandboxes: native bootstraps and interpreters in namespaces, cgroups and a seccomp filter.
//!
//! The lower half, [`cell`], makes places to run things in and knows nothing of functions. The upper half
//! makes sandboxes of them: [`LinuxBackend`] finds interpreters and keeps a few generic cells warm,
//! [`runtime_api`] speaks to the runtime clients inside.

mod backend;
pub mod cell;
mod clients;
mod interpreter;
mod linux_sandbox;
mod metrics;
mod output;
mod pool;
pub mod runtime_api;
mod telemetry;
pub mod volume;
mod watch;

pub use backend::{LinuxBackend, Options};
pub use interpreter::available_runtimes;
pub use metrics::Metrics;
pub use pool::Reserve;
