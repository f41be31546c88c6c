//! Function URLs: an HTTP request becomes an event of payload format 2.0, and what the function answers
//! becomes HTTP.
//!
//! ```text
//!   host or path ─▶ configuration ─▶ preflight │ authorisation ─▶ body ─▶ event ─▶ Invoke ─▶ answer ─▶ CORS
//! ```
//! A browser may call a URL from any page: what a page gets to see is decided by the CORS configuration, or by
//! the function itself where there is none.

pub mod answer;
mod cors;
pub mod event;
mod iam;
mod refusal;
mod stream;
mod target;

use std::net::IpAddr;

use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_functions::InvocationRequest;
use bowline_functions::model::attached::{InvokeMode, UrlAuth, UrlConfig};
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, EXPECT};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response};
use hyper::body::Incoming;

use crate::body::{self, Body};
use crate::dispatch::Node;
use crate::trace;
use event::EventParts;
use iam::Identity;
use refusal::Refusal;
pub use target::{Target, is_url_host};

const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
/// Pages that come by the path form share their origin with the node's API; a sandboxed page has an origin of
/// its own, which the node does not answer.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts");

/// A request to a URL, but for its body.
pub struct UrlRequest<'a> {
    pub node: &'a Node,
    pub source_ip: IpAddr,
    pub head: &'a Parts,
    pub target: Target<'a>,
    pub request_id: RequestId,
}

/// The address that clients are told.
pub fn address(node: &Node, id: &str) -> String {
    format!("{}://{}:{}/", node.scheme, domain(node, id), node.local_addr.port())
}

fn domain(node: &Node, id: &str) -> String {
    format!("{id}.lambda-url.{}.localhost", node.region)
}

impl UrlRequest<'_> {
    /// Answers the request; never fails, for every failure has an answer.
    pub async fn answer(&self, body: Incoming) -> Response<Body> {
        let Some(config) = self.node.functions.url(self.target.id) else {
            return Refusal::NotFound.response();
        };
        let cors = config.url.cors.as_ref();
        let head = self.head;
        if let (Some(cors), &Method::OPTIONS) = (cors, &head.method)
            && let Some(response) = cors::preflight(cors, &head.headers)
        {
            return response;
        }
        let mut response = match self.run(&config, body).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        if let Some(cors) = cors {
            cors::apply(cors, &head.headers, response.headers_mut());
        }
        if self.target.in_path {
            response.headers_mut().append(CONTENT_SECURITY_POLICY, SANDBOX);
        }
        response
    }

    async fn run(&self, config: &UrlConfig, body: Incoming) -> Result<Response<Body>, Refusal> {
        let proof = match config.url.auth {
            UrlAuth::None => None,
            UrlAuth::AwsIam => Some(iam::begin(self)?),
        };
        let waits = self.head.headers.contains_key(EXPECT);
        let body = body::collect(body, SYNC_PAYLOAD_BYTES_MAX, waits).await?;
        let identity = match proof {
            None => None,
            Some(proof) => Some(iam::finish(self, proof, &body).await?),
        };
        let account = identity.as_ref().map(|identity| &identity.account);
        self.node
            .functions
            .may_invoke_url(account, config)
            .inspect_err(|error| {
                tracing::info!(request_id = %self.request_id, %error, "a function URL is not open to its caller");
            })?;
        let trace_id = self.trace_id();
        let request = InvocationRequest {
            request_id: self.request_id,
            payload: self.event(&body, identity.as_ref(), &trace_id),
            client_context: None,
            trace_id: Some(trace_id.clone()),
            log_tail: false,
            is_strict: false,
        };
        let mut response = match config.url.mode {
            InvokeMode::Buffered => self.buffered(config, request).await?,
            InvokeMode::ResponseStream => stream::answer(self, config, request).await?,
        };
        if let Ok(trace_id) = HeaderValue::from_str(&trace_id) {
            response.headers_mut().entry(TRACE_ID).or_insert(trace_id);
        }
        Ok(response)
    }

    /// Waits for the whole answer.
    async fn buffered(&self, config: &UrlConfig, request: InvocationRequest) -> Result<Response<Body>, Refusal> {
        let answered = self.node.functions.invoke(&config.target, request).await?;
        let payload = answered.result.map_err(|_| Refusal::BadGateway)?;
        let response = answer::read(&payload).map_err(|invalid| {
            tracing::info!(request_id = %self.request_id, function = %config.target.name, %invalid,
                "the answer cannot be sent as HTTP");
            Refusal::BadGateway
        })?;
        Ok(response.map(Body::from))
    }

    fn event(&self, body: &[u8], identity: Option<&Identity>, trace_id: &str) -> Bytes {
        let domain = match self.target.host {
            Some(host) => host.to_owned(),
            None => domain(self.node, self.target.id),
        };
        let parts = EventParts {
            id: self.target.id,
            domain: &domain,
            method: self.head.method.as_str(),
            path: self.target.path,
            query: self.head.uri.query().unwrap_or_default(),
            protocol: match self.head.version {
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            headers: &self.head.headers,
            source_ip: self.source_ip,
            scheme: self.node.scheme,
            port: self.node.local_addr.port(),
            trace_id,
            request_id: self.request_id.as_str(),
            now: self.node.clock.now(),
            identity,
        };
        parts.event(body)
    }

    /// The caller's, or a new one, as the service makes one for every request.
    fn trace_id(&self) -> String {
        let given = self.head.headers.get(TRACE_ID).and_then(|value| value.to_str().ok());
        given.map_or_else(|| trace::new_id(self.node), str::to_owned)
    }
}
