//! Where control may go from an operator.

use smallvec::SmallVec;
use wasmparser::{Catch, Operator};

/// The ways on from an operator that has others than to the next step, exceptions aside.
pub(crate) struct Ways {
    /// The depths of the labels that it may branch to, by rising depth, each once.
    pub branches: SmallVec<[u32; 1]>,
    /// Whether the next step may follow.
    pub goes_on: bool,
}

impl Ways {
    /// Nothing for most operators, which only the next step follows.
    #[inline]
    pub fn of(operator: &Operator<'_>) -> Option<Self> {
        let mut branches = SmallVec::new();
        let goes_on = match operator {
            Operator::Br { relative_depth } => {
                branches.push(*relative_depth);
                false
            }
            Operator::BrIf { relative_depth } => {
                branches.push(*relative_depth);
                true
            }
            Operator::BrTable { targets } => {
                let others = targets.targets().map(|target| target.expect("the code was validated"));
                branches.extend(others.chain([targets.default()]));
                branches.sort_unstable();
                branches.dedup();
                false
            }
            Operator::Return
            | Operator::Unreachable
            | Operator::Throw { .. }
            | Operator::ThrowRef
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => false,
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
