//! Which sandbox an invocation got: the rungs of the ladder within a node, the best first.

/// Where an invocation's sandbox came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// It is kept initialised by the function's provisioned concurrency.
    Provisioned,
    /// It had the version loaded from an earlier invocation.
    Warm,
    /// It was started ahead of the call that was foreseen; this is its first.
    Prewarmed,
    /// It was made for the invocation, which waited for it.
    Created,
}

impl Rung {
    pub const ALL: [Self; 4] = [Self::Provisioned, Self::Warm, Self::Prewarmed, Self::Created];

    /// The name in headers and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Warm => "warm",
            Self::Prewarmed => "prewarmed",
            Self::Created => "created",
        }
    }
}
