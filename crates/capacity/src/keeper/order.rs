//! In which order sandboxes would be dropped for a call that needs room: found without sorting.

use std::collections::VecDeque;

use crate::forecast::FunctionIndex;

/// What a function looks like to whom needs its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has an idle sandbox, and was not called in this slot.
    Idle,
    /// It has an idle sandbox, and was called in this slot.
    Called,
    /// All its sandboxes are busy.
    Busy,
    /// It has none.
    Cold,
}

/// Two queues: those that were lined up when the slot began, the least worthy last, and those that were
/// called in it, the longest ago first.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    lined_up: Vec<FunctionIndex>,
    recent: VecDeque<FunctionIndex>,
    is_recent: Vec<bool>,
}

impl Order {
    /// Begins a slot; the last of `lined_up` goes first.
    pub fn line_up(&mut self, lined_up: Vec<FunctionIndex>) {
        self.lined_up = lined_up;
        let recent = std::mem::take(&mut self.recent);
        recent
            .into_iter()
            .for_each(|index| self.is_recent[index.0 as usize] = false);
    }

    /// A function goes to the end of the recent ones, unless it stands there already.
    pub fn note(&mut self, function: FunctionIndex) {
        let at = function.0 as usize;
        if at >= self.is_recent.len() {
            self.is_recent.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.is_recent[at], true) {
            self.recent.push_back(function);
        }
    }

    /// The same where only some sandboxes would help: `standing` knows of no others. Searches, and changes nothing about
    /// whose turn it is.
    pub fn first(&self, standing: impl Fn(FunctionIndex) -> Standing) -> Option<(FunctionIndex, bool)> {
        let lined_up = |wanted| {
            let is = |function: &&FunctionIndex| standing(**function) == wanted;
            self.lined_up.iter().rev().find(is).map(|function| (*function, true))
        };
        let recent = || {
            let is_idle = |function: &&FunctionIndex| matches!(standing(**function), Standing::Idle | Standing::Called);
            self.recent.iter().find(is_idle).map(|function| (*function, false))
        };
        lined_up(Standing::Idle)
            .or_else(recent)
            .or_else(|| lined_up(Standing::Called))
    }

    /// Whose idle sandbox goes next, and whether it was lined up: one that was called in this slot goes
    /// only if there is no other.
    pub fn next(&mut self, mut standing: impl FnMut(FunctionIndex) -> Standing) -> Option<(FunctionIndex, bool)> {
        while let Some(victim) = self.lined_up.pop() {
            match standing(victim) {
                Standing::Idle => return Some((victim, true)),
                Standing::Called | Standing::Busy => self.note(victim),
                Standing::Cold => {}
            }
        }
        for _ in 0..self.recent.len() {
            let oldest = self.recent.pop_front()?;
            self.is_recent[oldest.0 as usize] = false;
            match standing(oldest) {
                Standing::Idle | Standing::Called => return Some((oldest, false)),
                Standing::Busy => self.note(oldest),
                Standing::Cold => {}
            }
        }
        None
    }
}
