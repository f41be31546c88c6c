//! What operators see of invocations that nodes run for each other.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A cheap handle to the counters of forwarding.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterMetrics {
    /// Invocations that another node took.
    pub forwarded: Counter,
    /// Invocations that were run for another node.
    pub received: Counter,
    /// Invocations that a node went away with.
    pub lost: Counter,
    fallbacks: Family<FallbackLabels, Counter>,
}

/// Why an invocation that was to run elsewhere ran where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The other node said no.
    Refused,
    /// It said nothing in time.
    Slow,
    /// It could not be spoken to.
    Unreachable,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FallbackLabels {
    reason: &'static str,
}

impl ClusterMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "invocations_forwarded",
                "Invocations that another node took",
                &self.forwarded,
            ),
            (
                "invocations_received",
                "Invocations that were run for another node",
                &self.received,
            ),
            (
                "invocations_lost",
                "Invocations that another node went away with",
                &self.lost,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "invocation_fallbacks",
            "Invocations that were to run on another node and ran here, by reason",
            self.fallbacks.clone(),
        );
    }

    pub fn fell_back(&self, fallback: Fallback) {
        let reason = match fallback {
            Fallback::Refused => "refused",
            Fallback::Slow => "slow",
            Fallback::Unreachable => "unreachable",
        };
        self.fallbacks.get_or_create(&FallbackLabels { reason }).inc();
    }
}
