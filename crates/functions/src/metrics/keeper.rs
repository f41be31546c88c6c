//! What operators see of what is kept warm, and of the memory that sandboxes may have.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::invoke::Rung;

/// Counters of the keeper and the rungs.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeeperMetrics {
    provisioned: Family<RungLabels, Counter>,
    /// Sandboxes started ahead of a call.
    pub prewarmed: Counter,
    /// Those of them that ended without one.
    pub wasted: Counter,
    /// Idle sandboxes dropped because a call was too unlikely.
    pub dropped: Counter,
    /// Idle sandboxes dropped for another's sake.
    pub evicted: Counter,
    pub budget: Gauge,
    pub claimed: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RungLabels {
    rung: &'static str,
}

impl KeeperMetrics {
    /// The counter of a rung.
    pub fn served(&self, rung: Rung) -> Counter {
        self.provisioned.get_or_create_owned(&RungLabels { rung: rung.name() })
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "provisioned",
            "Invocations by where their sandbox came from",
            self.provisioned.clone(),
        );
        let counted = [
            ("keeper_prewarmed", "Sandboxes started ahead of a call", &self.prewarmed),
            (
                "keeper_wasted",
                "Sandboxes started ahead that ended without a call",
                &self.wasted,
            ),
            (
                "keeper_dropped",
                "Idle sandboxes dropped since a call was unlikely",
                &self.dropped,
            ),
            (
                "keeper_evicted",
                "Idle sandboxes dropped to make room for another",
                &self.evicted,
            ),
        ];
        for (name, help, counter) in counted {
            registry.register(name, help, counter.clone());
        }
        let sized = [
            (
                "memory_budget",
                "Memory that all sandboxes together may have",
                &self.budget,
            ),
            (
                "memory_claimed",
                "Memory that the living sandboxes are allowed",
                &self.claimed,
            ),
        ];
        for (name, help, gauge) in sized {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
    }
}
