//! What the host keeps for a core module's instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{LogSink, VersionSpec};
use bytes::Bytes;
use wasmtime::{Memory, ResourceLimiter, Result};

use crate::outlet::Outlet;
use crate::reactor::Way;

/// What every instance of one sandbox shares.
pub(crate) struct Surroundings {
    pub(crate) environment: EnvironmentBlock,
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) started: Monotonic,
    pub(crate) memory: Mebibytes,
    /// How long the initialisation may take.
    pub(crate) init_limit: Duration,
    /// The highest memory use of any instance so far.
    pub(crate) peak_bytes: AtomicU64,
}

impl Surroundings {
    pub(crate) fn new(version: &VersionSpec, log: Arc<dyn LogSink>, clock: &Clock) -> Arc<Self> {
        Arc::new(Self {
            environment: EnvironmentBlock::new(&version.lambda_environment()),
            log,
            clock: clock.clone(),
            entropy: Entropy::system(),
            started: clock.monotonic(),
            memory: version.memory,
            init_limit: version.init_limit(),
            peak_bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
}

/// Variables as preview 1 hands them over: `NAME=value` texts, each with a final zero byte.
pub(crate) struct EnvironmentBlock {
    text: Vec<u8>,
    offsets: Vec<u32>,
}

impl EnvironmentBlock {
    pub(crate) fn new(variables: &BTreeMap<String, String>) -> Self {
        let pairs = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self::of(pairs)
    }

    pub(crate) fn of<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut block = Self {
            text: Vec::with_capacity(512),
            offsets: Vec::with_capacity(16),
        };
        for (name, value) in variables {
            let offset = u32::try_from(block.text.len()).expect("an environment is a few kilobytes");
            block.offsets.push(offset);
            for part in [name, "=", value, "\0"] {
                block.text.extend_from_slice(part.as_bytes());
            }
        }
        block
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(crate) fn offsets(&self) -> impl Iterator<Item = u32> {
        self.offsets.iter().copied()
    }
}

/// Where standard output goes.
pub(crate) enum Stdout {
    /// To the log, together with standard error.
    Log,
    /// Into the answer.
    Answer(Answer),
    /// To the guest's outlet.
    Outlet,
}

/// An answer that is being written; what is over the limit is counted but not kept.
#[derive(Default)]
pub(crate) struct Answer {
    kept: Vec<u8>,
    bytes: u64,
}

impl Answer {
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.bytes <= SYNC_PAYLOAD_BYTES_MAX as u64 {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// The answer, or how large it would have been.
    pub(crate) fn finish(self) -> Result<Bytes, u64> {
        if self.bytes <= SYNC_PAYLOAD_BYTES_MAX as u64 {
            Ok(self.kept.into())
        } else {
            Err(self.bytes)
        }
    }
}

/// The state of one instance.
pub(crate) struct Guest {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) limits: Limits,
    pub(crate) memory: Option<Memory>,
    pub(crate) stdin: Bytes,
    pub(crate) stdout: Stdout,
    /// Where a streamed answer goes.
    pub(crate) outlet: Outlet,
    /// Variables of this invocation alone.
    pub(crate) call_environment: Option<EnvironmentBlock>,
    /// Whom the guest may ask meanwhile.
    pub(crate) way: Option<Way>,
    /// What it was answered last, until it has it.
    pub(crate) told: Bytes,
}

impl Guest {
    pub(crate) fn new(surroundings: Arc<Surroundings>, stdin: Bytes, stdout: Stdout) -> Self {
        Self {
            limits: Limits::new(surroundings.clone()),
            surroundings,
            memory: None,
            stdin,
            stdout,
            outlet: Outlet::Whole(None),
            call_environment: None,
            way: None,
            told: Bytes::new(),
        }
    }

    /// The number of variables and the length of their texts.
    pub(crate) fn environment_sizes(&self) -> (u32, u32) {
        let blocks = [Some(&self.surroundings.environment), self.call_environment.as_ref()];
        let sum = |size: fn(&EnvironmentBlock) -> usize| blocks.into_iter().flatten().map(size).sum::<usize>();
        let fit = |size: usize| u32::try_from(size).expect("an environment is a few kilobytes");
        (
            fit(sum(|block| block.offsets.len())),
            fit(sum(|block| block.text.len())),
        )
    }

    /// The reading of a preview 1 clock: 0 is the wall clock, 1 the monotonic one; others do not exist.
    pub(crate) fn clock_nanos(&self, clock: i32) -> Option<u64> {
        let around = &self.surroundings;
        match clock {
            0 => Some(around.clock.now().as_micros().saturating_mul(1_000)),
            1 => {
                let since = around.clock.monotonic().since(around.started);
                Some(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
            }
            _ => None,
        }
    }
}

/// Holds an instance to its memory limit and remembers the peak.
pub(crate) struct Limits {
    surroundings: Arc<Surroundings>,
    bytes: u64,
    refused: bool,
}

/// Table slots an instance may have; a slot takes eight bytes of the node's memory.
const TABLE_ELEMENTS_MAX: usize = 65_536;

impl Limits {
    pub(crate) fn new(surroundings: Arc<Surroundings>) -> Self {
        Self {
            surroundings,
            bytes: 0,
            refused: false,
        }
    }

    /// The limit.
    pub(crate) fn memory(&self) -> Mebibytes {
        self.surroundings.memory
    }

    /// Linear memory now, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether memory was ever refused.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let bytes = self.bytes + (desired.saturating_sub(current)) as u64;
        if bytes > self.surroundings.memory.bytes() {
            self.refused = true;
            return Ok(false);
        }
        self.bytes = bytes;
        self.surroundings.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}
