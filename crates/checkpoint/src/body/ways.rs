//! Where control may go from a step.

use wasmparser::Catch;

use super::{Body, Step};

/// The ways on from a step that has others than to the next one, exceptions aside.
pub(crate) struct Ways<'b> {
    /// The depths of the labels that it may branch to, by rising depth, each once.
    pub branches: &'b [u32],
    /// Whether the next step may follow.
    pub goes_on: bool,
}

impl<'b> Ways<'b> {
    /// Nothing for most steps, which only the next one follows.
    #[inline]
    pub fn of(body: &'b Body<'_>, step: &'b Step) -> Option<Self> {
        let (branches, goes_on) = match step {
            Step::Branch(depth) => (std::slice::from_ref(depth), false),
            Step::BranchIf(depth) => (std::slice::from_ref(depth), true),
            Step::BranchTable(table) => (body.tables[*table as usize].as_slice(), false),
            Step::Return | Step::Unreachable | Step::Throw | Step::TailCall => (&[][..], false),
            _ => return None,
        };
        Some(Self { branches, goes_on })
    }
}

/// The depth of the label that a caught exception leads to.
pub(crate) fn label_of(catch: &Catch) -> u32 {
    match *catch {
        Catch::One { label, .. } | Catch::OneRef { label, .. } | Catch::All { label } | Catch::AllRef { label } => {
            label
        }
    }
}
