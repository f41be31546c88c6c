//! What becomes of events: of those a caller leaves with a function, and of those a stream holds.

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;

use crate::events::arn;
use crate::name::{FunctionName, FunctionRef, Qualifier};

/// How the events of one function, version or alias are retried and where their outcomes go.
#[derive(Clone, Debug, PartialEq)]
pub struct EventInvokeConfig {
    pub account: AccountId,
    pub function: FunctionName,
    pub qualifier: Qualifier,
    pub settings: EventInvokeSettings,
    pub last_modified: Timestamp,
}

/// `None` means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventInvokeSettings {
    /// How often an event is tried again after the function's error: 0 to 2, by default 2.
    pub retries_max: Option<u32>,
    /// How old an event may be when it is tried: 60 to 21,600, by default 21,600.
    pub age_seconds_max: Option<u32>,
    /// ARNs of functions or streams.
    pub on_success: Option<String>,
    pub on_failure: Option<String>,
}

/// What `PutFunctionEventInvokeConfig` and `UpdateFunctionEventInvokeConfig` take. For an update, `None`
/// leaves a member as it is; an empty ARN removes a destination.
#[derive(Clone, Debug, Default)]
pub struct PutEventInvoke {
    pub retries_max: Option<i64>,
    pub age_seconds_max: Option<i64>,
    pub on_success: Option<String>,
    pub on_failure: Option<String>,
}

/// Whether a `PutFunctionEventInvokeConfig` replaces everything or an update changes what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    Replace,
    Merge,
}

/// A stream or a queue whose events a function is invoked with.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// A UUID.
    pub id: String,
    pub account: AccountId,
    pub function: FunctionRef,
    pub source_arn: String,
    /// Without meaning for a queue.
    pub start: MappingStart,
    pub settings: MappingSettings,
    pub last_modified: Timestamp,
    pub state: MappingState,
    /// What came of the last batch at this node.
    pub last_result: String,
    pub tags: BTreeMap<String, String>,
}

/// Where a mapping begins to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingStart {
    TrimHorizon,
    Latest,
    AtTimestamp(Timestamp),
}

impl Mapping {
    /// Whether it reads a queue, not a stream.
    pub fn reads_a_queue(&self) -> bool {
        matches!(arn::source(&self.source_arn), Ok(arn::Source::Queue(_)))
    }
}

/// What a mapping is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingState {
    Creating,
    Enabled,
    Disabled,
    Updating,
    Deleting,
}

/// How a mapping makes batches and what it does with those that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSettings {
    pub is_enabled: bool,
    /// 1 to 10,000; a batch of a stream has no more than 1,000 events whatever is asked.
    pub batch_size: u32,
    /// How long to gather a batch: 0 to 300.
    pub window_seconds: u32,
    /// Batches processed at once, of different keys: 1 to 10.
    pub parallelization: u32,
    /// Older events are given up: 60 to 604,800; none: never.
    pub age_seconds_max: Option<u32>,
    /// How often a batch is tried again after the function's error: 0 to 10,000; none: without end.
    pub retries_max: Option<u32>,
    /// Whether a failed batch is tried again in two halves.
    pub bisects: bool,
    /// Whether the function's answer may name the first event that failed.
    pub reports_failures: bool,
    /// Event patterns; an event passes if one of them fits, or if there are none.
    pub filters: Vec<String>,
    /// The ARN of a function or stream.
    pub on_failure: Option<String>,
    /// Of a queue: invocations at once, 2 to 1,000; none: no limit of its own.
    pub concurrency_max: Option<u32>,
    /// Whether its events are counted by what became of them.
    pub counts_events: bool,
}

impl Default for MappingSettings {
    fn default() -> Self {
        Self {
            is_enabled: true,
            batch_size: 100,
            window_seconds: 0,
            parallelization: 1,
            age_seconds_max: None,
            retries_max: None,
            bisects: false,
            reports_failures: false,
            filters: Vec::new(),
            on_failure: None,
            concurrency_max: None,
            counts_events: false,
        }
    }
}

/// What `CreateEventSourceMapping` takes.
#[derive(Clone, Debug)]
pub struct CreateMapping {
    pub function: FunctionRef,
    pub source_arn: String,
    /// A stream needs one, a queue has none.
    pub start: Option<MappingStart>,
    pub settings: MappingChange,
    pub tags: BTreeMap<String, String>,
}

/// What `UpdateEventSourceMapping` takes; `None` leaves a member as it is.
#[derive(Clone, Debug, Default)]
pub struct MappingChange {
    pub function: Option<FunctionRef>,
    pub is_enabled: Option<bool>,
    pub batch_size: Option<i64>,
    pub window_seconds: Option<i64>,
    pub parallelization: Option<i64>,
    /// -1: without end.
    pub age_seconds_max: Option<i64>,
    /// -1: without end.
    pub retries_max: Option<i64>,
    pub bisects: Option<bool>,
    pub reports_failures: Option<bool>,
    pub filters: Option<Vec<String>>,
    /// An empty ARN removes it.
    pub on_failure: Option<String>,
    /// `Some(None)` removes the limit.
    pub concurrency_max: Option<Option<i64>>,
    pub counts_events: Option<bool>,
}

/// Which mappings a list shows.
#[derive(Clone, Debug, Default)]
pub struct MappingFilter {
    pub function: Option<FunctionRef>,
    pub source_arn: Option<String>,
}
