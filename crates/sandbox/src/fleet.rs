//! Which of an account's fleets a sandbox stands in, and which its version belongs to.

use std::fmt;
use std::time::Duration;

use bowline_capacity::fleet::Class;

/// Where a version's sandboxes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Berth {
    pub fleet: Class,
    /// How long each of them may be idle; `None` if the last one stays between bursts of calls.
    pub idle_max: Option<Duration>,
    /// Whether there is room for one more there now.
    pub has_room: bool,
}

/// The fleet that a sandbox was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    pub fleet: Class,
    /// Whether it was meant for another one, which had no room.
    pub is_spilled: bool,
}

/// As in headers.
impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spilled = if self.is_spilled { "; spilled" } else { "" };
        write!(f, "{}{spilled}", self.fleet)
    }
}
