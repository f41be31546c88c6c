//! Why a module cannot be checkpointed; the text is for the function's owner.

/// A module that the pass does not take, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no valid module under any proposal that is known.
    #[error("the WebAssembly module is not valid: {0}")]
    Invalid(String),
    /// A component: its modules share handles and adapters that no pass over one module sees.
    #[error("components cannot be checkpointed: only core modules can")]
    Component,
    /// Shared memories or atomic operations: every thread would have to stop.
    #[error("the module uses threads (shared memory or atomic operations), which cannot be checkpointed")]
    Threads,
    /// Structures, arrays and other collected objects, whose graph cannot be written down.
    #[error("the module uses garbage-collected objects, which cannot be checkpointed")]
    GarbageCollection,
    /// References to functions of one type; such a value may have no default.
    #[error("the module uses typed function references, which cannot be checkpointed")]
    TypedReferences,
    /// The older form of exceptions.
    #[error("the module uses the old form of exceptions: compile it for `try_table`")]
    OldExceptions,
    /// Another proposal that the pass does not know.
    #[error("the module uses a WebAssembly proposal that cannot be checkpointed: {0}")]
    Proposal(String),
    /// State that belongs to somebody else.
    #[error("the module imports {0}, whose content a checkpoint of this module would not have")]
    ImportedState(&'static str),
    /// A caught exception that has to outlive a stop.
    #[error("function {function} keeps a caught exception across a place where it may stop")]
    LiveException {
        /// Index of the function in the module.
        function: u32,
    },
    /// Exceptions kept in a global or a table.
    #[error("the module keeps caught exceptions in a global or a table")]
    StoredException,
    /// A name of the pass.
    #[error("the module uses the name `{0}`, which is reserved for checkpoints")]
    ReservedName(String),
    /// The frames of the deepest stack would not fit the save memory.
    #[error(
        "a frame of the module takes up to {frame_bytes} bytes, so the frames of a stack of {stack_bytes} bytes could \
         exceed 4 GiB: a smaller stack or fewer variables in a function would do"
    )]
    FramesTooLarge {
        /// The largest frame.
        frame_bytes: u32,
        /// The native stack that guests may use.
        stack_bytes: u32,
    },
    /// The instrumented function would break a limit of the format.
    #[error("function {function} is too large to be instrumented: {what}")]
    TooLarge {
        /// Index of the function in the module.
        function: u32,
        /// Which limit.
        what: &'static str,
    },
}
