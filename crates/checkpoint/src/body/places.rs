//! Which of the places that were found are needed.
//!
//!  - A loop need not poll where each of its rounds passes a place that does: then those poll.
//!  - A call whose results its caller returns as they are leaves nothing of the caller to save.
//!  - Nothing is needed behind a call that is not meant to return, but that it did not.

use super::rounds::Rounds;
use super::{Block, Body, PlaceKind, Shape, Step};

/// Steps behind a call that may lead to its function's end.
const STEPS_TO_THE_END_MAX: u8 = 64;
/// More than can be.
const NEVER: u8 = u8::MAX;

/// What a block and those around it are.
#[derive(Clone, Copy, Default)]
struct Around {
    /// An exception may be caught.
    may_be_caught: bool,
    /// A loop has no place at its head, since each of its rounds passes another.
    in_polled_loop: bool,
    /// That other is in some rounds only the head of a loop inside.
    is_relied_on: bool,
}

/// Of each block, whether it is a loop each of whose rounds passes a place besides that at its head.
struct PolledLoops {
    all: Vec<bool>,
    /// Also if heads of loops inside are none.
    by_calls: Vec<bool>,
}

impl Body<'_> {
    /// Drops the places that are not needed, and marks the blocks that hold the others.
    pub(super) fn settle_places(&mut self) {
        if self.places.is_empty() {
            return;
        }
        let polled = self.polled_loops();
        let (around, to_the_end) = (self.around_blocks(&polled), self.steps_to_the_end());
        for block in &self.blocks {
            let place = block.place.map(|place| place as usize);
            let Some(place) = place.filter(|&place| self.places[place].stack.is_empty()) else {
                continue;
            };
            let is_relied_on = block.parent.is_some_and(|parent| around[parent as usize].is_relied_on);
            let counter = if is_relied_on { None } else { self.counter(block) };
            self.places[place].kind = PlaceKind::Loop(counter);
        }
        let mut needed = Vec::with_capacity(self.places.len());
        for index in 0..self.places.len() {
            needed.push(self.settle(index, &around, &to_the_end));
        }
        for (block, polled) in polled.all.into_iter().enumerate() {
            if let Some(place) = self.blocks[block].place.filter(|_| polled) {
                needed[place as usize] = false;
            }
        }
        self.keep_places(&needed);
        for index in 0..self.places.len() {
            let mut around = self.places[index].block;
            while let Some(block) = around {
                let block = &mut self.blocks[block as usize];
                // Where one is marked, those around it are.
                if std::mem::replace(&mut block.holds_places, true) {
                    break;
                }
                around = block.parent;
            }
        }
    }

    /// What each block and those around it are: in one pass, since a block comes before those inside.
    fn around_blocks(&self, polled: &PolledLoops) -> Vec<Around> {
        let mut all: Vec<Around> = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let outside = block.parent.map(|parent| all[parent as usize]).unwrap_or_default();
            all.push(Around {
                may_be_caught: outside.may_be_caught || matches!(block.shape, Shape::Try(_)),
                in_polled_loop: outside.in_polled_loop || polled.all[index],
                is_relied_on: outside.is_relied_on || (polled.all[index] && !polled.by_calls[index]),
            });
        }
        all
    }

    /// Says what kind of place one behind a call is; whether it is needed.
    fn settle(&mut self, index: usize, around: &[Around], to_the_end: &[u8]) -> bool {
        let place = &self.places[index];
        let PlaceKind::Call { results, polls } = place.kind else {
            return true;
        };
        let around = place.block.map(|block| around[block as usize]).unwrap_or_default();
        let Around {
            may_be_caught,
            in_polled_loop,
            ..
        } = around;
        let polls = polls || in_polled_loop;
        let is_last = matches!(self.steps.get(place.after), Some(Step::Unreachable));
        let place = &mut self.places[index];
        if is_last && results == 0 && !may_be_caught {
            place.kind = PlaceKind::Dead;
            place.stack.clear();
            return true;
        }
        place.kind = PlaceKind::Call { results, polls };
        let place = &self.places[index];
        let returned = place.stack[place.stack.len() - results..] == self.results;
        polls || may_be_caught || !returned || to_the_end[place.after] > STEPS_TO_THE_END_MAX
    }

    /// Of each step, how many lead from it to the function's end without doing anything; [`NEVER`] where that is not so,
    /// or where they are many.
    fn steps_to_the_end(&self) -> Vec<u8> {
        let mut all = vec![NEVER; self.steps.len() + 1];
        all[self.steps.len()] = 1;
        let mut open: Vec<&Block> = Vec::new();
        for (index, step) in self.turning_steps().rev() {
            let next = match step {
                Step::Return => {
                    all[index] = 1;
                    continue;
                }
                Step::Nop => Some(index + 1),
                // What that place does if a callee has stopped, it does for all calls that lead there.
                Step::Call(_) if self.bytes(index).is_empty() => Some(index + 1),
                Step::Branch(depth) => {
                    let target = open.len().checked_sub(1 + *depth as usize);
                    let Some(target) = target.map(|target| open[target]) else {
                        all[index] = 1;
                        continue;
                    };
                    (!matches!(target.shape, Shape::Loop)).then_some(target.end + 1)
                }
                Step::Else => open.last().map(|block| block.end + 1),
                Step::End(block) => {
                    open.push(&self.blocks[*block as usize]);
                    Some(index + 1)
                }
                Step::Open(_) => {
                    open.pop();
                    None
                }
                _ => None,
            };
            all[index] = next.map_or(NEVER, |next| all[next].saturating_add(1));
        }
        all
    }

    fn polled_loops(&self) -> PolledLoops {
        let is_loop = |block: &Block| matches!(block.shape, Shape::Loop);
        if !self.blocks.iter().any(is_loop) {
            let none = vec![false; self.blocks.len()];
            return PolledLoops {
                all: none.clone(),
                by_calls: none,
            };
        }
        let by_calls = Rounds::new(self).polled(|_| false);
        // What is found for a loop without others inside holds whatever is found for those around it.
        let mut is_innermost = vec![true; self.blocks.len()];
        for block in &self.blocks {
            let mut around = block.parent.filter(|_| is_loop(block));
            while let Some(block) = around.filter(|&block| is_innermost[block as usize]) {
                is_innermost[block as usize] = false;
                around = self.blocks[block as usize].parent;
            }
        }
        let is_kept = |block: usize| is_innermost[block] && !by_calls[block] && is_loop(&self.blocks[block]);
        PolledLoops {
            all: match (0..self.blocks.len()).any(is_kept) {
                true => Rounds::new(self).polled(is_kept),
                false => by_calls.clone(),
            },
            by_calls,
        }
    }

    /// Drops the places that are not marked.
    fn keep_places(&mut self, needed: &[bool]) {
        if needed.iter().all(|&needed| needed) {
            return;
        }
        let mut next = 0;
        let numbers: Vec<Option<u32>> = needed
            .iter()
            .map(|&needed| {
                needed.then(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let mut index = 0;
        self.places.retain(|_| {
            index += 1;
            needed[index - 1]
        });
        for block in &mut self.blocks {
            block.place = block.place.and_then(|place| numbers[place as usize]);
        }
        for &index in &self.turns {
            let step = &mut self.steps[index as usize];
            if let Step::Call(place) = step {
                *step = numbers[*place as usize].map_or(Step::Long, Step::Call);
            }
        }
    }
}
