//! Where a function may stop, and how its frame lies in the save memory.
//!
//! ```text
//!  0            4        8        64
//!  | top        | cursor | count  | frame | frame | ...          innermost frame first
//!
//!  frame:  | piece | piece | ... | site | stop |                     one for each node that saves it (unaligned)
//!  piece:  values of 4 bytes, then larger ones; operands before variables; each kind filled up to one of few counts
//! ```
//!
//! While unwinding, `top` is where the next frame begins. While resuming, `cursor` is where the outermost
//! frame that is not resumed yet ends; its header's first word then is the slot of its continuation in the
//! table of functions.

use crate::ValueType;

/// Where the next frame is written.
pub(crate) const TOP: u32 = 0;
/// The end of the frame that is resumed next.
pub(crate) const CURSOR: u32 = 4;
/// Polls left, with [`crate::Poll::Countdown`].
pub(crate) const COUNT: u32 = 8;
/// The first frame.
pub(crate) const BASE: u32 = 64;
/// Site and stop, after the values. Sites are numbered through the module, function after function.
pub(crate) const HEADER_BYTES: u32 = 8;

/// The word: nothing is asked for.
pub(crate) const WORD_REQUESTED: u32 = 1;
/// The word: frames are being written, every caller has to do the same.
pub(crate) const WORD_UNWINDING: u32 = 2;

/// How a frame came to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stop {
    /// Here: what comes before this place is done, the results of a call included.
    Here,
    /// In the function it had called: that frame has to be resumed first.
    Inside,
}

/// A place of a function, in the order of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Index of the function in the original module.
    pub function: u32,
    /// Which of its places.
    pub place: u32,
    /// How it stopped there.
    pub stop: Stop,
}

/// What kind of place it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The function's beginning.
    Entry,
    /// The head of a loop.
    Loop,
    /// Behind an operator that goes over much memory.
    Bulk,
    /// After a call with these results.
    Call(Vec<ValueType>),
}

/// What a frame holds that stopped at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What kind of place it is.
    pub place: Place,
    /// The types of the saved values, in order.
    pub values: Vec<ValueType>,
    /// Where each of them lies from the frame's beginning, in the save memory.
    pub(crate) offsets: Vec<u32>,
    /// Bytes of all of them there.
    pub(crate) bytes: u32,
}

impl Layout {
    /// Bytes of such a frame in the save memory.
    pub(crate) fn frame_bytes(&self) -> u32 {
        self.bytes + HEADER_BYTES
    }
}

/// How much room the values of a frame's piece take in the save memory.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Values of 4 bytes, which come first.
    narrow: u32,
    /// Values of 8 bytes; vectors are two.
    wide: u32,
}

/// How many values a function saves that gets them as its arguments: a call is filled up to one of these with zeros, so that a
/// module needs few such functions, of few types.
const COUNTS: [u32; 15] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, CALL_VALUES_MAX];
/// More take several calls.
pub(crate) const CALL_VALUES_MAX: u32 = 64;

impl Extent {
    pub(crate) fn add(&mut self, ty: ValueType) {
        match ty.saved_bytes() {
            4 => self.narrow += 1,
            bytes => self.wide += bytes / 8,
        }
    }

    pub(crate) fn fill(&mut self) {
        (self.narrow, self.wide) = (filled(self.narrow), filled(self.wide));
    }

    pub(crate) fn bytes(self) -> u32 {
        4 * self.narrow + 8 * self.wide
    }
}

/// How many values calls save that are given so many.
pub(crate) fn filled(values: u32) -> u32 {
    match values % CALL_VALUES_MAX {
        0 => values,
        rest => values - rest + COUNTS[COUNTS.partition_point(|&count| count < rest)],
    }
}
