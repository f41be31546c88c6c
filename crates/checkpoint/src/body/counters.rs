//! Loops that count their own rounds: a variable grows by a constant in each. Where rounds are short it is enough to poll once in
//! [`Counter::ROUNDS`] of them, when some bits of the variable are zero, which an engine tests by one instruction.

use std::collections::HashMap;

use super::ways::Ways;
use super::{Block, Body, Shape, Step};

/// Places of a function without calls that each store what they save.
const LEAF_PLACES_MAX: usize = 8;

/// What counts the rounds of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    pub local: u32,
    /// Bits of the variable that are all zero at the head of one of [`Counter::ROUNDS`] rounds in a row.
    pub mask: u32,
}

impl Counter {
    /// Rounds between two polls; a power of two.
    pub const ROUNDS: u32 = 64;
    /// Steps of a round that is short.
    pub const STEPS_MAX: usize = 64;
}

impl Body<'_> {
    /// What counts the rounds of a loop, if they are short and something does.
    pub(super) fn counter(&self, block: &Block) -> Option<Counter> {
        let first = block.open + 1;
        let inside = &self.steps[first..block.end];
        if inside.len() > Counter::STEPS_MAX || !inside.iter().all(|step| self.is_short(step)) {
            return None;
        }
        let mut assigned = HashMap::new();
        for step in inside {
            if let Step::Set(local) | Step::Tee(local) = step {
                *assigned.entry(*local).or_insert(0) += 1;
            }
        }
        let counters = inside.windows(4).enumerate().filter_map(|(at, steps)| {
            let (counter, by) = growth(steps).filter(|(counter, _)| assigned[&counter.local] == 1)?;
            self.is_in_each_round(block, first + at + 3).then_some((counter, by))
        });
        // Who counts down ends at nought: short runs do not poll at all. The bits of an address are zero in any round, which a
        // processor does not foresee.
        let best = counters.min_by_key(|(_, by)| *by >= 0);
        best.map(|(counter, _)| counter)
    }

    /// Whether a step takes no longer than any other; what may be done over and over does.
    fn is_short(&self, step: &Step) -> bool {
        match step {
            Step::Open(block) => matches!(self.blocks[*block as usize].shape, Shape::Block | Shape::If),
            step => !is_long(step),
        }
    }

    /// Whether it has few places and calls nothing that comes back to it.
    pub(super) fn is_simple(&self) -> bool {
        !self.places.is_empty() && self.places.len() <= LEAF_PLACES_MAX && !self.steps.iter().any(is_long)
    }

    /// Whether no round of a loop without others inside comes back to its head without the step at `at`.
    fn is_in_each_round(&self, around: &Block, at: usize) -> bool {
        let mut open: Vec<&Block> = Vec::new();
        for step in &self.steps[around.open + 1..at] {
            match step {
                Step::Open(block) => open.push(&self.blocks[*block as usize]),
                Step::End(_) => {
                    open.pop();
                }
                step => {
                    let passes_by = |depth: u32| match open.len().checked_sub(depth as usize) {
                        // Out of the loop.
                        None => false,
                        Some(0) => true,
                        Some(number) => open[number - 1].end > at,
                    };
                    if Ways::of(self, step).is_some_and(|ways| ways.branches.iter().copied().any(passes_by)) {
                        return false;
                    }
                }
            }
        }
        open.iter().all(|block| matches!(block.shape, Shape::Block))
    }
}

/// Whether a step may take longer than others: it calls a function, or goes over much memory.
fn is_long(step: &Step) -> bool {
    matches!(step, Step::Long | Step::Call(_))
}

/// The variable that these steps make grow, and by how much, if that is all they do.
fn growth(steps: &[Step]) -> Option<(Counter, i32)> {
    let [
        Step::Get(from),
        Step::Const(value),
        Step::Add,
        Step::Set(to) | Step::Tee(to),
    ] = steps
    else {
        return None;
    };
    // A step of odd times 2^n counts in the bits from the nth on.
    let mask = (Counter::ROUNDS - 1).checked_shl(value.trailing_zeros())?;
    let counter = Counter { local: *to, mask };
    (from == to && mask.count_ones() == (Counter::ROUNDS - 1).count_ones()).then_some((counter, *value))
}
