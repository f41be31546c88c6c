//! What operators see of the cells that wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_sandbox::MadeAhead;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Runtimes that are told apart; an agent may make names up.
const RUNTIMES_MAX: usize = 64;

/// Counters of the pre-warmed cells; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    hits: Family<RuntimeLabels, Counter>,
    misses: Family<RuntimeLabels, Counter>,
    /// The counters that there are, by runtime: hits and misses.
    counters: Arc<Mutex<BTreeMap<String, [Counter; 2]>>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RuntimeLabels {
    runtime: String,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "prewarmed_hits",
            "Sandboxes that a cell waited for which had started its runtime, those in process instances too",
            metrics.hits.clone(),
        );
        registry.register(
            "prewarmed_misses",
            "Sandboxes of a runtime with such cells that none waited for, those in process instances too",
            metrics.misses.clone(),
        );
        metrics
    }

    /// Counts one who wanted a cell of a runtime, and found one or not.
    pub(crate) fn wanted(&self, runtime: &str, found: bool) {
        self.add(&MadeAhead {
            runtime: runtime.to_owned(),
            hits: found.into(),
            misses: (!found).into(),
        });
    }

    /// Counts what an agent has counted; of more runtimes than there can be nothing.
    pub fn add(&self, more: &MadeAhead) {
        let mut counters = self.counters.lock();
        if counters.len() >= RUNTIMES_MAX && !counters.contains_key(&more.runtime) {
            return;
        }
        let labels = RuntimeLabels {
            runtime: more.runtime.clone(),
        };
        let [hits, misses] = counters.entry(more.runtime.clone()).or_default();
        for (counter, family, more) in [(hits, &self.hits, more.hits), (misses, &self.misses, more.misses)] {
            if more > 0 {
                *counter = family.get_or_create_owned(&labels);
                counter.inc_by(more);
            }
        }
    }

    /// All that was counted.
    pub(crate) fn counted(&self) -> Vec<MadeAhead> {
        let counters = self.counters.lock();
        let of_each = |(runtime, [hits, misses]): (&String, &[Counter; 2])| MadeAhead {
            runtime: runtime.clone(),
            hits: hits.get(),
            misses: misses.get(),
        };
        counters.iter().map(of_each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(runtime: &str, hits: u64, misses: u64) -> MadeAhead {
        let runtime = runtime.to_owned();
        MadeAhead { runtime, hits, misses }
    }

    #[test]
    fn what_an_agent_has_counted_is_added_and_names_are_not_without_number() {
        let metrics = Metrics::register(&mut Registry::default());
        metrics.wanted("python3.11", true);
        metrics.add(&of("python3.11", 2, 5));
        assert_eq!(metrics.counted(), [of("python3.11", 3, 5)]);
        for number in 0..2 * RUNTIMES_MAX {
            metrics.add(&of(&format!("made-up-{number}"), 1, 0));
        }
        assert_eq!(metrics.counted().len(), RUNTIMES_MAX);
        metrics.add(&of("python3.11", 1, 0));
        assert!(
            metrics.counted().contains(&of("python3.11", 4, 5)),
            "the control: a known one counts on"
        );
    }
}
