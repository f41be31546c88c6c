//! What is counted of instances.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts and gauges; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub instances: Gauge,
    pub running: Gauge,
    pub repairs: Counter,
    pub replacements: Counter,
    pub held: Counter,
    /// Requests for a sandbox that went on to another place.
    pub passed: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("instances", "Instances of this node", metrics.instances.clone());
        registry.register(
            "instances_running",
            "Instances whose server runs",
            metrics.running.clone(),
        );
        registry.register(
            "instance_repairs",
            "Servers that were made well again",
            metrics.repairs.clone(),
        );
        registry.register(
            "instance_replacements",
            "Servers that were replaced",
            metrics.replacements.clone(),
        );
        registry.register(
            "instance_holds",
            "Instances that were given up until somebody looks",
            metrics.held.clone(),
        );
        registry.register(
            "instances_passed",
            "Requests for a sandbox that went past an instance which failed, did not answer or had no room",
            metrics.passed.clone(),
        );
        metrics
    }
}
