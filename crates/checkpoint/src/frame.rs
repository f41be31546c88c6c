//! Where a function may stop, and how its frame lies in the save memory.
//!
//! ```text
//!  0            4        8        64
//!  | top        | cursor | count  | frame | frame | ...          innermost frame first
//!
//!  frame:  values of 4 bytes, then larger ones; operands before variables (unaligned)  | site | stop |
//! ```
//!
//! Frames that functions of the main module write are filled up with zeros, values of 4 bytes and larger ones each to one of few
//! counts ([`Extent`]).
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
    /// The function's beginning, where it is called again and again without growing the stack.
    Entry,
    /// The head of a loop.
    Loop,
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
    /// How many of them, the last ones, are operands of the innermost block.
    pub operands: usize,
}

/// How much room the values of a frame take in the save memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extent {
    /// Values of 4 bytes, which come first.
    pub narrow: u32,
    /// Values of 8 bytes; vectors are two.
    pub wide: u32,
}

/// The counts to which the values of a frame are filled up: so a module needs few functions that save, and few types of these.
const COUNTS: [u32; 17] = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, VALUES_MAX];
/// Values of a frame that a function saves which gets them as its arguments.
const VALUES_MAX: u32 = 100;

impl Extent {
    /// What such values take by themselves.
    pub(crate) fn of(values: impl IntoIterator<Item = ValueType>) -> Self {
        let (mut narrow, mut wide) = (0, 0);
        for ty in values {
            match ty.saved_bytes() {
                4 => narrow += 1,
                bytes => wide += bytes / 8,
            }
        }
        Self { narrow, wide }
    }

    /// Whether such a frame is saved by a call.
    pub(crate) fn is_small(self) -> bool {
        self.narrow + self.wide <= VALUES_MAX
    }

    /// Filled up, if such frames are.
    pub(crate) fn filled(self) -> Self {
        if !self.is_small() {
            return self;
        }
        let count = |values| COUNTS[COUNTS.partition_point(|&count| count < values)];
        Self {
            narrow: count(self.narrow),
            wide: count(self.wide),
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        4 * self.narrow + 8 * self.wide
    }
}

impl Layout {
    /// Bytes of such a frame in the save memory.
    pub(crate) fn frame_bytes(&self) -> u32 {
        Extent::of(self.values.iter().copied()).filled().bytes() + HEADER_BYTES
    }

    /// Where each value lies from the frame's beginning.
    pub(crate) fn offsets(&self) -> Vec<u32> {
        offsets(&self.values, self.operands)
    }
}

/// Where each value of a frame lies whose last values are so many operands. The order is that in which code can
/// pass them to a call: the operands, which lie on its stack, come first.
pub(crate) fn offsets(values: &[ValueType], operands: usize) -> Vec<u32> {
    let variables = values.len() - operands;
    let mut narrow = 0;
    let mut wide = 4 * Extent::of(values.iter().copied()).filled().narrow;
    let mut offsets = vec![0; values.len()];
    for index in (variables..values.len()).chain(0..variables) {
        let next = if values[index].is_narrow() {
            &mut narrow
        } else {
            &mut wide
        };
        offsets[index] = *next;
        *next += values[index].saved_bytes();
    }
    offsets
}
