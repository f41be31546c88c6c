//! What is counted of instances.

use bowline_capacity::fleet::Class;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::file::Kind;

/// Counts and gauges; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub instances: Gauge,
    pub running: Gauge,
    pub repairs: Counter,
    pub replacements: Counter,
    pub held: Counter,
    /// Connections that are carried into virtual machines.
    pub connections: Gauge,
    /// Those that were one too many.
    pub connections_refused: Counter,
    /// Requests for a sandbox that went on to another place.
    pub passed: Counter,
    /// Instances that were drained because little was used.
    pub drained: Counter,
    /// Drained instances on which something ran past every limit.
    pub forced: Counter,
    /// Of cells that agents make ahead: the node's own counters of such.
    pub made_ahead: bowline_sandbox_linux::Metrics,
    warming: Family<KindLabels, Gauge>,
    warmed: Family<KindLabels, Counter>,
    scheduled: Family<KindLabels, Gauge>,
    spilled: Family<FleetLabels, Counter>,
    moved: Family<FleetLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FleetLabels {
    fleet: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

impl Metrics {
    /// Servers of a kind that wait for an owner.
    pub fn warming(&self, kind: Kind) -> Gauge {
        self.warming.get_or_create_owned(&KindLabels { kind: kind.to_string() })
    }

    /// Servers of a kind that are to wait now by the schedules of files.
    pub fn scheduled(&self, kind: Kind) -> Gauge {
        self.scheduled
            .get_or_create_owned(&KindLabels { kind: kind.to_string() })
    }

    /// Servers of a kind that had waited when somebody wanted one.
    pub fn warmed(&self, kind: Kind) -> Counter {
        self.warmed.get_or_create_owned(&KindLabels { kind: kind.to_string() })
    }

    /// Sandboxes that were meant for a fleet and made in another one.
    pub fn spilled(&self, meant_for: Class) -> Counter {
        let fleet = meant_for.to_string();
        self.spilled.get_or_create_owned(&FleetLabels { fleet })
    }

    /// Versions that came to a fleet since they are called more often, or less.
    pub fn moved(&self, to: Class) -> Counter {
        let fleet = to.to_string();
        self.moved.get_or_create_owned(&FleetLabels { fleet })
    }

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
        metrics.register_connections(registry);
        registry.register(
            "instances_passed",
            "Requests for a sandbox that went past an instance which failed, did not answer or had no room",
            metrics.passed.clone(),
        );
        registry.register(
            "instances_drained",
            "Instances that were drained because little of an account's was used",
            metrics.drained.clone(),
        );
        registry.register(
            "instances_forced",
            "Drained instances that were ended although something ran there, past every limit of time",
            metrics.forced.clone(),
        );
        registry.register(
            "instances_warming",
            "Servers without an owner that are ready for one",
            metrics.warming.clone(),
        );
        registry.register(
            "instances_scheduled",
            "Servers without an owner that are to be ready now by the schedules of files",
            metrics.scheduled.clone(),
        );
        registry.register(
            "instances_warmed",
            "Servers that were ready when an account needed its own",
            metrics.warmed.clone(),
        );
        registry.register(
            "fleet_spills",
            "Sandboxes that were meant for a fleet without room and made in another one",
            metrics.spilled.clone(),
        );
        registry.register(
            "fleet_moves",
            "Versions that came to a fleet by how often they are called",
            metrics.moved.clone(),
        );
        metrics
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register(
            "instance_connections",
            "Connections that are carried into virtual machines now",
            self.connections.clone(),
        );
        registry.register(
            "instance_connections_refused",
            "Connections to virtual machines that had as many as they may",
            self.connections_refused.clone(),
        );
    }
}
