//! A walk over a function that follows, on all ways at once, which of the loops around have passed a place in their
//! current round. A place is passed for all loops around it, and a loop inside begins with none: so what there is to know
//! at a step is how many loops, counted from the outermost, have passed one.

use super::ways::{Ways, label_of};
use super::{Body, Shape, Step};

/// The count where code is not reached: more than any other, since ways that meet agree on the least.
const UNREACHED: usize = usize::MAX;

/// The walk.
pub(super) struct Rounds<'b, 'a> {
    body: &'b Body<'a>,
    passed: usize,
    /// How many loops are open.
    loops: usize,
    labels: Vec<Label>,
    polled: Vec<bool>,
}

struct Label {
    block: usize,
    /// Which of the open loops it is, counted from one.
    as_loop: Option<usize>,
    /// The count where branches to its end meet.
    behind: usize,
    /// The count at the beginning of a condition's other arm.
    otherwise: Option<usize>,
}

impl<'b, 'a> Rounds<'b, 'a> {
    pub(super) fn new(body: &'b Body<'a>) -> Self {
        Self {
            body,
            passed: 0,
            loops: 0,
            labels: Vec::new(),
            polled: body
                .blocks
                .iter()
                .map(|block| matches!(block.shape, Shape::Loop))
                .collect(),
        }
    }

    /// Of each block, whether it is a loop that passes a place in each round, besides that at its own head; `keeps` says
    /// which loops' heads are known to be such places for the loops around.
    pub(super) fn polled(mut self, keeps: impl Fn(usize) -> bool) -> Vec<bool> {
        let body = self.body;
        for (_, step) in body.turning_steps() {
            match step {
                Step::Call(_) => self.pass(),
                Step::Open(block) => self.open(*block as usize, &keeps),
                Step::Else => {
                    let passed = self.passed;
                    let label = self.labels.last_mut().expect("`else` lies in a block");
                    label.behind = label.behind.min(passed);
                    self.passed = label.otherwise.take().expect("a condition has one other arm");
                }
                Step::End(_) => self.close(),
                step => self.go_on(step),
            }
        }
        self.polled
    }

    fn pass(&mut self) {
        if self.passed != UNREACHED {
            self.passed = self.loops;
        }
    }

    fn open(&mut self, block: usize, keeps: impl Fn(usize) -> bool) {
        let (mut as_loop, mut otherwise) = (None, None);
        match &self.body.blocks[block].shape {
            Shape::Block => {}
            Shape::If => otherwise = Some(self.passed),
            Shape::Loop => {
                if keeps(block) {
                    self.pass();
                }
                self.loops += 1;
                as_loop = Some(self.loops);
            }
            Shape::Try(catches) => {
                // A call that throws does not come to its place.
                catches.iter().for_each(|catch| self.branch(label_of(catch)));
            }
        }
        self.labels.push(Label {
            block,
            as_loop,
            behind: UNREACHED,
            otherwise,
        });
    }

    fn close(&mut self) {
        let label = self.labels.pop().expect("every block was opened");
        self.loops -= usize::from(label.as_loop.is_some());
        let met = self.passed.min(label.behind).min(label.otherwise.unwrap_or(UNREACHED));
        self.passed = if met == UNREACHED { met } else { met.min(self.loops) };
    }

    fn branch(&mut self, depth: u32) {
        let passed = self.passed;
        let Some(index) = self.labels.len().checked_sub(1 + depth as usize) else {
            return;
        };
        let label = &mut self.labels[index];
        match label.as_loop {
            Some(number) => self.polled[label.block] &= passed >= number,
            None => label.behind = label.behind.min(passed),
        }
    }

    fn go_on(&mut self, step: &Step) {
        let Some(ways) = Ways::of(self.body, step) else { return };
        ways.branches.iter().for_each(|&depth| self.branch(depth));
        if !ways.goes_on {
            self.passed = UNREACHED;
        }
    }
}
