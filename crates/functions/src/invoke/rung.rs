//! Which sandbox an invocation got: the rungs of the ladder within a node, the best first.

use bowline_sandbox::Ground;

/// Where an invocation's sandbox came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// It is kept initialised by the function's provisioned concurrency.
    Provisioned,
    /// It had the version loaded from an earlier invocation.
    Warm,
    /// It was started ahead of the call that was foreseen; this is its first.
    Prewarmed,
    /// It was made for the invocation, which waited for it, in the node.
    Created,
    /// The same on an instance of the account that was there.
    Instance,
    /// The same on one that the account got for it, whose server was ready before.
    WarmingPool,
    /// The same on one that had to come first: the account had none that works.
    NewInstance,
}

impl Rung {
    pub const ALL: [Self; 7] = [
        Self::Provisioned,
        Self::Warm,
        Self::Prewarmed,
        Self::Created,
        Self::Instance,
        Self::WarmingPool,
        Self::NewInstance,
    ];

    /// That of a sandbox which was made for the invocation.
    pub(super) const fn made_on(ground: Ground) -> Self {
        match ground {
            Ground::Node => Self::Created,
            Ground::Instance => Self::Instance,
            Ground::WarmingPool => Self::WarmingPool,
            Ground::NewInstance => Self::NewInstance,
        }
    }

    /// The name in headers and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Warm => "warm",
            Self::Prewarmed => "prewarmed",
            Self::Created => "created",
            Self::Instance => "instance",
            Self::WarmingPool => "warming-pool",
            Self::NewInstance => "new-instance",
        }
    }
}
