//! Sizes of functions: `/v1/functions/{name}/sizing`, which Lambda leaves to its owners' tools.

use bowline_functions::model::sizing::{Change, Mode, Outcome, Profile, Reason, Sample, SizingChange};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::function;
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;

/// A size as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    mode: Mode,
    /// What the configuration asks for.
    requested_mib: u32,
    /// What new sandboxes get.
    effective_mib: u32,
    /// Runs that the next judgement is made of.
    samples: usize,
    suggestion: Option<ShownChange>,
    /// Oldest first.
    history: Vec<ShownChange>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownChange {
    from_mib: u32,
    to_mib: u32,
    reason: Reason,
    is_capped: bool,
    evidence: Vec<ShownSample>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSample {
    /// The last sixteen digits of the request's identifier.
    run: String,
    limit_mib: u32,
    peak_mib: u32,
    duration_ms: u64,
    outcome: Outcome,
}

/// What is asked for; exactly one member.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Wanted {
    Mode(Mode),
    Accept {},
    RollBack {},
}

/// `GET`: the size, why it is so, and what is suggested.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let profile = call.node.functions.sizing(&function(call)?)?;
    Ok(reply::json(StatusCode::OK, &Shown::from(&profile)))
}

/// `POST`: `{"mode": "auto"|"suggest"|"off"}`, `{"accept": {}}` or `{"rollBack": {}}`.
pub async fn change(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let target = function(call)?;
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        let expected = r#"expected {"mode": "auto", "suggest" or "off"}, {"accept": {}} or {"rollBack": {}}"#;
        ApiError::new(Exception::InvalidRequestContent, format!("{error}: {expected}"))
    })?;
    let change = match wanted {
        Wanted::Mode(mode) => SizingChange::Mode(mode),
        Wanted::Accept {} => SizingChange::Accept,
        Wanted::RollBack {} => SizingChange::RollBack,
    };
    let caller = call.caller();
    let changed = call.node.functions.change_sizing(&caller, &target, change).await?;
    Ok(reply::json(StatusCode::OK, &Shown::from(&changed)))
}

impl From<&Profile> for Shown {
    fn from(from: &Profile) -> Self {
        Self {
            mode: from.mode(),
            requested_mib: from.requested().0,
            effective_mib: from.effective().0,
            samples: from.samples().count(),
            suggestion: from.suggestion().map(ShownChange::from),
            history: from.history().iter().map(ShownChange::from).collect(),
        }
    }
}

impl From<&Change> for ShownChange {
    fn from(from: &Change) -> Self {
        Self {
            from_mib: from.from.0,
            to_mib: from.to.0,
            reason: from.reason,
            is_capped: from.is_capped,
            evidence: from.evidence.iter().map(ShownSample::from).collect(),
        }
    }
}

impl From<&Sample> for ShownSample {
    fn from(from: &Sample) -> Self {
        Self {
            run: format!("{:016x}", from.run.0),
            limit_mib: from.limit.0,
            peak_mib: from.peak.0,
            duration_ms: from.duration_ms,
            outcome: from.outcome,
        }
    }
}
