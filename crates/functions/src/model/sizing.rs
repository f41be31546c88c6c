//! How the memory of a version follows what its runs use.

pub use bowline_capacity::sizing::{Change, Mode, Outcome, Profile, Reason, Sample};

/// What somebody wants of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizingChange {
    /// Follow the use so from now on.
    Mode(Mode),
    /// Take what is suggested.
    Accept,
    /// Take the latest change back.
    RollBack,
}
