//! On which node of a cluster an invocation runs that has no warm sandbox where it arrived.
//!
//! ```text
//!   home: the node that the version's code falls on, among those with room ── warm? ──▶ there
//!                                                                              │ no
//!   a node with room that holds an idle sandbox of the version ────────────────┼─ found ─▶ there
//!                                                                              │ none
//!                                                                              └────────▶ home, a cold start
//! ```
//! The home is found by rendezvous hashing: each node draws a number for the code, and the highest wins. When a
//! node comes, only what it wins moves, to it; when one goes, only what it had. A node has room while its load
//! is within the bound, a little over the mean; so one popular function spreads as it grows. The rule needs no
//! agreement: nodes that know the same choose the same, and what one knows wrongly costs a cold start.

use crate::identity::{Code, NodeId};

/// How far over the mean a node's load may go, as a ratio: 5/4.
const OVER_MEAN: (u64, u64) = (5, 4);
/// A node with no more running than this has room whatever the mean is: moving work away from nodes that are
/// nearly idle would only scatter it.
const LOAD_ALWAYS: u64 = 8;

/// A node as the one that decides knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// Invocations that run there.
    pub load: u32,
    /// Sandboxes of the version that are idle there.
    pub idle: u32,
}

/// Why an invocation goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The code falls there.
    Home,
    /// An idle sandbox of the version waits there.
    Warm,
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: NodeId,
    pub reason: Reason,
}

/// The most invocations that a node may run, the next one included, of `running` in all on `nodes` nodes.
pub fn bound(running: u64, nodes: usize) -> u64 {
    let (over, under) = OVER_MEAN;
    let nodes = (nodes as u64).max(1);
    ((running + 1) * over).div_ceil(under * nodes).max(LOAD_ALWAYS)
}

/// Chooses among `candidates`, the deciding node included; nothing if there are none.
pub fn place(code: Code, candidates: &[Candidate]) -> Option<Placement> {
    let running = candidates.iter().map(|candidate| u64::from(candidate.load)).sum();
    let bound = bound(running, candidates.len());
    let best = |chosen: &dyn Fn(&Candidate) -> bool| {
        let with_room = candidates
            .iter()
            .filter(|candidate| u64::from(candidate.load) < bound && chosen(candidate));
        with_room.max_by_key(|candidate| (score(code, candidate.node), candidate.node))
    };
    // The least loaded node is under the bound, which is over the mean.
    let home = best(&|_| true)?;
    let warm = if home.idle > 0 {
        Some(home)
    } else {
        best(&|candidate| candidate.idle > 0)
    };
    let (node, reason) = match warm {
        Some(warm) if warm.node != home.node => (warm.node, Reason::Warm),
        _ => (home.node, Reason::Home),
    };
    Some(Placement { node, reason })
}

/// The number that a node draws for a code.
fn score(code: Code, node: NodeId) -> u64 {
    mix(code.0 ^ mix(node.0.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64: every bit of the input changes every bit of the output with even odds.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
