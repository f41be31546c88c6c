//! `/v1/sessions`: places in a stream that the service remembers for its readers.

pub mod batch;
pub mod parked;

use bowline_stream::session::{
    Caller, CreateRequest, InFlight, Mode, Order, Overview, SessionId, Settings, Start, State, limits,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

use super::event::{FROM_WANTED, Place, position_text};
use super::list::ListPage;
use super::params::{self, Params};
use super::problem::{Code, Problem, ProblemView};
use super::streams::millis;
use super::{Ask, created, time};
use crate::body::Body;
use crate::reply;

/// A session to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Name or identifier of the stream.
    stream: String,
    /// `oldest` (default), `latest`, an RFC 3339 time, or a position: after it.
    #[serde(default)]
    from: Option<String>,
    /// What happens to a batch whose reader is lost; `at_least_once` if missing.
    #[serde(default)]
    mode: Option<ModeView>,
    /// `free` if missing.
    #[serde(default)]
    order: Option<OrderView>,
    /// How long a reader has to acknowledge a batch; 30000 if missing.
    #[serde(default)]
    lease_ms: Option<u64>,
    /// How often a batch is given out before it is parked, 0: without end; 5 if missing.
    #[serde(default)]
    attempts_max: Option<u32>,
    /// How long the session lives without a read; a day if missing.
    #[serde(default)]
    idle_ttl_ms: Option<u64>,
    /// A CEL expression over `body`, `key`, `at` and `id`; only events for which it is true are given out.
    #[serde(default)]
    filter: Option<String>,
    /// For people.
    #[serde(default)]
    name: Option<String>,
}

/// What happens to a batch whose answer or whose reader is lost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Mode)]
#[serde(rename_all = "snake_case")]
enum ModeView {
    /// It is lost; nothing is given out twice.
    AtMostOnce,
    /// It is given out again after its lease, until it is acknowledged.
    AtLeastOnce,
}

/// Which events may be with readers at the same time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Order)]
#[serde(rename_all = "snake_case")]
enum OrderView {
    /// Any.
    Free,
    /// Of one key at most one batch.
    PerKey,
}

/// What names a session.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionName {
    /// 32 hexadecimal digits.
    session: String,
    /// The stream's identifier.
    stream: String,
}

/// A session as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    #[serde(flatten)]
    names: SessionName,
    name: String,
    mode: ModeView,
    order: OrderView,
    lease_ms: u64,
    /// Missing: without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts_max: Option<u32>,
    idle_ttl_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// Where it began, in words.
    start: String,
    created: String,
    /// When it expires, or did, unless somebody reads.
    expires: String,
    /// `active` or `expired`.
    state: &'static str,
    /// Everything up to here has been given out, skipped or withheld.
    cursor: String,
    /// How long the oldest event that was given to nobody has been waiting.
    lag_ms: u64,
    /// Batches that are not settled.
    in_flight: Vec<InFlightView>,
    waiting_batches: u64,
    parked_batches: u64,
    withheld_events: u64,
    /// Events that the filter left out.
    skipped_events: u64,
    filter_errors: u64,
}

/// A batch that is not settled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InFlight)]
struct InFlightView {
    batch: u64,
    from: String,
    to: String,
    events: u32,
    attempts: u32,
    worker: String,
    sent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    /// Why it failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Where a session goes on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Seek {
    /// `oldest`, `latest`, an RFC 3339 time, or a position: after it.
    to: String,
}

/// Where a session stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cursor {
    cursor: String,
}

impl From<Place> for Start {
    fn from(place: Place) -> Self {
        match place {
            Place::Oldest => Self::Oldest,
            Place::Latest => Self::Latest,
            Place::Time(moment) => Self::AtTime(moment),
            Place::Position(position) => Self::After(position),
        }
    }
}

impl CreateSession {
    fn settings(&mut self) -> Settings {
        let default = Settings::default();
        Settings {
            mode: self.mode.map_or(default.mode, |mode| match mode {
                ModeView::AtMostOnce => Mode::AtMostOnce,
                ModeView::AtLeastOnce => Mode::AtLeastOnce,
            }),
            order: self.order.map_or(default.order, |order| match order {
                OrderView::Free => Order::Free,
                OrderView::PerKey => Order::PerKey,
            }),
            lease: self.lease_ms.map_or(default.lease, Duration::from_millis),
            attempts_max: match self.attempts_max {
                None => default.attempts_max,
                Some(0) => None,
                attempts => attempts,
            },
            idle_ttl: self.idle_ttl_ms.map_or(default.idle_ttl, Duration::from_millis),
            filter: self.filter.take(),
            name: self.name.take().unwrap_or_default(),
        }
    }
}

impl SessionView {
    fn of(id: &SessionId, overview: Overview) -> Self {
        let (settings, stat) = (overview.settings, overview.stat);
        Self {
            names: SessionName {
                session: id.to_string(),
                stream: overview.stream.to_string(),
            },
            name: settings.name,
            mode: match settings.mode {
                Mode::AtMostOnce => ModeView::AtMostOnce,
                Mode::AtLeastOnce => ModeView::AtLeastOnce,
            },
            order: match settings.order {
                Order::Free => OrderView::Free,
                Order::PerKey => OrderView::PerKey,
            },
            lease_ms: millis(settings.lease),
            attempts_max: settings.attempts_max,
            idle_ttl_ms: millis(settings.idle_ttl),
            filter: settings.filter,
            start: overview.start,
            created: time::text(overview.created_at),
            expires: time::text(overview.expires_at),
            state: match overview.state {
                State::Active => "active",
                State::Expired => "expired",
            },
            cursor: position_text(overview.cursor),
            lag_ms: millis(stat.lag),
            in_flight: overview.in_flight.into_iter().map(InFlightView::of).collect(),
            waiting_batches: stat.waiting_sets,
            parked_batches: stat.parked_sets,
            withheld_events: stat.withheld_events,
            skipped_events: stat.skipped_events,
            filter_errors: stat.filter_errors,
        }
    }
}

impl InFlightView {
    fn of(set: InFlight) -> Self {
        Self {
            batch: set.batch,
            from: position_text(set.from),
            to: position_text(set.to),
            events: set.events,
            attempts: set.attempts,
            worker: set.worker,
            sent: time::text(set.sent_at),
            due: set.due_at.map(time::text),
            reason: set.reason,
        }
    }
}

impl Ask<'_> {
    /// The session that the path names.
    fn session(&self) -> Result<SessionId, Problem> {
        self.call.route.resource.parse().map_err(Problem::identifier)
    }

    /// Who asks, for the audit rows.
    pub(super) fn session_caller(&self) -> Caller {
        Caller {
            who: self.call.account.to_string(),
            request_id: self.call.request_id.to_string(),
        }
    }
}

/// Make a session on a stream.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", operation_id = "CreateSession",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again names the session it made")),
    request_body = CreateSession,
    responses(
        (status = 201, body = SessionName, description = "Made", headers(("Location" = String, description = "Its path"))),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let mut request: CreateSession = params::json(&body)?;
    let stream = ask.data.stream(&request.stream).await?;
    let from = request.from.as_deref().unwrap_or("oldest");
    let create = CreateRequest {
        stream: stream.clone(),
        start: start(from, "from")?,
        settings: request.settings(),
        client_token: ask.token(),
    };
    let session = ask.data.sessions.create(&ask.session_caller(), create).await;
    let session = session.inspect_err(|_| ask.data.forget(&request.stream))?;
    let view = SessionName {
        session: session.to_string(),
        stream: stream.to_string(),
    };
    Ok(created(&format!("/v1/sessions/{session}"), &view))
}

fn start(text: &str, field: &str) -> Result<Start, Problem> {
    let place = Place::read(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Problem::new(
            Code::InvalidBody,
            format!("`{field}` is `{shown}`, expected {FROM_WANTED}"),
        )
    });
    place.map(Start::from)
}

/// List the sessions of a stream.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", operation_id = "ListSessions",
    params(
        ("stream" = String, Query, description = "Name or identifier of the stream"),
        ("limit" = Option<usize>, Query, description = "1 to 100; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<SessionName>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["stream", "limit", "next"])?;
    let limit = params.number("limit", limits::PAGE_MAX, 1..=limits::PAGE_MAX)?;
    let stream = ask.data.stream(params.needed("stream")?).await?;
    let next = params.parsed("next", "the `next` of a page", |text| text.parse().ok())?;
    let mut sessions = ask.data.sessions.list(&stream, next.as_ref()).await?;
    let more = sessions.len() > limit || sessions.len() == limits::PAGE_MAX;
    sessions.truncate(limit);
    let name = |session: &SessionId| SessionName {
        session: session.to_string(),
        stream: stream.to_string(),
    };
    let page = ListPage {
        next: sessions.last().filter(|_| more).map(ToString::to_string),
        items: sessions.iter().map(name).collect(),
    };
    Ok(reply::json(StatusCode::OK, &page))
}

/// Show a session.
#[utoipa::path(get, path = "/v1/sessions/{session}", tag = "sessions", operation_id = "ShowSession",
    params(("session" = String, Path, description = "The session's identifier")),
    responses(
        (status = 200, body = SessionView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let session = ask.session()?;
    let overview = ask.data.sessions.show(&session).await?;
    Ok(reply::json(StatusCode::OK, &SessionView::of(&session, overview)))
}

/// End a session.
#[utoipa::path(delete, path = "/v1/sessions/{session}", tag = "sessions", operation_id = "DeleteSession",
    params(("session" = String, Path, description = "The session's identifier")),
    responses(
        (status = 204, description = "Gone, with all its batches"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    ask.data.sessions.delete(&ask.session_caller(), &ask.session()?).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Move a session: what is in flight is forgotten, what is parked stays.
#[utoipa::path(post, path = "/v1/sessions/{session}/seek", tag = "sessions", operation_id = "SeekSession",
    params(("session" = String, Path, description = "The session's identifier")),
    request_body = Seek,
    responses(
        (status = 200, body = Cursor),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn seek(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: Seek = params::json(&body)?;
    let to = start(&request.to, "to")?;
    let cursor = ask
        .data
        .sessions
        .seek(&ask.session_caller(), &ask.session()?, to)
        .await?;
    let cursor = position_text(cursor);
    Ok(reply::json(StatusCode::OK, &Cursor { cursor }))
}
