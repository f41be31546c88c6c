//! Streams, sessions and objects on the wire: one REST API under `/v1`.
//!
//! ```text
//!   dispatch ─▶ route::data ─▶ answer ─▶ streams ─▶ bowline_stream::Handle
//!                                    ├─▶ sessions ─▶ bowline_stream::session::Handle
//!                                    ├─▶ objects  ─▶ bowline_store::objects::Objects
//!                                    └─▶ checkpoints ─▶ bowline_functions::Handle
//! ```
//! Nothing here knows the Lambda wire: a refusal is a [`problem`], whatever the operation. A reader that waits
//! ends with its connection.

pub mod append;
mod checkpoints;
mod event;
mod instances;
mod list;
pub mod metrics;
mod nodes;
mod objects;
mod openapi;
mod params;
mod problem;
mod sessions;
mod state;
mod streams;
mod tail;
pub(crate) mod time;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use bowline_store::objects::Objects;
use bowline_stream::{StreamId, session};
use bytes::Bytes;
use http::header::EXPECT;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::RwLock;

use self::metrics::DataMetrics;
use self::problem::{Code, Problem};
use crate::auth::Refusal;
use crate::body::{self, Body, CollectError};
use crate::dispatch::{Asked, Call, Node};
use crate::route::{self, Operation, RouteError};
use crate::{origin, reply};

/// Largest body of an append: what a stream takes at once, with room for base64 and names.
const APPEND_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest body of an object's change, likewise.
const OBJECT_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of everything else.
const CONTROL_BODY_BYTES_MAX: usize = 64 * 1024;
/// Most names of streams that are remembered.
const NAMES_MAX: usize = 10_000;

/// What the node serves beside functions.
pub struct Data {
    pub streams: bowline_stream::Handle,
    pub sessions: session::Handle,
    pub objects: Objects,
    pub metrics: DataMetrics,
    pub instances: OnceLock<bowline_inventory::Handle>,
    /// The object stores that fail together with others, and those.
    neighbours: BTreeMap<String, Vec<String>>,
    /// Streams by name: a path may leave out the number of chains.
    names: RwLock<HashMap<String, StreamId>>,
}

impl Data {
    pub fn new(
        streams: bowline_stream::Handle,
        sessions: session::Handle,
        objects: Objects,
        metrics: DataMetrics,
    ) -> Self {
        Self {
            streams,
            sessions,
            objects,
            metrics,
            instances: OnceLock::new(),
            neighbours: BTreeMap::new(),
            names: RwLock::default(),
        }
    }

    /// The same with object stores that are not independent, and those with which each fails.
    pub fn with_neighbours(self, neighbours: BTreeMap<String, Vec<String>>) -> Self {
        Self { neighbours, ..self }
    }

    /// Serves the node's instances too, from now on.
    pub fn serve_instances(&self, instances: bowline_inventory::Handle) {
        // A second time would be the same handle.
        let _ = self.instances.set(instances);
    }

    /// The stream that a text means: an identifier, or a name alone.
    async fn stream(&self, text: &str) -> Result<StreamId, Problem> {
        if text.contains('~') {
            return text.parse().map_err(Problem::identifier);
        }
        StreamId::new(text, streams::CHAINS_DEFAULT).map_err(Problem::identifier)?;
        if let Some(known) = self.names.read().get(text) {
            return Ok(known.clone());
        }
        let found = self.streams.list().await?;
        let found = found.into_iter().find(|stream| stream.name() == text);
        let found = found.ok_or_else(|| Problem::new(Code::NoSuchStream, format!("stream `{text}` does not exist")))?;
        let mut names = self.names.write();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(text.to_owned(), found.clone());
        Ok(found)
    }

    /// A name that was remembered may mean another stream by now.
    fn forget(&self, text: &str) {
        self.names.write().remove(text);
    }
}

/// What the names of the node's own streams begin with.
const RESERVED_PREFIX: &str = "bowline.";

/// Answers a request of this wire.
pub async fn answer(node: &Node, asked: Asked<'_>, body: Incoming) -> Response<Body> {
    let (request_id, resource) = (asked.request_id, asked.route.resource.clone());
    match run(node, asked, body).await {
        Ok(response) => response,
        Err(problem) => {
            if problem.is_internal() {
                tracing::error!(%request_id, error = %problem, "operation failed");
            }
            if let (Code::NoSuchStream, Some(data)) = (problem.code, &node.data) {
                data.forget(&resource);
            }
            problem.response()
        }
    }
}

/// The refusal of a path or a method that this wire does not have.
pub fn unrouted(error: RouteError, target: &str) -> Response<Body> {
    let problem = match error {
        RouteError::Unknown => Problem::new(Code::NotFound, "there is no such path; `/v1/openapi.json` lists all"),
        RouteError::Method => Problem::method(route::data::allowed(target)),
        RouteError::Encoding => Problem::identifier(error),
    };
    problem.response()
}

async fn run(node: &Node, asked: Asked<'_>, body: Incoming) -> Result<Response<Body>, Problem> {
    let (head, route) = (asked.head, asked.route);
    origin::check(&head.headers).map_err(|error| Problem::new(Code::Forbidden, error.to_string()))?;
    let unproven = |refusal: Refusal| Problem::new(Code::NotAuthenticated, refusal.to_string());
    let proof = asked.proof.map_err(unproven)?;
    let bytes_max = bytes_max(route.operation);
    let body = body::collect(body, bytes_max, head.headers.contains_key(EXPECT));
    let body = body.await.map_err(|error| match error {
        CollectError::TooLarge { .. } => Problem::new(Code::TooLarge, error.to_string()),
        CollectError::Broken(_) => Problem::new(Code::InvalidBody, error.to_string()),
    })?;
    let identity = proof.finish(head, &body).await.map_err(unproven)?;
    let call = Call::new(node, head, route, asked.request_id, identity);
    if !route::data::is_of_accounts(call.route.operation) {
        operator_only(&call)?;
    }
    let data = node.data.clone();
    let data = data.ok_or_else(|| Problem::new(Code::Unavailable, "this node serves functions only"))?;
    let ask = Ask {
        call: &call,
        data: &data,
    };
    perform(&ask, body).await
}

/// Streams, sessions and objects belong to no account: where accounts are told apart, to the operator's alone.
fn operator_only(call: &Call<'_>) -> Result<(), Problem> {
    if call.key.is_none() || call.node.auth.is_operator(&call.account) {
        return Ok(());
    }
    let detail = format!(
        "account {} has no streams, sessions, objects, checkpoints and instances: they are the operator's",
        call.account
    );
    Err(Problem::new(Code::Forbidden, detail))
}

/// Refuses changes of the node's own streams, whose events it trusts.
fn not_reserved(stream: &StreamId) -> Result<(), Problem> {
    if !stream.name().starts_with(RESERVED_PREFIX) {
        return Ok(());
    }
    let detail = format!("names that begin with `{RESERVED_PREFIX}` are the node's own: `{stream}` can only be read");
    Err(Problem::new(Code::ReservedName, detail))
}

/// A request of this wire with what it is about.
struct Ask<'a> {
    call: &'a Call<'a>,
    data: &'a Arc<Data>,
}

impl Ask<'_> {
    /// The stream that the path names.
    async fn stream(&self) -> Result<StreamId, Problem> {
        self.data.stream(&self.call.route.resource).await
    }

    /// The stream that the path names, for a change of it.
    async fn own_stream(&self) -> Result<StreamId, Problem> {
        let stream = self.stream().await?;
        not_reserved(&stream)?;
        Ok(stream)
    }

    /// A header as text.
    fn header(&self, name: &str) -> Option<&str> {
        self.call.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The client's token of a creation or a change.
    fn token(&self) -> Option<String> {
        self.header("idempotency-key").map(str::to_owned)
    }

    /// Whether the client takes this media type rather than JSON.
    fn accepts(&self, media: &str) -> bool {
        self.header("accept").is_some_and(|accept| accept.contains(media))
    }

    /// Completes when the server stops.
    async fn stopping(&self) {
        let mut stopping = self.call.node.stopping.clone();
        let _ = stopping.wait_for(|stop| *stop).await;
    }
}

async fn perform(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    match ask.call.route.operation {
        Operation::AppendEvents => streams::events::append(ask, body).await,
        // Boxed, so that an append's future stays small.
        _ => Box::pin(perform_other(ask, body)).await,
    }
}

async fn perform_other(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    match ask.call.route.operation {
        Operation::ReadEvents => streams::events::read(ask).await,
        Operation::CreateStream => streams::create(ask, body).await,
        Operation::ListStreams => streams::list(ask).await,
        Operation::ShowStream => streams::show(ask).await,
        Operation::TrimStream => streams::trim(ask, body).await,
        Operation::SetStream => streams::set(ask, body).await,
        Operation::DeleteStream => streams::delete(ask).await,
        Operation::CreateSession => sessions::create(ask, body).await,
        Operation::ListSessions => sessions::list(ask).await,
        Operation::ShowSession => sessions::show(ask).await,
        Operation::DeleteSession => sessions::delete(ask).await,
        Operation::SeekSession => sessions::seek(ask, body).await,
        Operation::ReadBatch => sessions::batch::read(ask, body).await,
        Operation::AckBatch => sessions::batch::ack(ask).await,
        Operation::NackBatch => sessions::batch::nack(ask, body).await,
        Operation::ExtendBatch => sessions::batch::extend(ask, body).await,
        Operation::ListParked => sessions::parked::list(ask).await,
        Operation::RedriveParked => sessions::parked::redrive(ask, body).await,
        Operation::DropParked => sessions::parked::discard(ask, body).await,
        Operation::CreateObject => objects::create(ask, body).await,
        Operation::QueryObjects => objects::query::run(ask).await,
        Operation::GetObject => objects::get(ask).await,
        Operation::UpdateObject => objects::update(ask, body).await,
        Operation::DeleteObject => objects::delete(ask).await,
        Operation::ListObjectEvents => objects::query::events(ask).await,
        Operation::ListStores => objects::stores(ask).await,
        Operation::ListNodes => nodes::list(ask).await,
        Operation::CreateState => state::create(ask, body).await,
        Operation::ListStates => state::list(ask).await,
        Operation::ShowState => state::show(ask).await,
        Operation::DeleteState => state::delete(ask).await,
        Operation::ReadState => state::read(ask).await,
        Operation::AttachState => state::attach(ask, body).await,
        Operation::DetachState => state::detach(ask).await,
        Operation::ListCheckpoints => checkpoints::list(ask).await,
        Operation::ShowCheckpoint => checkpoints::show(ask).await,
        Operation::ReadCheckpoint => checkpoints::content(ask).await,
        Operation::ReadOutcome => checkpoints::outcome(ask).await,
        Operation::TakeCheckpoint => checkpoints::take(ask, body).await,
        Operation::ResumeCheckpoint => checkpoints::resume(ask).await,
        Operation::MoveCheckpoint => checkpoints::relocate(ask, body).await,
        Operation::DeleteCheckpoint => checkpoints::delete(ask).await,
        Operation::CreateInstance => instances::create(ask, body).await,
        Operation::ListInstances => instances::list(ask).await,
        Operation::ShowInstance => instances::show(ask).await,
        Operation::DeleteInstance => instances::delete(ask).await,
        Operation::DrainInstance => instances::drain(ask, body).await,
        Operation::ReportInstance => instances::report(ask, body).await,
        Operation::ResumeInstance => instances::resume(ask).await,
        Operation::ShowInstanceHistory => instances::history(ask).await,
        Operation::ShowInstanceInventory => instances::inventory(ask).await,
        Operation::PutInstanceFile => instances::files::put(ask, body).await,
        Operation::GetInstanceFile => instances::files::get(ask).await,
        Operation::ListInstanceFiles => instances::files::list(ask).await,
        Operation::DeleteInstanceFile => instances::files::delete(ask).await,
        Operation::ShowFleets => instances::fleets::show(ask).await,
        Operation::SetFleets => instances::fleets::set(ask, body).await,
        Operation::PutCost => instances::costs::put(ask, body).await,
        Operation::ListCosts => instances::costs::list(ask).await,
        Operation::GetOpenApi => openapi::serve().await,
        other => Err(Problem::new(
            Code::Internal,
            format!("operation `{}` is not of this wire", other.name()),
        )),
    }
}

fn bytes_max(operation: Operation) -> usize {
    match operation {
        Operation::AppendEvents => APPEND_BODY_BYTES_MAX,
        Operation::CreateObject | Operation::UpdateObject => OBJECT_BODY_BYTES_MAX,
        _ => CONTROL_BODY_BYTES_MAX,
    }
}

/// 201 with where the new thing is.
fn created(location: &str, view: &impl serde::Serialize) -> Response<Body> {
    let mut response = reply::json(StatusCode::CREATED, view);
    let location = location.parse().expect("identifiers are header values");
    response.headers_mut().insert(http::header::LOCATION, location);
    response
}
