//! Where a function may stop, and how its frame lies in the save memory.
//!
//! ```text
//!  0            4        8        64
//!  | top        | cursor | count  | frame | frame | ...          innermost frame first
//!
//!  frame:  value, value, ... (as the layout says, unaligned)  | function | place | stop |
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
/// Function, place and stop, after the values.
pub(crate) const HEADER_BYTES: u32 = 12;

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
}

impl Layout {
    /// Bytes of such a frame in the save memory.
    pub(crate) fn frame_bytes(&self) -> u32 {
        self.values.iter().map(|ty| ty.saved_bytes()).sum::<u32>() + HEADER_BYTES
    }
}
