//! Ten nodes with stub sandboxes in simulated time: calls arrive anywhere, the real rule says where they run,
//! and what the nodes know of each other is as old as it is in a cluster.
//!
//! ```text
//!   call ─▶ node ─▶ idle sandbox here? ─▶ else place(what the node knows) ─▶ idle sandbox there? ─▶ else a new one
//!   every ASK_EVERY: each node learns what all hold and how much runs on them
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use bowline_capacity::identity::{Code, NodeId};
use bowline_capacity::placement::{Candidate, place};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;

const NODES: usize = 10;
const VERSIONS: u64 = 1_000;
/// How old the nodes' knowledge of each other may become.
const ASK_EVERY: Duration = Duration::from_millis(250);
const CALLS_PER_SECOND: f64 = 2_000.0;
/// How long an idle sandbox is kept.
const KEPT: Duration = Duration::from_secs(20);

/// Who decides where a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// The rule, with the nodes' knowledge of each other.
    Cluster,
    /// Nobody: it runs where it arrives.
    Node,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub calls: u64,
    pub cold: u64,
    pub forwarded: u64,
    /// The most sandboxes that lived at once on all nodes.
    pub sandboxes_max: u64,
    /// The most that ran at once on one node, by the mean at that time.
    pub imbalance: f64,
    /// What all decisions took together, on the wall clock.
    pub took: Duration,
}

impl Outcome {
    pub fn placements_per_second(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }
}

/// A node's sandboxes: since when each idle one of a version waits, the longest first.
#[derive(Default)]
struct Node {
    idle: HashMap<u64, Vec<Duration>>,
    running: u32,
}

/// What all know of a node, as it was at the last look.
#[derive(Default)]
struct Known {
    load: u32,
    idle: HashMap<u64, u32>,
}

struct World {
    nodes: Vec<Node>,
    known: Vec<Known>,
    /// When a call ends, where, and of which version.
    ends: BinaryHeap<Reverse<(Duration, usize, u64)>>,
    living: u64,
    outcome: Outcome,
}

/// Lets calls come for `length` of simulated time.
pub fn run(placing: Placing, seed: u64, length: Duration, clock: &Clock) -> Outcome {
    let entropy = Entropy::seeded(seed);
    let mut world = World {
        nodes: (0..NODES).map(|_| Node::default()).collect(),
        known: (0..NODES).map(|_| Known::default()).collect(),
        ends: BinaryHeap::new(),
        living: 0,
        outcome: Outcome::default(),
    };
    let (mut now, mut look) = (Duration::ZERO, Duration::ZERO);
    while now < length {
        now += exponential(&entropy, 1.0 / CALLS_PER_SECOND);
        world.end_until(now);
        if now >= look {
            world.expire(now);
            world.learn();
            look = now + ASK_EVERY;
        }
        let arrived = (entropy.number() % NODES as u64) as usize;
        // A few versions get most of the calls.
        let version = (entropy.unit().powi(3) * VERSIONS as f64) as u64;
        let begin = clock.monotonic();
        let node = world.choose(placing, arrived, version);
        world.outcome.took += clock.monotonic().since(begin);
        world.begin(node, version);
        world.outcome.forwarded += u64::from(node != arrived);
        let lasts = exponential(&entropy, 0.03);
        world.ends.push(Reverse((now + lasts, node, version)));
    }
    world.outcome
}

fn exponential(entropy: &Entropy, mean_seconds: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - entropy.unit()).ln() * mean_seconds)
}

impl World {
    fn choose(&mut self, placing: Placing, arrived: usize, version: u64) -> usize {
        let own = &self.nodes[arrived];
        let is_warm = own.idle.get(&version).is_some_and(|idle| !idle.is_empty());
        if is_warm || placing == Placing::Node {
            return arrived;
        }
        let candidates: Vec<Candidate> = (self.known.iter().enumerate())
            .map(|(at, known)| Candidate {
                node: NodeId(at as u64),
                load: if at == arrived { own.running } else { known.load },
                idle: if at == arrived {
                    0
                } else {
                    known.idle.get(&version).copied().unwrap_or(0)
                },
            })
            .collect();
        let placed = place(Code(version), &candidates).map_or(arrived, |placed| placed.node.0 as usize);
        if placed != arrived {
            let known = &mut self.known[placed];
            known.load += 1;
            if let Some(idle) = known.idle.get_mut(&version) {
                *idle = idle.saturating_sub(1);
            }
        }
        placed
    }

    fn begin(&mut self, at: usize, version: u64) {
        let outcome = &mut self.outcome;
        outcome.calls += 1;
        let idle = self.nodes[at].idle.get_mut(&version).and_then(Vec::pop);
        if idle.is_none() {
            outcome.cold += 1;
            self.living += 1;
            outcome.sandboxes_max = outcome.sandboxes_max.max(self.living);
        }
        self.nodes[at].running += 1;
        let all: u32 = self.nodes.iter().map(|node| node.running).sum();
        let mean = f64::from(all) / NODES as f64;
        if mean >= 4.0 {
            outcome.imbalance = outcome.imbalance.max(f64::from(self.nodes[at].running) / mean);
        }
    }

    fn end_until(&mut self, now: Duration) {
        while let Some(Reverse((end, at, version))) = self.ends.peek().copied().filter(|Reverse((end, ..))| *end <= now)
        {
            self.ends.pop();
            self.nodes[at].running -= 1;
            self.nodes[at].idle.entry(version).or_default().push(end);
        }
    }

    fn expire(&mut self, now: Duration) {
        for node in &mut self.nodes {
            for idle in node.idle.values_mut() {
                let before = idle.len();
                idle.retain(|since| now.saturating_sub(*since) < KEPT);
                self.living -= (before - idle.len()) as u64;
            }
        }
    }

    fn learn(&mut self) {
        for (node, known) in self.nodes.iter().zip(&mut self.known) {
            known.load = node.running;
            known.idle = (node.idle.iter())
                .filter(|(_, idle)| !idle.is_empty())
                .map(|(version, idle)| (*version, idle.len() as u32))
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placing_needs_fewer_sandboxes_and_keeps_the_nodes_even() {
        let clock = Clock::fake(bowline_foundation::clock::Timestamp::from_micros(0));
        let length = Duration::from_secs(30);
        for seed in [1, 2, 3] {
            let (placed, apart) = (
                run(Placing::Cluster, seed, length, &clock),
                run(Placing::Node, seed, length, &clock),
            );
            assert_eq!(apart.forwarded, 0, "control");
            assert!(placed.calls > 50_000 && placed.calls == apart.calls);
            assert!(placed.cold * 2 < apart.cold, "{placed:?} beside {apart:?}");
            assert!(
                placed.sandboxes_max * 2 < apart.sandboxes_max,
                "{placed:?} beside {apart:?}"
            );
            assert!(placed.imbalance < 4.0, "{placed:?}");
        }
    }

    #[test]
    fn a_seed_gives_one_history() {
        let clock = Clock::fake(bowline_foundation::clock::Timestamp::from_micros(0));
        let history = || format!("{:?}", run(Placing::Cluster, 7, Duration::from_secs(2), &clock));
        assert_eq!(history(), history());
    }
}
