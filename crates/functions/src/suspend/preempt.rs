//! Making room: runs that can be suspended yield to an invocation of higher priority that finds no memory.
//!
//! A run that yields ends its sandbox, whose memory goes to whoever has waited longest, and then waits for room like
//! any other. Priorities are compared strictly, so that two never yield to each other in turns.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_foundation::id::RequestId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::Wish;

use super::record::{Decision, Phase};
use crate::invoke::Pool;
use crate::service::Inner;

/// The tag by which a function's owner says how much its invocations matter: a whole number, 0 without it.
const PRIORITY: &str = "bowline:priority";
/// Why a run is suspended that yields.
const PREEMPTED: &str = "preempted";

/// A run that could yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Yielding {
    run: RequestId,
    priority: i32,
    ran: Duration,
    memory: Mebibytes,
}

/// Which runs yield to an invocation: those that matter least first, of these the one that has run longest, as many as
/// it takes. None if all of them are not enough.
fn victims(priority: i32, wanted: Mebibytes, mut candidates: Vec<Yielding>) -> Vec<RequestId> {
    candidates.retain(|one| one.priority < priority);
    candidates.sort_by_key(|one| (one.priority, std::cmp::Reverse(one.ran)));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for one in candidates {
        if freed >= wanted.0 {
            break;
        }
        freed += one.memory.0;
        chosen.push(one.run);
    }
    if freed < wanted.0 { Vec::new() } else { chosen }
}

impl Inner {
    /// Asks runs to yield to an invocation that waits for memory; never waits for them.
    pub(crate) fn make_way(&self, pool: &Pool, missing: Mebibytes) {
        let priority = self.priority(pool);
        let now = self.clock.now();
        let running = self.suspends.all();
        let candidates = running.iter().filter_map(|live| {
            let may = live.phase() == Phase::Running && !live.passing.load(Ordering::SeqCst);
            let of = live.pool.get().filter(|_| may)?;
            Some(Yielding {
                run: live.run,
                priority: self.priority(of),
                ran: now.since(live.started),
                memory: of.size(),
            })
        });
        for run in victims(priority, missing, candidates.collect()) {
            let Some(live) = self.suspends.get(&run) else { continue };
            let function = &pool.parts.spec.function;
            tracing::info!(%run, function, "a run yields");
            let decision = |what: &str, why: &str| Decision {
                at_ms: now.as_millis(),
                what: what.to_owned(),
                why: why.to_owned(),
                values: BTreeMap::from([
                    ("for".to_owned(), function.clone()),
                    ("priority".to_owned(), priority.to_string()),
                ]),
            };
            live.passing.store(true, Ordering::SeqCst);
            live.yields.store(true, Ordering::SeqCst);
            live.set_taken_for(Some(decision("resume", "there is room again")));
            live.ask(Wish::Leave, decision("suspend", PREEMPTED));
        }
    }

    pub(super) fn priority(&self, pool: &Pool) -> i32 {
        let entry = self.registry.snapshot.get(&pool.parts.spec.account, &pool.parts.name);
        let told = entry.and_then(|entry| entry.tags.get(PRIORITY)?.parse().ok());
        told.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;

    use super::*;

    #[test]
    fn those_that_matter_least_yield_as_many_as_it_takes() {
        let one = |priority: i32, seconds: u64| Yielding {
            run: RequestId::random(&Entropy::seeded(seconds)),
            priority,
            ran: Duration::from_secs(seconds),
            memory: Mebibytes(128),
        };
        let all = [one(-1, 5), one(-1, 9), one(0, 20), one(-2, 1)];
        let chosen = |priority, wanted| victims(priority, Mebibytes(wanted), all.to_vec());
        assert_eq!(chosen(0, 128), [all[3].run]);
        assert_eq!(chosen(0, 200), [all[3].run, all[1].run]);
        assert_eq!(chosen(-1, 128), [all[3].run]);
        assert_eq!(chosen(-2, 128), [], "the same priority does not count");
        assert_eq!(chosen(0, 513), [], "nobody yields in vain");
    }
}
