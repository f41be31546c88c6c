//! What operators see of the functions at `/metrics`.

mod cluster;
mod events;
mod keeper;
mod mappings;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::SandboxKind;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub(crate) use cluster::{ClusterMetrics, Fallback};
pub(crate) use events::EventMetrics;
pub(crate) use keeper::KeeperMetrics;
pub(crate) use mappings::{Counted, EventCounts, MappingMetrics};

use crate::error::Throttle;
use crate::invoke::Rung;

/// A cheap handle to all counters of the service.
#[derive(Clone, Debug)]
pub struct Metrics {
    invocations: Family<FunctionLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    durations: Family<FunctionLabels, Histogram, fn() -> Histogram>,
    cold_starts: Family<FunctionLabels, Counter>,
    init_durations: Family<FunctionLabels, Histogram, fn() -> Histogram>,
    throttles: Family<ThrottleLabels, Counter>,
    sandboxes: Family<SandboxLabels, Gauge>,
    sandbox_memory: Family<KindLabels, Gauge>,
    pub(crate) log_bytes_dropped: Counter,
    pub(crate) events: EventMetrics,
    pub(crate) mappings: MappingMetrics,
    pub(crate) cluster: ClusterMetrics,
    pub(crate) keeper: KeeperMetrics,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FunctionLabels {
    function: String,
    kind: Kind,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    function: String,
    error: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ThrottleLabels {
    function: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SandboxLabels {
    kind: Kind,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Kind(SandboxKind);

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self.0 {
            SandboxKind::Wasm => "wasm",
            SandboxKind::Linux => "linux",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// Why an invocation failed, as coarse as a label must be.
const ERRORS: [&str; 6] = ["timeout", "exit", "init", "response_too_large", "handler", "platform"];

/// The kinds of errors, in the order of their counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Timeout,
    Exit,
    Init,
    ResponseTooLarge,
    Handler,
    Platform,
}

impl ErrorKind {
    /// The kind of a function's error.
    pub fn of(error_type: &str) -> Self {
        match error_type {
            "Sandbox.Timedout" | "Sandbox.Timeout" => Self::Timeout,
            "Function.ResponseSizeTooLarge" => Self::ResponseTooLarge,
            exit if exit.starts_with("Runtime.Exit") || exit == "Runtime.OutOfMemory" => Self::Exit,
            _ => Self::Handler,
        }
    }
}

fn durations() -> Histogram {
    // 100 us to 26 s, by factors of four.
    Histogram::new(exponential_buckets(0.000_1, 4.0, 10))
}

impl Default for Metrics {
    /// Counters that nobody sees.
    fn default() -> Self {
        Self {
            invocations: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(durations),
            cold_starts: Family::default(),
            init_durations: Family::new_with_constructor(durations),
            throttles: Family::default(),
            sandboxes: Family::default(),
            sandbox_memory: Family::default(),
            log_bytes_dropped: Counter::default(),
            events: EventMetrics::default(),
            mappings: MappingMetrics::default(),
            cluster: ClusterMetrics::default(),
            keeper: KeeperMetrics::default(),
        }
    }
}

impl Metrics {
    /// Makes the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let counted = [
            (
                "invocations",
                "Invocations that reached a sandbox",
                metrics.invocations.clone(),
            ),
            (
                "cold_starts",
                "Invocations that waited for a new sandbox",
                metrics.cold_starts.clone(),
            ),
        ];
        for (name, help, family) in counted {
            registry.register(name, help, family);
        }
        registry.register("errors", "Invocations that failed, by kind", metrics.errors.clone());
        registry.register(
            "throttles",
            "Invocations refused by a concurrency limit",
            metrics.throttles.clone(),
        );
        let timed = [
            (
                "invocation_duration",
                "Time from event to answer",
                metrics.durations.clone(),
            ),
            (
                "init_duration",
                "Time to create and initialise a sandbox",
                metrics.init_durations.clone(),
            ),
        ];
        for (name, help, family) in timed {
            registry.register_with_unit(name, help, Unit::Seconds, family);
        }
        registry.register("sandboxes", "Sandboxes that live", metrics.sandboxes.clone());
        let memory = metrics.sandbox_memory.clone();
        registry.register_with_unit(
            "sandbox_memory",
            "Memory of sandboxes as last measured",
            Unit::Bytes,
            memory,
        );
        metrics.events.register(registry);
        metrics.mappings.register(registry);
        metrics.cluster.register(registry);
        metrics.keeper.register(registry);
        let dropped = metrics.log_bytes_dropped.clone();
        registry.register_with_unit(
            "log_dropped",
            "Log bytes that the writer could not take",
            Unit::Bytes,
            dropped,
        );
        metrics
    }

    /// The counters of one function in one kind of sandbox, looked up once.
    pub(crate) fn of_function(&self, function: &str, kind: SandboxKind) -> FunctionMetrics {
        let labels = FunctionLabels {
            function: function.to_owned(),
            kind: Kind(kind),
        };
        let error = |error| ErrorLabels {
            function: function.to_owned(),
            error,
        };
        let sandboxes = |state| {
            let kind = Kind(kind);
            self.sandboxes.get_or_create_owned(&SandboxLabels { kind, state })
        };
        FunctionMetrics {
            invocations: self.invocations.get_or_create_owned(&labels),
            errors: ERRORS.map(|kind| self.errors.get_or_create_owned(&error(kind))),
            durations: self.durations.get_or_create_owned(&labels),
            cold_starts: self.cold_starts.get_or_create_owned(&labels),
            init_durations: self.init_durations.get_or_create_owned(&labels),
            idle: sandboxes("idle"),
            busy: sandboxes("busy"),
            memory: self
                .sandbox_memory
                .get_or_create_owned(&KindLabels { kind: Kind(kind) }),
            rungs: Rung::ALL.map(|rung| self.keeper.served(rung)),
            wasted: self.keeper.wasted.clone(),
        }
    }

    /// Shows the budget of memory; gives what counts the claims on it.
    pub(crate) fn memory_claimed(&self, budget: Mebibytes) -> Gauge {
        self.keeper
            .budget
            .set(i64::try_from(budget.bytes()).unwrap_or(i64::MAX));
        self.keeper.claimed.clone()
    }

    /// Counts a refused invocation.
    pub(crate) fn throttled(&self, function: &str, throttle: Throttle) {
        let labels = ThrottleLabels {
            function: function.to_owned(),
            reason: match throttle {
                Throttle::AccountConcurrency => "account",
                Throttle::ReservedConcurrency => "reserved",
                Throttle::EventQueue => "event_queue",
                Throttle::Memory => "memory",
            },
        };
        self.throttles.get_or_create(&labels).inc();
    }

    /// Forgets a deleted function.
    pub(crate) fn forget(&self, function: &str) {
        self.events.forget(function);
        for kind in [SandboxKind::Wasm, SandboxKind::Linux] {
            let labels = FunctionLabels {
                function: function.to_owned(),
                kind: Kind(kind),
            };
            self.invocations.remove(&labels);
            self.durations.remove(&labels);
            self.cold_starts.remove(&labels);
            self.init_durations.remove(&labels);
        }
        for error in ERRORS {
            let function = function.to_owned();
            self.errors.remove(&ErrorLabels { function, error });
        }
        for reason in ["account", "reserved", "event_queue", "memory"] {
            let function = function.to_owned();
            self.throttles.remove(&ThrottleLabels { function, reason });
        }
    }
}

/// The counters that an invocation touches.
#[derive(Debug)]
pub(crate) struct FunctionMetrics {
    pub invocations: Counter,
    errors: [Counter; ERRORS.len()],
    pub durations: Histogram,
    pub cold_starts: Counter,
    pub init_durations: Histogram,
    pub idle: Gauge,
    pub busy: Gauge,
    pub memory: Gauge,
    /// By rung, for all functions together.
    rungs: [Counter; Rung::ALL.len()],
    /// Sandboxes that were started ahead and never called.
    pub wasted: Counter,
}

impl FunctionMetrics {
    /// Counts an invocation that got a sandbox.
    pub fn served(&self, rung: Rung) {
        self.rungs[rung as usize].inc();
    }

    /// Counts a failed invocation.
    pub fn failed(&self, kind: ErrorKind) {
        self.errors[kind as usize].inc();
    }
}
