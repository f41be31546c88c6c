//! One signed request, sent and answered within limits.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::access::Access;
use crate::endpoint::Endpoint;
use crate::sign::{self, Paths, Signer, Unsigned};
use crate::trust;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Largest text of an error that is kept.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// What a service said when it did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub status: StatusCode,
    /// The service's name of the error, `NoSuchKey` say; the status if it gave none.
    pub code: String,
    pub message: String,
}

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the answer has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("`{endpoint}` does not answer")]
    Unreachable {
        endpoint: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "`{endpoint}` shows a certificate that is not trusted here ({reason}): name a file with that of its authority in \
         `AWS_CA_BUNDLE`"
    )]
    Distrusted { endpoint: String, reason: String },
    #[error("`{endpoint}` did not answer within {} s", .limit.as_secs())]
    TimedOut { endpoint: String, limit: Duration },
    #[error("`{endpoint}` gave an answer that cannot be understood: {reason}")]
    Unintelligible { endpoint: String, reason: String },
}

/// A service at an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    endpoint: Endpoint,
    service: &'static str,
    paths: Paths,
    access: Access,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What is asked.
pub(crate) struct Ask<'a> {
    pub method: Method,
    /// Percent-encoded, from the endpoint's root.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(&'static str, &'a str)>,
    pub body: Bytes,
    /// The largest answer that is taken.
    pub bytes_max: usize,
    pub time_max: Duration,
}

impl Caller {
    pub fn new(endpoint: Endpoint, (service, paths): (&'static str, Paths), access: Access) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_MAX));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(access.trust.client_config())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Self {
            endpoint,
            service,
            paths,
            access,
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends, and gives the body of a successful answer; `refusal` reads the body of any other.
    pub async fn call(&self, ask: Ask<'_>, refusal: fn(StatusCode, &[u8]) -> Refusal) -> Result<Bytes, CallError> {
        let limit = ask.time_max;
        let answered = tokio::time::timeout(limit, self.answer(ask, refusal)).await;
        answered.unwrap_or_else(|_| {
            Err(CallError::TimedOut {
                endpoint: self.endpoint.to_string(),
                limit,
            })
        })
    }

    async fn answer(&self, ask: Ask<'_>, refusal: fn(StatusCode, &[u8]) -> Refusal) -> Result<Bytes, CallError> {
        let bytes_max = ask.bytes_max;
        let request = self.signed(ask).map_err(|cause| self.unreachable(cause))?;
        let response = self.client.request(request).await;
        let response = response.map_err(|cause| self.unanswered(cause))?;
        let status = response.status();
        if status.is_success() {
            return self.body(response, bytes_max).await;
        }
        let body = self.body(response, ERROR_BYTES_MAX).await.unwrap_or_default();
        Err(refusal(status, &body).into())
    }

    async fn body(&self, response: Response<Incoming>, bytes_max: usize) -> Result<Bytes, CallError> {
        match Limited::new(response.into_body(), bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(CallError::TooLarge { bytes_max }),
            Err(cause) => Err(CallError::Unreachable {
                endpoint: self.endpoint.to_string(),
                cause,
            }),
        }
    }

    fn signed(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = self.endpoint.path(&ask.path);
        let pairs = ask.query.iter().map(|(name, value)| format!("{name}={value}"));
        let query = pairs.collect::<Vec<_>>().join("&");
        let target = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let payload = sign::hash(&ask.body);
        let mut request = Request::builder()
            .method(ask.method)
            .uri(self.endpoint.uri(&target)?)
            .header(http::header::HOST, self.endpoint.host())
            .header("x-amz-content-sha256", &payload);
        let credentials = &self.access.credentials;
        if let Some(token) = &credentials.session_token {
            request = request.header("x-amz-security-token", token);
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(ask.body.clone()))?;
        let unsigned = Unsigned {
            method: request.method().as_str(),
            target: &target,
            headers: request.headers(),
            payload: &payload,
            paths: self.paths,
        };
        let signer = Signer {
            access_key: &credentials.access_key,
            secret: &credentials.secret_key,
            region: &self.access.region,
            service: self.service,
        };
        let (date, authorization) = signer.authorization(&unsigned, self.access.clock.now());
        let mut authorization = HeaderValue::try_from(authorization)?;
        authorization.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert("x-amz-date", HeaderValue::try_from(date)?);
        headers.insert(http::header::AUTHORIZATION, authorization);
        Ok(request)
    }

    fn unanswered(&self, cause: hyper_util::client::legacy::Error) -> CallError {
        match trust::distrust(&cause) {
            Some(reason) => CallError::Distrusted {
                endpoint: self.endpoint.to_string(),
                reason,
            },
            None => self.unreachable(cause),
        }
    }

    fn unreachable(&self, cause: impl std::error::Error + Send + Sync + 'static) -> CallError {
        CallError::Unreachable {
            endpoint: self.endpoint.to_string(),
            cause: Box::new(cause),
        }
    }

    pub fn unintelligible(&self, reason: impl std::fmt::Display) -> CallError {
        CallError::Unintelligible {
            endpoint: self.endpoint.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl CallError {
    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.status.is_server_error() || refusal.status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::TooLarge { .. } | Self::Distrusted { .. } => false,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unintelligible { .. } => true,
        }
    }
}
