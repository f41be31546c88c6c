//! What the caller decides about the pass; part of every checkpoint, since layouts depend on it.

/// The version of the pass: raised whenever places or layouts of frames change for the same module.
pub const PASS_VERSION: u32 = 3;

/// The version of what instrumented code looks like otherwise: raised whenever continuations need another main module.
/// No checkpoint bears it, but whoever keeps compiled modules has to.
pub const CODE_VERSION: u32 = 7;

/// How a module is instrumented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// The native stack that a guest may use, in bytes. The save memory is made large enough for any
    /// frames that fit in it.
    pub stack_bytes: u32,
    /// What a guest looks at to find out that it shall stop.
    pub poll: Poll,
}

/// What instrumented code looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Poll {
    /// The word in shared memory, set by any thread.
    Word,
    /// The word, and a count of polls in the save memory: the guest stops when it reaches zero. It makes stops
    /// repeatable, for tests that stop at each place in turn.
    Countdown,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stack_bytes: 512 * 1024,
            poll: Poll::Word,
        }
    }
}
