//! Where control may go from an operator.

use std::collections::BTreeSet;

use wasmparser::{Catch, Operator};

/// The ways on from one operator, exceptions aside.
pub(crate) struct Ways {
    /// The depths of the labels that it may branch to.
    pub branches: BTreeSet<u32>,
    /// Whether the next step may follow.
    pub goes_on: bool,
}

impl Ways {
    pub fn of(operator: &Operator<'_>) -> Self {
        let (branches, goes_on) = match operator {
            Operator::Br { relative_depth } => (BTreeSet::from([*relative_depth]), false),
            Operator::BrIf { relative_depth } => (BTreeSet::from([*relative_depth]), true),
            Operator::BrTable { targets } => {
                let others = targets.targets().map(|target| target.expect("the code was validated"));
                (others.chain([targets.default()]).collect(), false)
            }
            Operator::Return
            | Operator::Unreachable
            | Operator::Throw { .. }
            | Operator::ThrowRef
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => (BTreeSet::new(), false),
            _ => (BTreeSet::new(), true),
        };
        Self { branches, goes_on }
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
