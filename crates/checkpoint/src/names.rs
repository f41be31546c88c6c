//! The names by which the instrumented module, its continuations and the engine find each other.

/// Every export of the pass begins so; a module that has such a name of its own is refused.
pub(crate) const PREFIX: &str = "ck:";
/// The import module of what the engine provides, and of what continuations take from the main module.
pub(crate) const IMPORT_MODULE: &str = "ck:";
/// The shared memory whose first word says that the guest shall stop.
pub(crate) const WORD: &str = "ck:word";
/// The save memory.
pub(crate) const FRAMES: &str = "ck:frames";
/// Function references: those the guest can hold, then what was spilled, then continuations.
pub(crate) const FUNCTIONS: &str = "ck:functions";
/// External references that were spilled.
pub(crate) const EXTERNS: &str = "ck:externs";
/// The module's start function, if it has one.
pub(crate) const START: &str = "ck:start";
/// Drops the segments that the markers say are dropped.
pub(crate) const SETTLE: &str = "ck:settle";
/// Finishes a frame whose values are saved.
pub(crate) const FINISH: &str = "ck:finish";
/// Leaves a function behind a call that is not meant to return.
pub(crate) const LEAVE: &str = "ck:leave";
/// The global that says that frames are being written: what a caller looks at, being cheaper than the word.
pub(crate) const UNWINDING: &str = "ck:unwinding";
/// The function of a continuation module.
pub(crate) const CONTINUE: &str = "ck:continue";

/// The function through which continuations call others.
pub(crate) fn switch(index: u32) -> String {
    format!("ck:c{index}")
}

pub(crate) fn global(index: u32) -> String {
    format!("ck:g{index}")
}

pub(crate) fn memory(index: u32) -> String {
    format!("ck:m{index}")
}

pub(crate) fn table(index: u32) -> String {
    format!("ck:t{index}")
}

pub(crate) fn tag(index: u32) -> String {
    format!("ck:e{index}")
}
