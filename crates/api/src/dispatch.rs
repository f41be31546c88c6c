//! From a request to its answer: route, read the body, run the operation, count and log it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bowline_aws::s3::S3;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::limits::{CREATE_REQUEST_BYTES_MAX, SYNC_PAYLOAD_BYTES_MAX};
use bowline_functions::Handle;
use bowline_functions::durable::limits::CHECKPOINT_BODY_BYTES_MAX;
use bowline_functions::model::Caller;
use bowline_functions::name::FunctionRef;
use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::auth::keys::AccessKey;
use crate::auth::{Auth, Identity, Peer, Proof, Refusal};
use crate::body::{self, Body, CollectError};
use crate::data::{self, Data};
use crate::error::{ApiError, Exception};
use crate::lambda;
use crate::metrics::HttpMetrics;
use crate::native;
use crate::origin;
use crate::reply;
use crate::route::{self, Operation, Route};
use crate::server::Options;
use crate::url::{self, Target, UrlRequest};

/// Largest body of the operations that carry neither code nor an event.
const CONTROL_BYTES_MAX: usize = 1024 * 1024;

/// What every connection shares.
pub struct Node {
    pub functions: Handle,
    pub clock: Clock,
    pub entropy: Entropy,
    pub region: String,
    pub account: AccountId,
    pub auth: Arc<Auth>,
    /// `http` or `https`, for links.
    pub scheme: &'static str,
    pub local_addr: SocketAddr,
    pub metrics: Arc<HttpMetrics>,
    pub http_registry: Registry,
    pub registry: Arc<Registry>,
    pub data: Option<Arc<Data>>,
    /// Where packages may be fetched from.
    pub objects: Option<S3>,
    /// Turns true when the server stops; long answers end then.
    pub stopping: watch::Receiver<bool>,
}

impl Node {
    pub fn new(options: Options, local_addr: SocketAddr, stopping: watch::Receiver<bool>) -> Self {
        let metrics = Arc::new(HttpMetrics::new());
        Self {
            functions: options.functions,
            clock: options.clock,
            entropy: options.entropy,
            region: options.region,
            account: options.account,
            auth: options.auth,
            scheme: if options.tls.is_some() { "https" } else { "http" },
            local_addr,
            http_registry: HttpMetrics::registry(&metrics),
            metrics,
            registry: options.registry,
            data: options.data,
            objects: options.objects,
            stopping,
        }
    }
}

impl Node {
    /// Refuses a name of a function that says it is in another region.
    pub fn reachable(&self, function: &str) -> Result<(), ApiError> {
        match FunctionRef::region(function) {
            Some(region) if region != self.region => Err(ApiError::new(
                Exception::ResourceNotFound,
                format!(
                    "Functions from '{region}' are not reachable in this region ('{}')",
                    self.region
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// A request whose operation is known.
pub struct Call<'a> {
    pub node: &'a Node,
    pub headers: &'a HeaderMap,
    pub route: Route<'a>,
    pub request_id: RequestId,
    pub account: AccountId,
    /// What the request was signed with; none on an open node.
    pub key: Option<Arc<AccessKey>>,
}

impl<'a> Call<'a> {
    pub fn new(node: &'a Node, head: &'a Parts, route: Route<'a>, request_id: RequestId, identity: Identity) -> Self {
        Self {
            node,
            headers: &head.headers,
            request_id,
            account: identity.account.unwrap_or_else(|| node.account.clone()),
            key: identity.key,
            route,
        }
    }
}

impl Call<'_> {
    /// Who asks.
    pub fn caller(&self) -> Caller {
        Caller {
            account: self.account.clone(),
            request_id: self.request_id.to_string(),
        }
    }

    /// The function in the path, with the qualifier in it or beside it, if the caller may do with it what it asks.
    pub fn qualified_function(&self) -> Result<FunctionRef, ApiError> {
        let qualifier = self.route.query.get("Qualifier");
        self.named_function(&self.route.resource, qualifier.as_deref())
    }

    /// The function in the path, for operations that take no qualifier beside it.
    pub fn function(&self) -> Result<FunctionRef, ApiError> {
        self.named_function(&self.route.resource, None)
    }

    /// A function that the request names somewhere, if the caller may do with it what it asks.
    pub fn named_function(&self, text: &str, qualifier: Option<&str>) -> Result<FunctionRef, ApiError> {
        let target = FunctionRef::parse(text, qualifier, &self.account)?;
        self.node.reachable(text)?;
        if target.account != self.account {
            let functions = &self.node.functions;
            functions.authorize(&self.account, self.route.operation.action(), &target)?;
        }
        Ok(target)
    }
}

/// Whether a request only waits on behalf of its caller, so that it ends when the caller goes away.
pub fn ends_with_its_caller(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    route::data::is_target(path)
        && !url::is_url_host(request.uri(), request.headers())
        && route::resolve(request.method().as_str(), path)
            .is_ok_and(|route| route::data::ends_with_its_caller(route.operation))
}

/// Answers one request; never fails, for every failure has an answer.
pub async fn answer(node: Arc<Node>, request: Request<Incoming>, (peer, from): (Peer, IpAddr)) -> Response<Body> {
    let began = node.clock.monotonic();
    let request_id = RequestId::random(&node.entropy);
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let url = Target::of(&head);
    let (operation, result) = match url {
        None => operate(&node, &head, (target, peer), body, request_id).await,
        Some(url) => {
            let request = UrlRequest {
                node: &node,
                source_ip: from,
                head: &head,
                target: url,
                request_id,
            };
            let response = Box::pin(request.answer(body)).await;
            (Some(Operation::InvokeFunctionUrl), Ok(response))
        }
    };
    let mut response = result.unwrap_or_else(|error| refuse(&error, request_id));
    let id = HeaderValue::from_str(request_id.as_str()).expect("a UUID is a header value");
    response.headers_mut().insert(reply::REQUEST_ID, id);
    node.metrics
        .answered(operation, response.status(), began, node.clock.monotonic());
    log(operation, &head, &response, request_id);
    response
}

async fn operate(
    node: &Node,
    head: &Parts,
    (target, peer): (&str, Peer),
    body: Incoming,
    request_id: RequestId,
) -> (Option<Operation>, Result<Response<Body>, ApiError>) {
    match route::resolve(head.method.as_str(), target) {
        Ok(route) => {
            let operation = route.operation;
            let asked = Asked {
                proof: node.auth.begin(head, &route, node.clock.now(), peer),
                head,
                route,
                request_id,
            };
            let result = if route::data::has(operation) {
                Ok(Box::pin(data::answer(node, asked, body)).await)
            } else {
                run(node, asked, body).await
            };
            (Some(operation), result)
        }
        Err(error) if route::data::is_target(target) => (None, Ok(data::unrouted(error, target))),
        Err(error) => (None, Err(ApiError::from(error))),
    }
}

/// A request whose operation is known, but not yet who asks.
pub struct Asked<'a> {
    pub head: &'a Parts,
    pub route: Route<'a>,
    pub request_id: RequestId,
    /// Who it says it is from, or why nobody can be.
    pub proof: Result<Proof, Refusal>,
}

/// A request that says who asks; whether that is true shows when its body is known.
pub struct Admitted<'a> {
    pub head: &'a Parts,
    pub route: Route<'a>,
    pub request_id: RequestId,
    pub proof: Proof,
}

async fn run(node: &Node, asked: Asked<'_>, body: Incoming) -> Result<Response<Body>, ApiError> {
    let Asked {
        head,
        route,
        request_id,
        proof,
    } = asked;
    origin::check(&head.headers)?;
    let proof = proof?;
    if route.operation == Operation::PushImage {
        let admitted = Admitted {
            head,
            route,
            request_id,
            proof,
        };
        return Box::pin(native::images::push(node, admitted, body)).await;
    }
    let waits = head.headers.contains_key(EXPECT);
    let operation = route.operation;
    let body = body::collect(body, bytes_max(operation), waits)
        .await
        .map_err(|error| uncollected(operation, error))?;
    let identity = proof.finish(head, &body).await?;
    let call = Call::new(node, head, route, request_id, identity);
    if call.route.operation == Operation::Invoke {
        return lambda::invoke(&call, body).await;
    }
    // Boxed, so that the invocation's future stays small.
    Box::pin(manage(&call, body)).await
}

async fn manage(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, ApiError> {
    match call.route.operation {
        Operation::Welcome => Ok(native::welcome()),
        Operation::Health => Ok(native::health()),
        Operation::Metrics => native::metrics(call.node).await,
        Operation::ReadLogs => native::read_logs(call),
        Operation::ReadCode => native::read_code(call).await,
        Operation::GetSizing => native::sizing::get(call),
        Operation::ChangeSizing => native::sizing::change(call, &body).await,
        Operation::ReadCheckpointing => native::read_checkpointing(call).await,
        Operation::ReadLayer => native::read_layer(call).await,
        Operation::ListImages => native::images::list(call),
        Operation::DeleteImage => native::images::delete(call).await,
        _ => lambda::manage(call, body).await,
    }
}

fn bytes_max(operation: Operation) -> usize {
    match operation {
        Operation::Invoke | Operation::InvokeAsync | Operation::InvokeWithResponseStream => SYNC_PAYLOAD_BYTES_MAX,
        Operation::CreateFunction | Operation::UpdateFunctionCode | Operation::PublishLayerVersion => {
            CREATE_REQUEST_BYTES_MAX
        }
        Operation::CheckpointDurableExecution => CHECKPOINT_BODY_BYTES_MAX,
        _ => CONTROL_BYTES_MAX,
    }
}

/// What a body that could not be had means.
pub fn uncollected(operation: Operation, error: CollectError) -> ApiError {
    match error {
        CollectError::TooLarge { bytes_max } => ApiError::too_large(operation, bytes_max),
        CollectError::Broken(_) => ApiError::new(Exception::InvalidRequestContent, error.to_string()),
    }
}

fn refuse(error: &ApiError, request_id: RequestId) -> Response<Body> {
    if let Some(cause) = error.cause() {
        // The chain of causes, which `Display` of the first would not show.
        tracing::error!(%request_id, error = ?cause, "operation failed");
    }
    error.response()
}

/// The access log. Only the path is shown: a query may hold a signature, a body a secret.
fn log(operation: Option<Operation>, head: &Parts, response: &Response<Body>, request_id: RequestId) {
    let is_frequent = matches!(operation, Some(Operation::Invoke | Operation::InvokeFunctionUrl))
        || operation.is_some_and(route::data::is_frequent);
    let quiet = is_frequent || head.method == http::Method::GET;
    let operation = operation.map_or("UnknownOperation", Operation::name);
    let status = response.status().as_u16();
    let path = head.uri.path();
    let refused = response
        .headers()
        .get(reply::ERROR_TYPE)
        .and_then(|name| name.to_str().ok());
    if let Some(refused) = refused {
        tracing::info!(%request_id, operation, path, status, refused, "request");
    } else if quiet {
        tracing::debug!(%request_id, operation, path, status, "request");
    } else {
        tracing::info!(%request_id, operation, path, status, "request");
    }
}
