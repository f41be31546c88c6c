//! Where a run may go on: pure, so that the same facts give the same verdict everywhere.
//!
//! ```text
//!   Needs (of the checkpoint) ─┐
//!                              ├─ fit ──▶ yes, or the clause that fails
//!   Facts (of a node) ─────────┘
//!   all that fit ── choose ──▶ the node that has the run, if it is not busy; else the one with the least load
//! ```

use std::collections::BTreeMap;

/// The load of a node, in percent of its processors, above which it is not chosen.
const BUSY_PERCENT: u32 = 90;

/// What a run needs of the node where it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub format_version: u32,
    pub pass_version: u32,
    /// The memory that its sandbox gets.
    pub memory_mib: u32,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It takes nothing any more.
    pub is_stopping: bool,
    /// The versions of checkpoints that it goes on with; zeros if it has no such sandboxes.
    pub format_version: u32,
    pub pass_version: u32,
    /// Memory that no busy sandbox has.
    pub memory_free_mib: u32,
    /// Invocations that run on it, in percent of its processors.
    pub load_percent: u32,
    /// How many it has; zero if it does not say.
    pub processors: u32,
    /// What its threads want of them, in percent.
    pub wanted_percent: u32,
}

/// Why a run cannot go on on a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clause `{clause}`: the checkpoint needs {needed}, the node has {found}")]
pub struct Misfit {
    pub clause: String,
    pub needed: String,
    pub found: String,
}

impl Misfit {
    pub(crate) fn new(clause: &str, needed: impl ToString, found: impl ToString) -> Self {
        Self {
            clause: clause.to_owned(),
            needed: needed.to_string(),
            found: found.to_string(),
        }
    }
}

/// Whether a run can go on on a node; the first clause that fails is named.
pub(crate) fn fit(needs: &Needs, facts: &Facts) -> Result<(), Misfit> {
    if facts.is_stopping {
        return Err(Misfit::new("stopping", "a node that stays", "decided to stop"));
    }
    if needs.format_version != facts.format_version {
        return Err(Misfit::new("format", needs.format_version, facts.format_version));
    }
    if needs.pass_version != facts.pass_version {
        return Err(Misfit::new("pass", needs.pass_version, facts.pass_version));
    }
    if needs.memory_mib > facts.memory_free_mib {
        let free = format!("{} MiB free", facts.memory_free_mib);
        return Err(Misfit::new("memory", format!("{} MiB", needs.memory_mib), free));
    }
    Ok(())
}

/// A node that could take a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub node: u64,
    pub is_source: bool,
    /// Or why it cannot be asked.
    pub facts: Result<Facts, String>,
}

/// The node that takes a run, if any fits, and what was looked at.
pub(crate) fn choose(needs: &Needs, candidates: &[Candidate]) -> (Option<u64>, BTreeMap<String, String>) {
    let mut values = BTreeMap::new();
    let mut fitting = Vec::new();
    for candidate in candidates {
        let verdict = match &candidate.facts {
            Err(reason) => reason.clone(),
            Ok(facts) => match fit(needs, facts) {
                Err(misfit) => misfit.to_string(),
                Ok(()) if facts.load_percent > BUSY_PERCENT => format!("busy: load {} %", facts.load_percent),
                Ok(()) => {
                    fitting.push((!candidate.is_source, facts.load_percent, candidate.node));
                    format!(
                        "fits: load {} %, {} MiB free",
                        facts.load_percent, facts.memory_free_mib
                    )
                }
            },
        };
        values.insert(candidate.node.to_string(), verdict);
    }
    (fitting.into_iter().min().map(|(.., node)| node), values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        format_version: 1,
        pass_version: 1,
        memory_mib: 128,
    };

    fn facts(load_percent: u32) -> Facts {
        Facts {
            is_stopping: false,
            format_version: 1,
            pass_version: 1,
            memory_free_mib: 1024,
            load_percent,
            processors: 1,
            wanted_percent: 0,
        }
    }

    #[test]
    fn the_clause_that_fails_is_named() {
        let clause = |change: fn(&mut Facts)| {
            let mut facts = facts(10);
            change(&mut facts);
            fit(&NEEDS, &facts).map_err(|misfit| misfit.clause)
        };
        assert_eq!(clause(|_| {}), Ok(()), "the control");
        assert_eq!(clause(|facts| facts.format_version = 2), Err("format".to_owned()));
        assert_eq!(clause(|facts| facts.pass_version = 9), Err("pass".to_owned()));
        assert_eq!(clause(|facts| facts.memory_free_mib = 127), Err("memory".to_owned()));
        assert_eq!(clause(|facts| facts.is_stopping = true), Err("stopping".to_owned()));
    }

    /// Node 1 has the run; node 3 is the last resort because it has most to do.
    #[test]
    fn the_source_comes_first_then_the_least_busy_and_who_is_silent_never() {
        let chosen = |first: u32, second: u32, third: u32| {
            let candidate = |node, load| Candidate {
                node,
                is_source: node == 1,
                facts: Ok(facts(load)),
            };
            let silent = Candidate {
                node: 4,
                is_source: false,
                facts: Err("no answer".to_owned()),
            };
            let all = [candidate(1, first), candidate(2, second), candidate(3, third), silent];
            choose(&NEEDS, &all)
        };
        let (node, values) = chosen(99, 20, 30);
        assert_eq!(node, Some(2));
        assert_eq!(values["1"], "busy: load 99 %");
        assert_eq!(values["2"], "fits: load 20 %, 1024 MiB free");
        assert_eq!(values["4"], "no answer");
        assert_eq!(chosen(99, 95, 30).0, Some(3));
        assert_eq!(chosen(10, 5, 0).0, Some(1), "the source can go on itself");
        assert_eq!(chosen(99, 95, 91).0, None);
    }
}
