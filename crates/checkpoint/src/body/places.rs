//! Which of the places that were found are needed.
//!
//!  - A loop need not poll where each of its rounds passes a place that does: then those poll.
//!  - A call whose results its caller returns as they are leaves nothing of the caller to save.
//!  - Nothing is needed behind a call that is not meant to return, but that it did not.
//!
//! Calls on a cycle of calls poll, so that every endless run does: their places stay.

use wasmparser::Operator;

use super::rounds::Rounds;
use super::{Body, PlaceKind, Shape, Step};

/// Steps that are looked at behind a call to see whether its function ends.
const STEPS_TO_THE_END_MAX: usize = 64;

impl Body<'_> {
    /// Drops the places that are not needed, and marks the blocks that hold the others.
    pub(super) fn settle_places(&mut self) {
        let polled = self.polled_loops();
        let mut needed = Vec::with_capacity(self.places.len());
        for index in 0..self.places.len() {
            needed.push(self.settle(index, &polled));
        }
        for (block, polled) in polled.into_iter().enumerate() {
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

    /// Says what kind of place one behind a call is; whether it is needed.
    fn settle(&mut self, index: usize, polled: &[bool]) -> bool {
        let place = &self.places[index];
        let PlaceKind::Call { results, polls } = place.kind else {
            return true;
        };
        let (mut may_be_caught, mut in_polled_loop) = (false, false);
        for block in std::iter::successors(place.block, |&block| self.blocks[block as usize].parent) {
            may_be_caught |= matches!(self.blocks[block as usize].shape, Shape::Try(_));
            in_polled_loop |= polled[block as usize];
        }
        let is_last = matches!(self.steps.get(place.after), Some(Step::Plain(Operator::Unreachable)));
        let place = &mut self.places[index];
        if is_last && results == 0 && !may_be_caught {
            place.kind = PlaceKind::Dead;
            place.stack.clear();
            return true;
        }
        let polls = polls || in_polled_loop;
        place.kind = PlaceKind::Call { results, polls };
        let place = &self.places[index];
        let returned = place.stack[place.stack.len() - results..] == self.results;
        polls || may_be_caught || !returned || !self.ends_behind(place.after, place.block)
    }

    /// Whether the function does nothing more from a step on.
    fn ends_behind(&self, step: usize, block: Option<u32>) -> bool {
        let (mut next, mut inside) = (step, block);
        for _ in 0..STEPS_TO_THE_END_MAX {
            let leave = match self.steps.get(next) {
                None | Some(Step::Plain(Operator::Return)) => return true,
                Some(Step::Plain(Operator::Nop)) => {
                    next += 1;
                    continue;
                }
                Some(Step::End(_) | Step::Else) => 0,
                Some(Step::Plain(Operator::Br { relative_depth })) => *relative_depth,
                Some(_) => return false,
            };
            for _ in 0..leave {
                inside = inside.and_then(|block| self.blocks[block as usize].parent);
            }
            let Some(block) = inside.map(|block| &self.blocks[block as usize]) else {
                return true;
            };
            let goes_back = matches!(block.shape, Shape::Loop) && !matches!(self.steps[next], Step::End(_));
            if goes_back {
                return false;
            }
            next = block.end + 1;
            inside = block.parent;
        }
        false
    }

    /// The loops each of whose rounds passes a place besides that at its head.
    fn polled_loops(&self) -> Vec<bool> {
        let by_calls = Rounds::new(self).polled(|_| false);
        // What is found for a loop without others inside holds whatever is found for those around it.
        let mut is_innermost = vec![true; self.blocks.len()];
        for block in &self.blocks {
            let mut around = block.parent.filter(|_| matches!(block.shape, Shape::Loop));
            while let Some(block) = around.filter(|&block| is_innermost[block as usize]) {
                is_innermost[block as usize] = false;
                around = self.blocks[block as usize].parent;
            }
        }
        Rounds::new(self).polled(|block| is_innermost[block] && !by_calls[block])
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
        for step in &mut self.steps {
            if let Step::Call(operator, place) = step {
                *step = match numbers[*place as usize] {
                    Some(place) => Step::Call(operator.clone(), place),
                    None => Step::Plain(operator.clone()),
                };
            }
        }
    }
}
