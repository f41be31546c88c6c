//! What operators see of events that nobody waits for.

use bowline_stream::session::Stat;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A cheap handle to the counters of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventMetrics {
    accepted: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    dropped: Family<DropLabels, Counter>,
    undelivered: Family<Labels, Counter>,
    laid_by: Family<Labels, Counter>,
    batches: Family<Labels, Counter>,
    filtered: Family<Labels, Counter>,
    in_flight: Family<Labels, Gauge>,
    oldest_seconds: Family<Labels, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    function: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DropLabels {
    function: String,
    reason: &'static str,
}

const REASONS: [&str; 4] = ["damaged", "failed", "function_gone", "batch"];

fn labels(function: &str) -> Labels {
    Labels {
        function: function.to_owned(),
    }
}

impl EventMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "events_accepted",
                "Events accepted for asynchronous invocation",
                &self.accepted,
            ),
            (
                "event_retries",
                "Events and batches tried again after the function's error",
                &self.retries,
            ),
            (
                "event_destination_errors",
                "Records that a destination or dead-letter target did not take",
                &self.undelivered,
            ),
            (
                "event_destination_waits",
                "Records that were stored as their destination or dead-letter target was away",
                &self.laid_by,
            ),
            (
                "event_batches",
                "Batches of streams that reached their function's mapping",
                &self.batches,
            ),
            (
                "events_filtered",
                "Events of streams that no filter let through",
                &self.filtered,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "events_dropped",
            "Events and batches that were given up without a trace elsewhere, by reason",
            self.dropped.clone(),
        );
        registry.register(
            "events_in_flight",
            "Events of asynchronous invocation in the hands of some node",
            self.in_flight.clone(),
        );
        registry.register_with_unit(
            "event_oldest_age",
            "Age of the oldest event that no node has taken up",
            Unit::Seconds,
            self.oldest_seconds.clone(),
        );
    }

    pub fn accepted(&self, function: &str) {
        self.accepted.get_or_create(&labels(function)).inc();
    }

    pub fn retried(&self, function: &str) {
        self.retries.get_or_create(&labels(function)).inc();
    }

    pub fn dropped(&self, function: &str, reason: &'static str) {
        debug_assert!(REASONS.contains(&reason), "`{reason}` is not listed");
        let function = function.to_owned();
        self.dropped.get_or_create(&DropLabels { function, reason }).inc();
    }

    pub fn undelivered(&self, function: &str) {
        self.undelivered.get_or_create(&labels(function)).inc();
    }

    pub fn laid_by(&self, function: &str) {
        self.laid_by.get_or_create(&labels(function)).inc();
    }

    pub fn batch(&self, function: &str, filtered: usize) {
        self.batches.get_or_create(&labels(function)).inc();
        self.filtered.get_or_create(&labels(function)).inc_by(filtered as u64);
    }

    /// What a function's session says.
    pub fn measured(&self, function: &str, stat: &Stat) {
        let in_flight = i64::try_from(stat.in_flight_events).unwrap_or(i64::MAX);
        self.in_flight.get_or_create(&labels(function)).set(in_flight);
        let oldest = i64::try_from(stat.lag.as_secs()).unwrap_or(i64::MAX);
        self.oldest_seconds.get_or_create(&labels(function)).set(oldest);
    }

    /// Forgets a deleted function.
    pub fn forget(&self, function: &str) {
        let labels = labels(function);
        let counters = [
            &self.accepted,
            &self.retries,
            &self.undelivered,
            &self.laid_by,
            &self.batches,
            &self.filtered,
        ];
        for family in counters {
            family.remove(&labels);
        }
        self.in_flight.remove(&labels);
        self.oldest_seconds.remove(&labels);
        for reason in REASONS {
            let function = function.to_owned();
            self.dropped.remove(&DropLabels { function, reason });
        }
    }
}
