//! Virtual machines by QEMU, which start from one golden snapshot in a fraction of a boot.
//!
//! ```text
//! image::build ─▶ Image ─┐
//!                        ├─▶ Vm::boot ─▶ ready ─▶ Vm::save ─▶ Snapshot ─▶ Golden ─▶ Golden::start ─▶ Vm (copy on write)
//! Host::find ────────────┘                            └──────▶ Vm::restore, in another QEMU, on another day
//!                             Vm::pour ─▶ signed bytes ─▶ Vm::refill, the same without a disk
//! ```
//!
//! A [`Host`] knows what this machine can do: which QEMU, and whether KVM really works. A [`Vm`] is one QEMU
//! with two channels into it: [`Vm::control`] to the first process inside, and [`Vm::take_agent`], a plain stream
//! of bytes for whoever has an agent at its other end.

pub mod frozen;
pub mod golden;
pub mod guest;
pub mod host;
pub mod image;
mod kvm;
mod lines;
pub mod machine;
mod memory;
mod process;
pub mod protocol;
pub mod qmp;
pub mod snapshot;
mod sys;
pub mod vm;
pub mod volume;
mod whole;

pub use frozen::Frozen;
pub use golden::Golden;
pub use guest::{AGENT_READY, GUEST_ARGUMENT, guest_main};
pub use host::{Host, Options};
pub use image::Image;
pub use kvm::{KVM_PROBE_ARGUMENT, kvm_probe_main};
pub use machine::{Accelerator, Access, Machine, MachineKind};
pub use snapshot::Snapshot;
pub use vm::{After, Vm};
pub use volume::Volume;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a virtual machine could not be made, spoken to or saved.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A program is missing; the text says what brings it.
    #[error("`{program}` is not installed; on Debian: `apt-get install {package}`")]
    Missing {
        program: &'static str,
        package: &'static str,
    },
    /// The machine is gone; its last words.
    #[error("the virtual machine has ended: {0}")]
    Ended(String),
    /// Something took too long.
    #[error("{what} took longer than {allowed:?}")]
    Deadline { what: &'static str, allowed: Duration },
    /// QEMU refused a command.
    #[error("QEMU refused `{command}`: {reason}")]
    Refused { command: String, reason: String },
    /// What was asked for is larger than what is carried.
    #[error("{what} takes `{bytes}` bytes, at most `{bytes_max}` are carried")]
    TooLarge {
        what: &'static str,
        bytes: u64,
        bytes_max: u64,
    },
    /// The guest refused an order.
    #[error("the guest refused: {0}")]
    Guest(String),
    /// What came over a channel is not what was agreed.
    #[error("unexpected words on the {channel} channel: {found}")]
    Protocol { channel: &'static str, found: String },
    /// A snapshot needs what is not here.
    #[error("the snapshot needs {needs}, and here is {here}")]
    Unfit { needs: String, here: String },
    /// A file is not what its record says.
    #[error("`{}` is damaged: {reason}", .path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

/// Names what an I/O error happened in.
trait Context<T> {
    /// The same, with what could not be done.
    fn cannot(self, what: impl Into<String>) -> Result<T, VmError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn cannot(self, what: impl Into<String>) -> Result<T, VmError> {
        self.map_err(|error| VmError::Io {
            what: what.into(),
            source: error.into(),
        })
    }
}
