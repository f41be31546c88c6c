//! `/v1/fleets`: which versions of an account are called often, and by what that is judged.

use std::time::Duration;

use bowline_capacity::fleet::Criteria;
use bowline_capacity::rate::Window;
use bowline_inventory::fleets::{Acquisition, FleetView, FleetsView, VersionView};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::params::{self, Params};
use super::super::problem::{Problem, ProblemView};
use super::super::{Ask, time};
use crate::body::Body;
use crate::reply;

/// By what a version is sent to a fleet. What is missing is as for everybody.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FleetCriteria {
    /// Over how long requests are counted: a multiple of ten seconds.
    window_seconds: u64,
    /// From so many requests a second on a version belongs to the high fleet.
    promote_at: f64,
    /// Below so many it leaves that one again; not above `promote_at`. Other fleets are left as far below their line.
    demote_at: f64,
    /// How long it stays where it is at least.
    dwell_seconds: u64,
    /// How long an idle sandbox of the low fleet stays at most.
    low_idle_seconds: u64,
}

impl Default for FleetCriteria {
    fn default() -> Self {
        Self::from(&Criteria::default())
    }
}

impl From<&Criteria> for FleetCriteria {
    fn from(criteria: &Criteria) -> Self {
        Self {
            window_seconds: criteria.window.length().as_secs(),
            promote_at: criteria.promote_at,
            demote_at: criteria.demote_at,
            dwell_seconds: criteria.dwell_min.as_secs(),
            low_idle_seconds: criteria.idle_max.as_secs(),
        }
    }
}

impl From<FleetCriteria> for Criteria {
    fn from(wanted: FleetCriteria) -> Self {
        // The buckets stay as they are: what is stored is counted in them.
        let bucket_seconds = Window::default().bucket_seconds;
        Self {
            window: Window {
                bucket_seconds,
                buckets: wanted.window_seconds.div_ceil(bucket_seconds),
            },
            promote_at: wanted.promote_at,
            demote_at: wanted.demote_at,
            dwell_min: Duration::from_secs(wanted.dwell_seconds),
            idle_max: Duration::from_secs(wanted.low_idle_seconds.max(1)),
        }
    }
}

/// An account's fleets on this node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Fleets {
    /// Whether its instances are in fleets: whether the file of one says `fleet = "high"` or, say, `"10+"`.
    in_use: bool,
    criteria: FleetCriteria,
    /// The fleet for the fewest requests first.
    fleets: Vec<Fleet>,
    /// Those that were called lately, or are above the low fleet.
    versions: Vec<FleetVersion>,
    /// The last hundred sandboxes that fleets had their instances make, the latest last.
    acquired: Vec<Acquired>,
}

/// A fleet: the instances for versions whose requests within the window lie in its band.
#[derive(Debug, Serialize, ToSchema)]
pub struct Fleet {
    /// `low`, `high`, or such as `10+`.
    fleet: String,
    /// With so many requests its band begins; it ends where that of the next fleet begins.
    from: u64,
    instances: Vec<String>,
}

/// A fleet had one of its instances make a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct Acquired {
    at: String,
    function: String,
    version: String,
    /// Requests for it within the window.
    count: u64,
    fleet: String,
    instance: String,
    /// Whether its own fleet had no room.
    spilled: bool,
}

/// Where a version belongs, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetVersion {
    function: String,
    version: String,
    /// `low`, `high`, or such as `10+`.
    fleet: String,
    /// Missing if it was never elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Requests within the window.
    count: u64,
    /// The same, ten seconds by ten seconds, where there are any.
    buckets: Vec<FleetBucket>,
}

/// How many requests came in ten seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetBucket {
    from: String,
    count: u64,
}

impl From<FleetsView> for Fleets {
    fn from(view: FleetsView) -> Self {
        Self {
            in_use: view.has_fleets,
            criteria: FleetCriteria::from(&view.criteria),
            fleets: view.fleets.into_iter().map(Fleet::from).collect(),
            versions: view.versions.into_iter().map(FleetVersion::from).collect(),
            acquired: view.acquired.into_iter().map(Acquired::from).collect(),
        }
    }
}

impl From<FleetView> for Fleet {
    fn from(view: FleetView) -> Self {
        Self {
            fleet: view.class.to_string(),
            from: view.from,
            instances: view.instances,
        }
    }
}

impl From<Acquisition> for Acquired {
    fn from(acquisition: Acquisition) -> Self {
        Self {
            at: time::text(acquisition.at),
            function: acquisition.function,
            version: acquisition.version,
            count: acquisition.count,
            fleet: acquisition.stand.fleet.to_string(),
            instance: acquisition.instance,
            spilled: acquisition.stand.is_spilled,
        }
    }
}

impl From<VersionView> for FleetVersion {
    fn from(view: VersionView) -> Self {
        let bucket = |(from, count)| FleetBucket {
            from: time::text(from),
            count,
        };
        Self {
            function: view.function,
            version: view.version,
            fleet: view.class.to_string(),
            since: (view.since.as_micros() > 0).then(|| time::text(view.since)),
            count: view.count,
            buckets: view.buckets.into_iter().map(bucket).collect(),
        }
    }
}

/// Which versions of an account are called often, as this node has seen it.
#[utoipa::path(get, path = "/v1/fleets", tag = "instances", operation_id = "ShowFleets",
    params(("account" = Option<String>, Query, description = "Whose; the caller's if missing")),
    responses(
        (status = 200, body = Fleets),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let view = ask.instances()?.fleets(&ask.owner(&params)?.account).await?;
    Ok(reply::json(StatusCode::OK, &Fleets::from(view)))
}

/// Change by what an account's versions are sent to its fleets; they move once they have dwelt where they are.
#[utoipa::path(put, path = "/v1/fleets", tag = "instances", operation_id = "SetFleets",
    params(("account" = Option<String>, Query, description = "Whose; the caller's if missing")),
    request_body = FleetCriteria,
    responses(
        (status = 200, body = Fleets),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn set(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let wanted: FleetCriteria = params::json(&body)?;
    let view = ask
        .instances()?
        .set_criteria(&ask.owner(&params)?, wanted.into())
        .await?;
    Ok(reply::json(StatusCode::OK, &Fleets::from(view)))
}
