//! `/v1/sessions/{session}/parked`: batches whose attempts are used up.

use bowline_stream::session::{ParkedSet, Pick, limits};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::event::position_text;
use super::super::list::ListPage;
use super::super::params::{self, Params};
use super::super::problem::{Problem, ProblemView};
use super::super::{Ask, time};
use crate::body::Body;
use crate::reply;

/// A parked batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct Parked {
    batch: u64,
    /// The positions of its events, as far as the stream still holds them.
    events: Vec<String>,
    attempts: u32,
    /// Who had it last.
    worker: String,
    first_sent: String,
    parked: String,
    /// Why it failed last; missing if its lease ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Which parked batches.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Their numbers; all if missing. A redrive of all takes the oldest that there is room for.
    #[serde(default)]
    batches: Option<Vec<u64>>,
}

/// How many batches were meant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Count {
    count: usize,
}

impl Parked {
    fn of(set: ParkedSet) -> Self {
        Self {
            batch: set.batch,
            events: set.events.into_iter().map(position_text).collect(),
            attempts: set.attempts,
            worker: set.worker,
            first_sent: time::text(set.first_sent_at),
            parked: time::text(set.parked_at),
            reason: set.reason,
        }
    }
}

fn pick(body: &[u8]) -> Result<Pick, Problem> {
    let which: Which = params::json(body)?;
    Ok(which.batches.map_or(Pick::All, Pick::Sets))
}

/// List the parked batches.
#[utoipa::path(get, path = "/v1/sessions/{session}/parked", tag = "sessions", operation_id = "ListParked",
    params(
        ("session" = String, Path, description = "The session's identifier"),
        ("limit" = Option<usize>, Query, description = "1 to 100; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<Parked>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["limit", "next"])?;
    let limit = params.number("limit", limits::PAGE_MAX, 1..=limits::PAGE_MAX)?;
    let next = params.parsed("next", "the `next` of a page", |text| text.parse().ok())?;
    let mut sets = ask.data.sessions.parked(&ask.session()?, next).await?;
    let more = sets.len() > limit || sets.len() == limits::PAGE_MAX;
    sets.truncate(limit);
    let page = ListPage {
        next: sets.last().filter(|_| more).map(|set| set.batch.to_string()),
        items: sets.into_iter().map(Parked::of).collect(),
    };
    Ok(reply::json(StatusCode::OK, &page))
}

/// Give parked batches out again, with all their attempts.
#[utoipa::path(post, path = "/v1/sessions/{session}/parked/redrive", tag = "sessions", operation_id = "RedriveParked",
    params(("session" = String, Path, description = "The session's identifier")),
    request_body = Which,
    responses(
        (status = 200, body = Count),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn redrive(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let sessions = &ask.data.sessions;
    let count = sessions
        .redrive(&ask.session_caller(), &ask.session()?, pick(&body)?)
        .await?;
    Ok(reply::json(StatusCode::OK, &Count { count }))
}

/// Forget parked batches.
#[utoipa::path(post, path = "/v1/sessions/{session}/parked/drop", tag = "sessions", operation_id = "DropParked",
    params(("session" = String, Path, description = "The session's identifier")),
    request_body = Which,
    responses(
        (status = 200, body = Count),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn discard(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let sessions = &ask.data.sessions;
    let count = sessions
        .drop_parked(&ask.session_caller(), &ask.session()?, pick(&body)?)
        .await?;
    Ok(reply::json(StatusCode::OK, &Count { count }))
}
