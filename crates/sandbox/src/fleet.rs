//! Fleets: places for versions that are called often, and places for those that are not.

use std::time::Duration;

/// The kind of load that a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fleet {
    /// Versions that are called rarely, and those of which nothing is known.
    Low,
    /// Versions that are called often.
    High,
}

impl Fleet {
    /// The name in files, headers and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
        }
    }
}

/// Where a version's sandboxes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Berth {
    pub fleet: Fleet,
    /// How long each of them may be idle; `None` if the last one stays between bursts of calls.
    pub idle_max: Option<Duration>,
    /// Whether there is room for one more there now.
    pub has_room: bool,
}

/// The fleet that a sandbox was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    pub fleet: Fleet,
    /// Whether it was meant for the other one, which had no room.
    pub is_spilled: bool,
}

impl Stand {
    /// The name in headers.
    pub const fn name(self) -> &'static str {
        match (self.fleet, self.is_spilled) {
            (Fleet::Low, false) => "low",
            (Fleet::Low, true) => "low; spilled",
            (Fleet::High, false) => "high",
            (Fleet::High, true) => "high; spilled",
        }
    }
}
