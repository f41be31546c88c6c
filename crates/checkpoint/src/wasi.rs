//! WASI preview 1 whose state can be written down: what a guest sees of its host survives a stop and a move.
//!
//! ```text
//!   guest ── preview 1 ──▶ Wasi ── save ──▶ HostState ── bytes ──▶ the checkpoint's host part
//!                            ▲                                            │
//!                            └── restore: every descriptor is checked ◀───┘
//! ```
//!
//!  - *Files* are those of folders that the host opens for reading. A descriptor is a folder, a path, an offset and
//!    rights; after a move the file is opened again and its content compared. One that has changed is there no
//!    more: each use of it is answered `stale`, never with other bytes. Files cannot be written: what a guest wrote
//!    to the disk of one machine would not follow it to the next.
//!  - *Clocks* never go back, whatever the clock of the next machine says.
//!  - *Standard input* is what is left of it; *output* and *error* are logs with offsets. What the host keeps of the
//!    output is part of the state.
//!  - *Waiting* heeds the word: the guest stops at once and waits for the rest when it goes on. Until it comes to
//!    its next place the clocks show the time at which the wait would have ended.
//!  - *Sockets* do not exist, so none can be lost.

mod calls;
mod clocks;
mod files;
mod state;
mod view;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;

use wasmtime::Memory;

pub use calls::{Exit, MODULE, define};
pub use files::Folder;
pub use state::{DescriptorState, FileState, HOST_VERSION, HostState, HostStateError, OutputState};
pub use waiting::Interrupt;

use clocks::Clocks;
use files::Descriptor;

/// The largest file that a guest may hold open while it is stopped: its content is compared when it goes on.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
/// Descriptors of a guest.
pub const DESCRIPTORS_MAX: usize = 256;

/// Where a guest's words go.
pub trait Sink: Send + Sync + 'static {
    /// Takes bytes; never fails.
    fn write(&self, bytes: &[u8]);
}

/// What a host gives its guest.
pub struct WasiOptions {
    pub arguments: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    pub stdin: Vec<u8>,
    /// Of standard output, how much is kept; what is beyond is counted.
    pub output_bytes_max: usize,
    pub stderr: Arc<dyn Sink>,
    /// In the order of their descriptors, from 3 on.
    pub folders: Vec<Folder>,
    pub clock: Clock,
    pub entropy: Entropy,
    pub interrupt: Interrupt,
}

/// Standard output so far.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    bytes: u64,
}

/// The host's side of one guest.
pub struct Wasi {
    arguments: Vec<String>,
    environment: Vec<String>,
    stdin: Vec<u8>,
    /// How much of `stdin` was read.
    stdin_at: usize,
    output: Output,
    output_bytes_max: usize,
    stderr: Arc<dyn Sink>,
    stderr_bytes: u64,
    folders: Vec<Folder>,
    descriptors: BTreeMap<u32, Descriptor>,
    clocks: Clocks,
    entropy: Entropy,
    interrupt: Interrupt,
    calling: String,
    memory: Option<Memory>,
}

/// State of a store that has a [`Wasi`].
pub trait HasWasi: Send + 'static {
    fn wasi(&mut self) -> &mut Wasi;
}

impl HasWasi for Wasi {
    fn wasi(&mut self) -> &mut Wasi {
        self
    }
}

impl Wasi {
    /// The world of a guest that begins.
    pub fn new(options: WasiOptions) -> Self {
        let mut descriptors: BTreeMap<u32, Descriptor> = (0..).zip(Descriptor::STREAMS).collect();
        descriptors.extend((3..).zip((0..options.folders.len()).map(Descriptor::folder)));
        Self {
            arguments: options.arguments,
            environment: options.environment,
            stdin: options.stdin,
            stdin_at: 0,
            output: Output::default(),
            output_bytes_max: options.output_bytes_max,
            stderr: options.stderr,
            stderr_bytes: 0,
            folders: options.folders,
            descriptors,
            clocks: Clocks::new(options.clock),
            entropy: options.entropy,
            interrupt: options.interrupt,
            calling: String::new(),
            memory: None,
        }
    }

    /// A world without anything in it, to look at what there is.
    pub fn empty() -> Self {
        struct Nowhere;
        impl Sink for Nowhere {
            fn write(&self, _bytes: &[u8]) {}
        }
        Self::new(WasiOptions {
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            output_bytes_max: 0,
            stderr: Arc::new(Nowhere),
            folders: Vec::new(),
            clock: Clock::system(),
            entropy: Entropy::system(),
            interrupt: Interrupt::default(),
        })
    }

    /// The world of a guest that goes on: arguments, environment and input are those of the state.
    pub fn restore(options: WasiOptions, state: HostState) -> Self {
        let mut wasi = Self::new(options);
        wasi.arguments = state.arguments;
        wasi.environment = state.environment;
        wasi.stdin = state.stdin;
        wasi.output = Output {
            kept: state.stdout.kept,
            bytes: state.stdout.bytes,
        };
        wasi.stderr_bytes = state.stderr_bytes;
        wasi.calling = state.calling;
        wasi.clocks
            .resume(state.wall_nanos, state.monotonic_nanos, state.owed_nanos);
        let reopened = state.descriptors.into_iter();
        let reopened = reopened.map(|state| (state.number, Descriptor::restore(state, &wasi.folders)));
        wasi.descriptors = reopened.collect();
        wasi
    }

    /// All that the guest's next host must know.
    pub fn save(&mut self) -> Result<HostState, HostStateError> {
        let descriptors = self.descriptors.iter_mut();
        let descriptors = descriptors.map(|(&number, descriptor)| descriptor.save(number));
        let (wall_nanos, monotonic_nanos, owed_nanos) = self.clocks.save();
        Ok(HostState {
            wall_nanos,
            monotonic_nanos,
            owed_nanos,
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            stdin: self.stdin[self.stdin_at..].to_vec(),
            stdout: OutputState {
                kept: self.output.kept.clone(),
                bytes: self.output.bytes,
            },
            stderr_bytes: self.stderr_bytes,
            calling: self.calling.clone(),
            descriptors: descriptors.collect::<Result<_, _>>()?,
        })
    }

    /// Waits for what the guest still has to wait for; false if it is asked to stop before.
    pub fn settle(&mut self) -> bool {
        let owed = self.clocks.owed();
        if owed.is_zero() {
            return true;
        }
        let before = self.clocks.now();
        if self.interrupt.wait(owed) {
            self.clocks.pay(owed);
            return true;
        }
        self.clocks.pay(self.clocks.now().since(before));
        false
    }

    /// Says where the guest's memory is, whoever calls: frames that were restored run in instances of their own.
    pub fn attach(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    /// Which export the host has called; empty while the module's start function runs.
    pub fn calling(&self) -> &str {
        &self.calling
    }

    /// Notes which export is called, so that whoever goes on knows what comes after it.
    pub fn calls(&mut self, export: &str) {
        export.clone_into(&mut self.calling);
    }

    /// What was written to standard output, or how much if it was too much.
    pub fn output(&self) -> Result<&[u8], u64> {
        if self.output.bytes > self.output.kept.len() as u64 {
            return Err(self.output.bytes);
        }
        Ok(&self.output.kept)
    }

    /// How much was written to standard error.
    pub fn stderr_bytes(&self) -> u64 {
        self.stderr_bytes
    }

    fn write_output(&mut self, bytes: &[u8]) {
        self.output.bytes += bytes.len() as u64;
        if self.output.bytes <= self.output_bytes_max as u64 {
            self.output.kept.extend_from_slice(bytes);
        }
    }

    fn write_error(&mut self, bytes: &[u8]) {
        self.stderr_bytes += bytes.len() as u64;
        self.stderr.write(bytes);
    }

    /// Takes up to `length` bytes of the input.
    fn read_input(&mut self, length: usize) -> &[u8] {
        let from = self.stdin_at;
        let to = self.stdin.len().min(from.saturating_add(length));
        self.stdin_at = to;
        &self.stdin[from..to]
    }

    /// The lowest number that no descriptor has.
    fn free_number(&self) -> Option<u32> {
        if self.descriptors.len() >= DESCRIPTORS_MAX {
            return None;
        }
        (3..).find(|number| !self.descriptors.contains_key(number))
    }
}

#[cfg(test)]
mod tests;
