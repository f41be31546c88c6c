//! Runs that leave by themselves: the node measures what it is short of, and moves one run at a time to where it finds more.
//! What is decided stands in [`pressure`](super::pressure); here is what it is told and what comes of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_sandbox::{SandboxKind, Wish};

use super::carry::Chain;
use super::fit::{Candidate, Facts, Needs};
use super::live::{Live, Rest, Turn};
use super::moving::MoveRequest;
use super::operations::Refused;
use super::pressure::{Leaver, Resource, Rules, Sample, Shortage, Watch, better_place, has_processor, leaver, rests};
use super::record::{Decision, Phase};
use crate::service::Inner;

/// How often the node is measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Measures what a node wants of its processors.
pub trait Meter: Send + Sync {
    /// The time that the node's threads have run or waited for a processor, since some beginning; it never falls.
    ///
    /// # Errors
    /// If it cannot be told.
    fn wanted(&self) -> io::Result<Duration>;
}

/// A reading of the meter.
struct Reading {
    at: Monotonic,
    wanted: Duration,
}

impl Inner {
    /// Measures the node and relieves it, as long as the service lives.
    pub(crate) async fn watch_pressure(self: Arc<Self>) {
        let Some(rules) = self.suspends.rules else { return };
        let mut watch = Watch::new(rules);
        let mut last = None;
        loop {
            tokio::time::sleep(SAMPLE_EVERY).await;
            let sample = self.sample(&mut last);
            self.suspends.wanted_percent.store(sample.processors, Ordering::Relaxed);
            let shortage = watch.see(self.clock.monotonic(), sample);
            if self.suspends.is_leaving() {
                continue;
            }
            self.wake_rested(&rules).await;
            if let Some(shortage) = shortage {
                self.relieve(&rules, &shortage).await;
            }
        }
    }

    fn sample(&self, last: &mut Option<Reading>) -> Sample {
        let facts = self.own_facts(false);
        let budget = self.room.budget().0.max(1);
        let busy = u64::from(budget.saturating_sub(facts.memory_free_mib));
        Sample {
            memory: u32::try_from(busy * 100 / u64::from(budget)).unwrap_or(u32::MAX),
            processors: self.wanted_percent(last, facts.processors),
        }
    }

    /// What the node's threads wanted since the last reading, in percent of its processors.
    fn wanted_percent(&self, last: &mut Option<Reading>, processors: u32) -> u32 {
        let Some(meter) = &self.suspends.meter else { return 0 };
        let wanted = match meter.wanted() {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::debug!(%error, "what the node wants of its processors cannot be measured");
                return 0;
            }
        };
        let at = self.clock.monotonic();
        let before = last.replace(Reading { at, wanted });
        let Some(before) = before else { return 0 };
        let there_was = at.since(before.at).as_micros() * u128::from(processors.max(1));
        let wanted = wanted.saturating_sub(before.wanted).as_micros();
        u32::try_from(wanted * 100 / there_was.max(1)).unwrap_or(u32::MAX)
    }

    /// Moves one run away, if there is one that may go and a node where it is better off; else lets it rest, if it may.
    async fn relieve(self: &Arc<Self>, rules: &Rules, shortage: &Shortage) {
        let mut runs = Vec::new();
        for live in self.suspends.all() {
            runs.extend(self.as_leaver(&live).await);
        }
        let Some(leaver) = leaver(rules, self.clock.now(), &runs) else {
            return;
        };
        let Some(live) = self.suspends.get(&leaver.run) else {
            return;
        };
        let source = self.own_facts(false);
        let candidates = match &self.cluster {
            Some(cluster) => cluster.asked_for_facts().await,
            None => Vec::new(),
        };
        let (target, mut values) = better_place(shortage, &needs(&live, &source), &source, &candidates);
        values.insert("priority".to_owned(), leaver.priority.to_string());
        let done = match target {
            Some(target) => self.move_live(&live, &request(target, shortage.of, values)).await,
            None if rests(shortage.of, leaver, &runs) => self.let_rest(&live, shortage.of, values).await,
            None => {
                tracing::debug!(run = %live.run, ?values, "a run stays where it is: it is nowhere better off");
                return;
            }
        };
        if let Err(error) = done {
            tracing::info!(run = %live.run, error = %Chain(&error), "a run that was to leave stays");
        }
    }

    /// Suspends a run until there is a processor for it.
    async fn let_rest(&self, live: &Arc<Live>, of: Resource, values: BTreeMap<String, String>) -> Result<(), Refused> {
        live.passing.store(true, Ordering::SeqCst);
        *live.rests.lock() = Some(Rest {
            of,
            since: self.clock.monotonic(),
        });
        let decision = self.decision("suspend", of.name(), values);
        tracing::info!(run = %live.run, values = ?decision.values, "a run rests");
        let left = self.checkpoint_live(live, Wish::Leave, decision).await;
        if left.is_err() {
            // Should it leave later, it goes on at once.
            live.give_turn(Turn::Resume);
        }
        left
    }

    /// Lets runs go on that have rested, where there is a processor for them: here, if there is one.
    async fn wake_rested(self: &Arc<Self>, rules: &Rules) {
        for live in self.suspends.all() {
            let Some(rest) = *live.rests.lock() else { continue };
            if live.phase() != Phase::Suspended {
                continue;
            }
            self.renew_rest(&live).await;
            let own = self.own_facts(false);
            let needs = needs(&live, &own);
            let rested = self.clock.monotonic().since(rest.since);
            if has_processor(&needs, &own) || rested >= rules.rest_max {
                let measured = format!("{} % after {} ms", own.wanted_percent, rested.as_millis());
                let values = BTreeMap::from([(rest.of.name().to_owned(), measured)]);
                live.set_taken_for(Some(self.decision("resume", rest.of.name(), values)));
                live.give_turn(Turn::Resume);
                // The others see what that makes of the processors.
                return;
            }
            let Some(cluster) = &self.cluster else { continue };
            let others = cluster.asked_for_facts().await;
            let has = |other: &&Candidate| other.facts.as_ref().is_ok_and(|facts| has_processor(&needs, facts));
            if let Some(other) = others.iter().find(has) {
                let request = request(other.node, rest.of, BTreeMap::new());
                if let Err(error) = self.move_live(&live, &request).await {
                    tracing::info!(run = %live.run, error = %Chain(&error), "a run that rests stays");
                }
                return;
            }
        }
    }

    /// Keeps other nodes away from a run that rests here.
    async fn renew_rest(&self, live: &Live) {
        let mut held = live.loaded.lock().await;
        let Some(loaded) = held.as_mut() else { return };
        let now = self.clock.now();
        let half = now.after(self.suspends.lease / 2).as_millis();
        if self.suspends.sharing == bowline_store::Sharing::Exclusive || loaded.record.lease_ms > half {
            return;
        }
        let lease_ms = now.after(self.suspends.lease).as_millis();
        let renewed = (self.suspends.ledger).change(&live.run, loaded, |record| record.lease_ms = lease_ms);
        if let Err(error) = renewed.await {
            tracing::warn!(run = %live.run, error = %Chain(&error), "the lease of a run that rests was not renewed");
        }
    }

    /// A run as a candidate to leave; none if it does not run, or is on its way already.
    async fn as_leaver(&self, live: &Live) -> Option<Leaver> {
        if live.phase() != Phase::Running || live.passing.load(Ordering::SeqCst) {
            return None;
        }
        let pool = live.pool.get()?;
        // A whole machine is too heavy to be sent to and fro by a rule.
        if pool.parts.spec.kind == SandboxKind::Linux {
            return None;
        }
        let priority = self.priority(pool);
        let held = live.loaded.lock().await;
        let decisions = held.as_ref().map(|loaded| loaded.record.decisions.as_slice());
        let disturbs = |decision: &&Decision| ["move", "suspend", "resume"].contains(&decision.what.as_str());
        let last = decisions.unwrap_or_default().iter().rev().find(disturbs);
        Some(Leaver {
            run: live.run,
            priority,
            ran: self.clock.now().since(live.started),
            disturbed: last.map(|decision| Timestamp::from_micros(decision.at_ms.saturating_mul(1_000))),
        })
    }
}

fn request(target: u64, of: Resource, values: BTreeMap<String, String>) -> MoveRequest {
    MoveRequest {
        to: Some(target.to_string()),
        reason: of.name().to_owned(),
        values,
    }
}

/// What a run needs elsewhere, before it has left anything that says so.
fn needs(live: &Live, source: &Facts) -> Needs {
    Needs {
        format_version: source.format_version,
        pass_version: source.pass_version,
        memory_mib: live.pool.get().map_or(0, |pool| pool.size().0),
    }
}

/// What the request says of the reason, beside what is looked at where it is carried out.
pub(super) fn with_values(
    mut values: BTreeMap<String, String>,
    given: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (name, value) in given {
        values.entry(name.clone()).or_insert_with(|| value.clone());
    }
    values
}
