//! What operators see of the cells that wait.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of the pre-warmed cells; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    hits: Family<RuntimeLabels, Counter>,
    misses: Family<RuntimeLabels, Counter>,
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
            "Sandboxes that a cell waited for which had started its runtime",
            metrics.hits.clone(),
        );
        registry.register(
            "prewarmed_misses",
            "Sandboxes of a runtime with such cells that none waited for",
            metrics.misses.clone(),
        );
        metrics
    }

    /// The counter of those who wanted a cell of a runtime, and found one or not.
    pub(crate) fn wanted(&self, runtime: &str, found: bool) -> Counter {
        let family = if found { &self.hits } else { &self.misses };
        family.get_or_create_owned(&RuntimeLabels {
            runtime: runtime.to_owned(),
        })
    }
}
