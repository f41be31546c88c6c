//! The record of an event source mapping.

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use super::{Record, RecordError};
use crate::model::events::{Mapping, MappingSettings, MappingStart, MappingState};
use crate::name::FunctionRef;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct MappingRecord {
    account: AccountId,
    /// The function with its qualifier, as `ACCOUNT:function:NAME[:QUALIFIER]`.
    function: String,
    source_arn: String,
    start: StartRecord,
    /// The session that reads the stream, or the address of the queue; none until it is made.
    session: Option<String>,
    is_enabled: bool,
    batch_size: u32,
    window_seconds: u32,
    parallelization: u32,
    age_seconds_max: Option<u32>,
    retries_max: Option<u32>,
    bisects: bool,
    reports_failures: bool,
    filters: Vec<String>,
    on_failure: Option<String>,
    last_modified: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency_max: Option<u32>,
    /// Absent from records of mappings that count nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    counts_events: bool,
    /// Absent from records of mappings without a tag.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum StartRecord {
    TrimHorizon,
    Latest,
    AtTimestamp(Timestamp),
}

impl Record for MappingRecord {
    const FORMAT: u32 = 1;
}

impl MappingRecord {
    pub fn new(from: &Mapping, session: Option<String>) -> Self {
        let settings = from.settings.clone();
        let function = &from.function;
        let qualifier = function.qualifier.as_ref();
        let qualifier = qualifier.map(|qualifier| format!(":{qualifier}")).unwrap_or_default();
        Self {
            account: from.account.clone(),
            function: format!("{}:function:{}{qualifier}", function.account, function.name),
            source_arn: from.source_arn.clone(),
            start: match from.start {
                MappingStart::TrimHorizon => StartRecord::TrimHorizon,
                MappingStart::Latest => StartRecord::Latest,
                MappingStart::AtTimestamp(at) => StartRecord::AtTimestamp(at),
            },
            session,
            is_enabled: settings.is_enabled,
            batch_size: settings.batch_size,
            window_seconds: settings.window_seconds,
            parallelization: settings.parallelization,
            age_seconds_max: settings.age_seconds_max,
            retries_max: settings.retries_max,
            bisects: settings.bisects,
            reports_failures: settings.reports_failures,
            filters: settings.filters,
            on_failure: settings.on_failure,
            last_modified: from.last_modified,
            concurrency_max: settings.concurrency_max,
            counts_events: settings.counts_events,
            tags: from.tags.clone(),
        }
    }

    /// The mapping whose key the record lay behind, and its session.
    pub fn into_model(self, id: String) -> Result<(Mapping, Option<String>), RecordError> {
        let function = FunctionRef::parse(&self.function, None, &self.account);
        let state = match (&self.session, self.is_enabled) {
            (None, _) => MappingState::Creating,
            (Some(_), true) => MappingState::Enabled,
            (Some(_), false) => MappingState::Disabled,
        };
        let mapping = Mapping {
            id,
            function: function.map_err(|_| RecordError::Value(self.function.clone()))?,
            account: self.account,
            source_arn: self.source_arn,
            start: match self.start {
                StartRecord::TrimHorizon => MappingStart::TrimHorizon,
                StartRecord::Latest => MappingStart::Latest,
                StartRecord::AtTimestamp(at) => MappingStart::AtTimestamp(at),
            },
            settings: MappingSettings {
                is_enabled: self.is_enabled,
                batch_size: self.batch_size,
                window_seconds: self.window_seconds,
                parallelization: self.parallelization,
                age_seconds_max: self.age_seconds_max,
                retries_max: self.retries_max,
                bisects: self.bisects,
                reports_failures: self.reports_failures,
                filters: self.filters,
                on_failure: self.on_failure,
                concurrency_max: self.concurrency_max,
                counts_events: self.counts_events,
            },
            last_modified: self.last_modified,
            state,
            last_result: "No records processed".to_owned(),
            tags: self.tags,
        };
        Ok((mapping, self.session))
    }
}
