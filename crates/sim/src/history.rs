//! What clients and readers saw, in the order in which they saw it.

use bowline_stream::{ChainId, HostId, Position};

/// An append that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acked {
    /// Its events' numbers, and where they are.
    pub events: Vec<(u64, Position)>,
    /// The host it was sent to.
    pub host: HostId,
    /// Steps of the history at which it was sent and acknowledged.
    pub sent: u64,
    pub acked: u64,
    /// Whether it had been sent before, so that its events may be older than this sending.
    pub is_retry: bool,
}

/// One page that a reader got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadStep {
    pub reader: usize,
    pub after: Position,
    pub events: Vec<(u64, Position)>,
    pub next: Position,
}

/// How the simulation ended: what is there, read by a host that came last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ended {
    pub events: Vec<(u64, Position)>,
    pub end: Position,
}

/// See the top of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    pub acked: Vec<Acked>,
    /// Events of appends that were answered with an error that says that nothing was stored.
    pub refused: Vec<u64>,
    pub reads: Vec<ReadStep>,
    /// Owners of chains as they were seen: chain, epoch, owner.
    pub owners: Vec<(ChainId, u64, HostId)>,
    pub ended: Ended,
    /// How many steps there were.
    pub steps: u64,
}

impl History {
    /// The number of the next step.
    pub fn step(&mut self) -> u64 {
        self.steps += 1;
        self.steps
    }
}
