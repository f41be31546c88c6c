//! What operators see of the event source mappings that count their events (`MetricsConfig`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A cheap handle to the counters of mappings.
#[derive(Clone, Debug, Default)]
pub(crate) struct MappingMetrics(Family<Labels, Counter>);

/// The counters of one mapping; nothing counts if it does not want it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventCounts(Option<Box<[Counter; COUNTED.len()]>>);

/// What became of an event. An event that comes again is counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Read from the source.
    Polled,
    /// No filter let it through.
    FilteredOut,
    /// The function ran with it.
    Invoked,
    /// The function failed, could not run, or said that it did not process the event.
    Failed,
    /// Given up: its tries or its age were used up.
    Dropped,
    /// Deleted from its queue once it was processed.
    Deleted,
}

const COUNTED: [(Counted, &str); 6] = [
    (Counted::Polled, "polled"),
    (Counted::FilteredOut, "filtered_out"),
    (Counted::Invoked, "invoked"),
    (Counted::Failed, "failed"),
    (Counted::Dropped, "dropped"),
    (Counted::Deleted, "deleted"),
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    /// The mapping's UUID.
    mapping: String,
    event: &'static str,
}

impl MappingMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "mapping_events",
            "Events of event source mappings whose MetricsConfig says EventCount, by what became of them",
            self.0.clone(),
        );
    }

    /// The counters of a mapping, which go on from where they are; those of one that counts nothing go away.
    pub fn of(&self, mapping: &str, counts: bool) -> EventCounts {
        if !counts {
            self.forget(mapping);
            return EventCounts::default();
        }
        let counter = |(_, event)| self.0.get_or_create(&labels(mapping, event)).clone();
        EventCounts(Some(Box::new(COUNTED.map(counter))))
    }

    /// Forgets a mapping; who still counts for it does so unseen.
    pub fn forget(&self, mapping: &str) {
        for (_, event) in COUNTED {
            self.0.remove(&labels(mapping, event));
        }
    }
}

impl EventCounts {
    pub fn add(&self, what: Counted, events: usize) {
        let Some(counters) = &self.0 else { return };
        let found = COUNTED
            .iter()
            .zip(&**counters)
            .find(|((counted, _), _)| *counted == what);
        if let Some((_, counter)) = found {
            counter.inc_by(events as u64);
        }
    }
}

fn labels(mapping: &str, event: &'static str) -> Labels {
    Labels {
        mapping: mapping.to_owned(),
        event,
    }
}
