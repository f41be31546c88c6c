//! When a node is short of memory or of processors, and who leaves it then for which other node: pure, so that the same
//! values give the same decision.
//!
//! ```text
//!   Sample, each second ── Watch ──▶ short for long enough? ─┐
//!   runs, by priority ── leaver ────────────────────────────┼──▶ a run, another node, and what was looked at
//!   facts of all nodes ── better_place ─────────────────────┘
//! ```
//! Where nobody is better off, the least important run rests, if a more important one runs here: it goes on when there is a
//! processor for it, here or elsewhere, and after a while in any case.
//!
//! A run goes only where it finds more than it leaves behind: once it has gone, the other node is no shorter than this one.
//! Then the same rule on the other node does not send it back, and a while must pass before it moves again.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_foundation::id::RequestId;

use super::fit::{Candidate, Facts, Needs, fit};

/// How runs leave a node by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a node must be short of something.
    pub short_for: Duration,
    /// It is short of memory from so much on that busy sandboxes have, in percent of its budget.
    pub memory_percent: u32,
    /// It is short of processors from so much time on that its threads run or wait for one, in percent of what there is.
    pub processors_percent: u32,
    /// How long a run stays at least where it has moved to, or goes on after it has rested.
    pub stay: Duration,
    /// How long a run rests at most.
    pub rest_max: Duration,
}

impl Rules {
    /// With the shares and times that are usual.
    pub fn after(short_for: Duration) -> Self {
        Self {
            short_for,
            memory_percent: 90,
            processors_percent: 90,
            stay: Duration::from_secs(30),
            rest_max: Duration::from_secs(60),
        }
    }
}

/// What a node can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Memory,
    Processors,
}

impl Resource {
    /// As it stands in decisions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processors => "processors",
        }
    }
}

/// What was measured of a node, in percent of what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// What busy sandboxes have.
    pub memory: u32,
    /// What its threads ran or waited for since the sample before.
    pub processors: u32,
}

/// A node that has been short of something for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub of: Resource,
    pub percent: u32,
    pub since: Duration,
}

impl Shortage {
    /// What was looked at, for the record.
    pub fn values(&self) -> BTreeMap<String, String> {
        let measured = format!("{} % for {} ms", self.percent, self.since.as_millis());
        BTreeMap::from([(self.of.name().to_owned(), measured)])
    }
}

/// Looks at a node's samples.
#[derive(Debug)]
pub(super) struct Watch {
    rules: Rules,
    memory_since: Option<Monotonic>,
    processors_since: Option<Monotonic>,
}

impl Watch {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            memory_since: None,
            processors_since: None,
        }
    }

    /// Takes a sample; gives what the node is short of. Then the time begins anew, so that what is done about it shows.
    pub fn see(&mut self, now: Monotonic, sample: Sample) -> Option<Shortage> {
        let rules = self.rules;
        let resources = [
            (
                Resource::Memory,
                sample.memory,
                rules.memory_percent,
                &mut self.memory_since,
            ),
            (
                Resource::Processors,
                sample.processors,
                rules.processors_percent,
                &mut self.processors_since,
            ),
        ];
        let mut found = None;
        for (of, percent, limit, since) in resources {
            if percent < limit {
                *since = None;
                continue;
            }
            let began = *since.get_or_insert(now);
            let lasted = now.since(began);
            if lasted >= rules.short_for && found.is_none() {
                *since = Some(now);
                found = Some(Shortage {
                    of,
                    percent,
                    since: lasted,
                });
            }
        }
        found
    }
}

/// A run that could leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaver {
    pub run: RequestId,
    pub priority: i32,
    pub ran: Duration,
    /// When it moved or rested last.
    pub disturbed: Option<Timestamp>,
}

/// Who leaves: of those that matter least the one that has run longest. Who was disturbed a while ago stays.
pub(super) fn leaver<'a>(rules: &Rules, now: Timestamp, runs: &'a [Leaver]) -> Option<&'a Leaver> {
    let may = |run: &&Leaver| run.disturbed.is_none_or(|disturbed| now.since(disturbed) >= rules.stay);
    let may = runs.iter().filter(may);
    may.min_by_key(|run| (run.priority, std::cmp::Reverse(run.ran)))
}

/// Whether a run rests that is nowhere better off: only for a more important one, and not for want of memory, for which
/// those that matter less make way when somebody needs it.
pub(super) fn rests(of: Resource, run: &Leaver, runs: &[Leaver]) -> bool {
    of == Resource::Processors && runs.iter().any(|other| other.priority > run.priority)
}

/// Whether a node has a processor for a run that rests; half of one may be wanted besides.
pub(super) fn has_processor(needs: &Needs, facts: &Facts) -> bool {
    fit(needs, facts).is_ok() && facts.processors > 0 && wanted(facts) + share(facts) <= 100 + share(facts) / 2
}

/// What a run that computes has of a node's processors, in percent.
fn share(facts: &Facts) -> i64 {
    i64::from(100 / facts.processors.clamp(1, 100))
}

fn wanted(facts: &Facts) -> i64 {
    i64::from(facts.wanted_percent.max(facts.load_percent))
}

/// The node where a run finds more than it leaves behind here, if there is one, and what was looked at. Of several it is
/// the one with the most.
pub(super) fn better_place(
    shortage: &Shortage,
    needs: &Needs,
    source: &Facts,
    candidates: &[Candidate],
) -> (Option<u64>, BTreeMap<String, String>) {
    let mut values = shortage.values();
    let mut better = Vec::new();
    for candidate in candidates {
        let verdict = match &candidate.facts {
            Err(reason) => reason.clone(),
            Ok(facts) => match fit(needs, facts) {
                Err(misfit) => misfit.to_string(),
                Ok(()) => {
                    let (here, there) = afterwards(shortage.of, needs, source, facts);
                    if there <= here {
                        better.push((there, candidate.node));
                    }
                    let word = if there <= here { "better" } else { "no better" };
                    format!(
                        "{word}: {} % wanted of {} processors, {} MiB free",
                        facts.wanted_percent, facts.processors, facts.memory_free_mib
                    )
                }
            },
        };
        values.insert(candidate.node.to_string(), verdict);
    }
    (better.into_iter().min().map(|(_, node)| node), values)
}

/// How short this node and another one would be once the run has gone there; the smaller the better.
fn afterwards(of: Resource, needs: &Needs, source: &Facts, facts: &Facts) -> (i64, i64) {
    match of {
        Resource::Memory => {
            let run = i64::from(needs.memory_mib);
            let lacks = |facts: &Facts| -i64::from(facts.memory_free_mib);
            (lacks(source) - run, lacks(facts) + run)
        }
        Resource::Processors => {
            // A node that does not say how many it has gets nothing.
            if facts.processors == 0 || source.processors == 0 {
                return (0, i64::MAX);
            }
            // Half a run is what others do besides, and less than would send it back.
            let tolerated = share(facts) / 2;
            (wanted(source) - share(source) + tolerated, wanted(facts) + share(facts))
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;

    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::default().after(Duration::from_millis(millis))
    }

    fn rules() -> Rules {
        Rules::after(Duration::from_secs(5))
    }

    const NEEDS: Needs = Needs {
        format_version: 1,
        pass_version: 1,
        memory_mib: 128,
    };

    fn facts(processors: u32, wanted_percent: u32, memory_free_mib: u32) -> Facts {
        Facts {
            format_version: 1,
            pass_version: 1,
            memory_free_mib,
            processors,
            wanted_percent,
            ..Facts::default()
        }
    }

    /// The first sample that fires, in seconds.
    fn fires(percents: &[u32], sample: fn(u32) -> Sample) -> Option<(usize, Resource)> {
        let mut watch = Watch::new(rules());
        let seen = percents.iter().enumerate();
        let mut fired = seen.filter_map(|(second, percent)| {
            let shortage = watch.see(at(1_000 * second as u64), sample(*percent))?;
            Some((second, shortage.of))
        });
        fired.next()
    }

    #[test]
    fn a_shortage_counts_when_it_lasts() {
        let processors = |percent| Sample {
            processors: percent,
            memory: 10,
        };
        let memory = |percent| Sample {
            processors: 10,
            memory: percent,
        };
        let short = [95; 8];
        assert_eq!(fires(&short, processors), Some((5, Resource::Processors)));
        assert_eq!(fires(&short, memory), Some((5, Resource::Memory)));
        assert_eq!(fires(&[89; 8], processors), None, "the control: below the limit");
        assert_eq!(
            fires(&[95, 95, 95, 95, 95, 50, 95, 95, 95, 95, 95], processors),
            None,
            "for 4 s of 5"
        );
    }

    #[test]
    fn after_a_decision_the_time_begins_anew() {
        let mut watch = Watch::new(rules());
        let short = Sample {
            processors: 200,
            memory: 0,
        };
        let fired: Vec<u64> = (0..=16)
            .filter(|second| watch.see(at(1_000 * second), short).is_some())
            .collect();
        assert_eq!(fired, [5, 10, 15]);
    }

    #[test]
    fn who_matters_least_leaves_and_who_has_just_moved_stays() {
        let entropy = Entropy::seeded(7);
        let run = |priority, ran, disturbed: Option<u64>| Leaver {
            run: RequestId::random(&entropy),
            priority,
            ran: Duration::from_secs(ran),
            disturbed: disturbed.map(|seconds| Timestamp::from_micros(seconds * 1_000_000)),
        };
        let now = Timestamp::from_micros(100_000_000);
        let all = [
            run(0, 50, None),
            run(-1, 5, None),
            run(-1, 9, None),
            run(-2, 99, Some(71)),
        ];
        assert_eq!(leaver(&rules(), now, &all), Some(&all[2]));
        let later = Timestamp::from_micros(101_000_000);
        assert_eq!(
            leaver(&rules(), later, &all),
            Some(&all[3]),
            "the control: a while has passed"
        );
        assert_eq!(leaver(&rules(), now, &all[3..]), None);
    }

    #[test]
    fn who_is_nowhere_better_off_rests_for_a_more_important_one_and_returns_to_a_free_processor() {
        let entropy = Entropy::seeded(9);
        let run = |priority| Leaver {
            run: RequestId::random(&entropy),
            priority,
            ran: Duration::ZERO,
            disturbed: None,
        };
        let (lower, same, higher) = (run(0), run(0), run(1));
        assert!(rests(Resource::Processors, &lower, &[lower, higher]));
        assert!(
            !rests(Resource::Processors, &lower, &[lower, same]),
            "the same priority does not count"
        );
        assert!(!rests(Resource::Memory, &lower, &[lower, higher]));
        for (processors, wanted, has) in [
            (1, 20, true),
            (1, 100, false),
            (4, 85, true),
            (4, 100, false),
            (0, 0, false),
        ] {
            let has_one = has_processor(&NEEDS, &facts(processors, wanted, 1024));
            assert_eq!(has_one, has, "{wanted} % of {processors}");
        }
        assert!(!has_processor(&NEEDS, &facts(1, 20, 64)), "it does not fit");
    }

    fn chosen(of: Resource, source: Facts, others: &[Facts]) -> Option<u64> {
        let shortage = Shortage {
            of,
            percent: 100,
            since: Duration::from_secs(5),
        };
        let candidates: Vec<Candidate> = (2..)
            .zip(others)
            .map(|(node, facts)| Candidate {
                node,
                is_source: false,
                facts: Ok(*facts),
            })
            .collect();
        better_place(&shortage, &NEEDS, &source, &candidates).0
    }

    #[test]
    fn a_run_goes_where_it_finds_more_than_it_leaves_behind() {
        use Resource::{Memory, Processors};
        let two_on_one = facts(1, 200, 1024);
        assert_eq!(chosen(Processors, two_on_one, &[facts(1, 3, 1024)]), Some(2));
        assert_eq!(
            chosen(Processors, facts(1, 100, 1024), &[facts(1, 0, 1024)]),
            None,
            "alone it gains nothing"
        );
        assert_eq!(
            chosen(Processors, two_on_one, &[facts(1, 100, 1024)]),
            None,
            "it is as bad there"
        );
        assert_eq!(
            chosen(Processors, two_on_one, &[facts(1, 100, 1024), facts(4, 75, 1024)]),
            Some(3)
        );
        assert_eq!(
            chosen(Processors, two_on_one, &[facts(0, 0, 1024)]),
            None,
            "it does not say how many it has"
        );
        assert_eq!(
            chosen(Processors, two_on_one, &[facts(1, 0, 64)]),
            None,
            "it does not fit"
        );
        assert_eq!(chosen(Memory, facts(1, 0, 0), &[facts(1, 0, 256)]), Some(2));
        assert_eq!(
            chosen(Memory, facts(1, 0, 0), &[facts(1, 0, 255)]),
            None,
            "it would be shorter than here"
        );
        assert_eq!(
            chosen(Memory, facts(1, 0, 0), &[facts(1, 0, 256), facts(1, 0, 512)]),
            Some(3)
        );
    }

    /// Whatever two nodes have, a run that goes to the other one is not sent back by the same rule.
    #[test]
    fn nobody_is_sent_back_and_forth() {
        let mut moved = 0;
        for processors in [(1, 1), (2, 2), (2, 8), (8, 2), (16, 16), (64, 3)] {
            for wanted in (0..400).step_by(7) {
                for other in (0..400).step_by(11) {
                    let (here, there) = (facts(processors.0, wanted, 1024), facts(processors.1, other, 1024));
                    if chosen(Resource::Processors, here, &[there]).is_none() {
                        continue;
                    }
                    moved += 1;
                    let left = facts(processors.0, wanted.saturating_sub(100 / processors.0), 1024);
                    let taken = facts(processors.1, other + 100 / processors.1, 1024);
                    let back = chosen(Resource::Processors, taken, &[left]);
                    assert_eq!(back, None, "{here:?} {there:?}");
                }
            }
        }
        for free in 0..64 {
            for other in 0..64 {
                let (here, there) = (facts(1, 0, free * 16), facts(1, 0, other * 16));
                if chosen(Resource::Memory, here, &[there]).is_none() {
                    continue;
                }
                moved += 1;
                let (left, taken) = (facts(1, 0, free * 16 + 128), facts(1, 0, other * 16 - 128));
                assert_eq!(chosen(Resource::Memory, taken, &[left]), None, "{here:?} {there:?}");
            }
        }
        assert!(moved > 1_000, "the control: {moved}");
    }
}
