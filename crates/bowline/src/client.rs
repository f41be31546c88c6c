//! A blocking client of a node's API, as far as the commands need one.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_api::auth::sigv4::{Credentials, authorization_of};
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::{Digest, Hasher};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::Agent;
use ureq::http::header::HOST;
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::credentials;

/// What a path segment or query value may hold unescaped.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
const CONNECT_SECONDS_MAX: u64 = 5;
/// Where Linux systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the node is that a command speaks to.
#[derive(Clone, Debug, clap::Args)]
pub struct Remote {
    /// The node's address.
    #[arg(
        long,
        env = "BOWLINE_ENDPOINT",
        default_value = "http://127.0.0.1:9000",
        value_name = "URL"
    )]
    endpoint: String,
    /// Certificates to trust a node by, in PEM [default: the system's].
    #[arg(long, env = "BOWLINE_CA", hide_env_values = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Remote {
    /// A client that signs its requests if the environment or a profile has keys.
    pub fn client(&self) -> Client {
        let credentials = credentials::find(&|name| std::env::var(name).ok());
        Client::with(&self.endpoint, self.ca.as_deref(), credentials)
    }
}

/// A connection pool to one node.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    credentials: Option<Arc<Credentials>>,
    clock: Clock,
    /// Why certificates cannot be read, if they are needed and cannot.
    distrust: Option<String>,
}

/// An answer with a status below 300.
pub struct Answer {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why a request did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no node answers at {0}: start one with `bowline up`, or name another with --endpoint or BOWLINE_ENDPOINT")]
    Unreachable(String),
    #[error("`{0}` is not an endpoint; expected `http://HOST:PORT` or `https://HOST:PORT`")]
    Endpoint(String),
    #[error("request to {endpoint} failed")]
    Transport {
        endpoint: String,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("{0}; name the certificates to trust with --ca or BOWLINE_CA")]
    Distrust(String),
    #[error("{0}")]
    Service(ServiceError),
    #[error(
        "{endpoint} answered with something that is not the Lambda API's JSON: {what}; is another program listening there?"
    )]
    Protocol { endpoint: String, what: String },
}

/// An error that the service reported.
#[derive(Debug)]
pub struct ServiceError {
    pub status: u16,
    /// The exception's name, `ResourceNotFoundException` say.
    pub kind: String,
    pub message: String,
}

/// What a person can do about a problem of streams, sessions and objects, by its code.
const HINTS: &[(&str, &str)] = &[
    (
        "no_such_stream",
        "`bowline stream ls` shows what exists; `bowline stream create NAME` makes one",
    ),
    (
        "no_such_session",
        "`bowline session ls STREAM` shows what exists; `bowline session create STREAM` makes one",
    ),
    (
        "session_expired",
        "nobody read it for too long: make another with `bowline session create STREAM`",
    ),
    (
        "no_such_object",
        "`bowline object events ID` shows what happened to an object that was deleted",
    ),
    (
        "stale_token",
        "the batch was settled or given to another reader: take the next with `bowline session read`",
    ),
    (
        "version_mismatch",
        "read it again with `bowline object get ID`, then decide anew",
    ),
    (
        "trimmed",
        "read on with `--from oldest`, or from the position that the message names",
    ),
    ("overloaded", "too much waits already: repeat the command in a moment"),
    (
        "unavailable",
        "nothing was done: repeat the command in a moment; `bowline stores status` shows the stores",
    ),
    (
        "outcome_unknown",
        "done or not, unknown: repeat it with the same token or event identifier, or look first",
    ),
    ("damaged", "the node's own log says more"),
    ("not_found", "the node is older than this command"),
];

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, HTTP {})", self.message, self.kind, self.status)?;
        match self.hint() {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

impl ServiceError {
    /// What the caller can do about it.
    fn hint(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            // Images, layers and mappings are not found by this name too.
            "ResourceNotFoundException" if self.message.contains(":function:") => {
                Some("`bowline functions ls` shows what exists; `versions ls NAME` and `aliases ls NAME` likewise")
            }
            "ResourceConflictException" if self.message.contains("in progress") || self.message.contains("Pending") => {
                Some("wait until the change under way has ended, then repeat the command")
            }
            "TooManyRequestsException" => {
                Some("wait for running invocations to end, or raise `concurrency` in bowline.toml")
            }
            "ServiceException" => Some("the node's own log says more"),
            code => HINTS.iter().find(|(known, _)| *known == code).map(|(_, hint)| *hint),
        }
    }
}

impl ClientError {
    /// Whether the service said that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Service(error) if error.status == 404 && error.kind == "ResourceNotFoundException")
    }
}

impl Client {
    /// A client that signs nothing.
    pub fn new(endpoint: &str) -> Self {
        Self::with(endpoint, None, None)
    }

    /// A client that signs with these.
    pub fn signing(endpoint: &str, credentials: Credentials) -> Self {
        Self::with(endpoint, None, Some(credentials))
    }

    fn with(endpoint: &str, ca: Option<&Path>, credentials: Option<Credentials>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(CONNECT_SECONDS_MAX)))
            .user_agent(concat!("bowline/", env!("CARGO_PKG_VERSION")));
        let mut distrust = None;
        if endpoint.starts_with("https:") {
            match trusted(ca.unwrap_or(Path::new(SYSTEM_CERTIFICATES))) {
                Ok(trusted) => config = config.tls_config(trusted),
                Err(reason) => distrust = Some(reason),
            }
        }
        Self {
            agent: config.build().into(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            credentials: credentials.map(Arc::new),
            clock: Clock::system(),
            distrust,
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path, Some(body))
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::PUT, path, Some(body))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::PATCH, path, Some(body))
    }

    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, HeaderMap::new(), Vec::new()).map(drop)
    }

    /// All pages of a list: the items under `field` of each.
    pub fn list(&self, path: &str, field: &str) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        let mut marker = String::new();
        loop {
            let mut page = self.get(&format!("{path}?MaxItems=50{marker}"))?;
            match page[field].take() {
                Value::Array(found) => items.extend(found),
                _ => return Err(self.protocol(&format!("no `{field}` in a list"))),
            }
            match page["NextMarker"].as_str() {
                Some(next) if !next.is_empty() => marker = format!("&Marker={}", escape(next)),
                _ => return Ok(items),
            }
        }
    }

    /// All pages of a list of streams, sessions or objects; `query` is empty or begins with `&`.
    pub fn pages(&self, path: &str, query: &str) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let mut page = self.get(&format!("{path}?limit=100{query}{next}"))?;
            match page["items"].take() {
                Value::Array(found) => items.extend(found),
                _ => return Err(self.protocol("no `items` in a list")),
            }
            match page["next"].as_str() {
                Some(place) => next = format!("&next={}", escape(place)),
                None => return Ok(items),
            }
        }
    }

    /// Sends bytes and gives the answer as JSON.
    pub fn send_json(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Value, ClientError> {
        let answer = self.send(method, path, headers, body)?;
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|error| self.protocol(&error.to_string()))
    }

    /// Sends a file's content by PUT and gives the answer as JSON.
    pub fn put_file(&self, path: &str, mut file: File) -> anyhow::Result<Value> {
        let mut headers = header("content-type", "application/x-tar")?;
        headers.extend(header("content-length", &file.metadata()?.len().to_string())?);
        // What is refused is refused before it is sent; who sends on would not hear why.
        headers.extend(header("expect", "100-continue")?);
        let payload = match &self.credentials {
            Some(_) => digest_of(&mut file)?.to_string(),
            None => String::new(),
        };
        if !payload.is_empty() {
            // The signature is judged by it before the file is on its way.
            headers.extend(header("x-amz-content-sha256", &payload)?);
        }
        let response = self.request_signed((Method::PUT, path), headers, &payload, file)?;
        let answer = self.answer(response)?;
        serde_json::from_slice(&answer.body).map_err(|error| self.protocol(&error.to_string()).into())
    }

    /// Sends bytes and gives the whole answer.
    pub fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, ClientError> {
        let response = self.request(method, path, headers, body)?;
        self.answer(response)
    }

    fn answer(&self, response: Response<ureq::Body>) -> Result<Answer, ClientError> {
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let answer = Answer {
            headers: parts.headers,
            body: body.map_err(|error| self.transport(error))?,
        };
        let status = parts.status.as_u16();
        if status < 300 {
            Ok(answer)
        } else {
            Err(self.refusal(status, &answer))
        }
    }

    /// A GET whose answer is read as it comes.
    pub fn stream(&self, path: &str) -> Result<impl Read + use<>, ClientError> {
        self.stream_with(path, HeaderMap::new())
    }

    /// The same with headers.
    pub fn stream_with(&self, path: &str, headers: HeaderMap) -> Result<impl Read + use<>, ClientError> {
        self.open(Method::GET, path, headers, Vec::new())
    }

    /// A POST whose answer is read as it comes.
    pub fn post_stream(&self, path: &str, headers: HeaderMap, body: Vec<u8>) -> Result<impl Read + use<>, ClientError> {
        self.open(Method::POST, path, headers, body)
    }

    fn open(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<impl Read + use<>, ClientError> {
        let response = self.request(method, path, headers, body)?;
        let (parts, mut body) = response.into_parts();
        let status = parts.status.as_u16();
        if status < 300 {
            return Ok(body.into_reader());
        }
        let body = body.read_to_vec().map_err(|error| self.transport(error))?;
        let headers = parts.headers;
        Err(self.refusal(status, &Answer { headers, body }))
    }

    fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(
                "content-type",
                "application/json".parse().expect("a plain header value"),
            );
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send_json(method, path, headers, body.into_bytes())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response<ureq::Body>, ClientError> {
        let payload = Digest::of(&body).to_string();
        match method {
            Method::GET | Method::DELETE => self.request_signed((method, path), headers, &payload, ()),
            _ => self.request_signed((method, path), headers, &payload, body),
        }
    }

    /// `payload` is the body's digest.
    fn request_signed(
        &self,
        (method, path): (Method, &str),
        headers: HeaderMap,
        payload: &str,
        body: impl ureq::AsSendBody,
    ) -> Result<Response<ureq::Body>, ClientError> {
        if let Some(reason) = &self.distrust {
            return Err(ClientError::Distrust(reason.clone()));
        }
        let uri = format!("{}{path}", self.endpoint);
        let headers = self.sign((&method, &uri), headers, payload)?;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(own) = request.headers_mut() {
            own.extend(headers);
        }
        let request = request.body(body).map_err(ureq::Error::from);
        let result = request.and_then(|request| self.agent.run(request));
        result.map_err(|error| self.transport(error))
    }

    /// The headers with a signature over them and the request, if there is a key to make one with.
    fn sign(
        &self,
        (method, uri): (&Method, &str),
        mut headers: HeaderMap,
        payload: &str,
    ) -> Result<HeaderMap, ClientError> {
        let Some(credentials) = &self.credentials else {
            return Ok(headers);
        };
        let endpoint = || ClientError::Endpoint(self.endpoint.clone());
        let uri: Uri = uri.parse().map_err(|_| endpoint())?;
        let host = uri.authority().and_then(|host| host.as_str().parse().ok());
        headers.insert(HOST, host.ok_or_else(endpoint)?);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let asked = (method.as_str(), target);
        let (date, value) = authorization_of(credentials, asked, &headers, payload, self.clock.now());
        for (name, value) in [("x-amz-date", date), ("authorization", value)] {
            let value = value.parse();
            headers.insert(
                name,
                value.map_err(|_| self.protocol("an access key that no header can hold"))?,
            );
        }
        Ok(headers)
    }

    fn transport(&self, error: ureq::Error) -> ClientError {
        let endpoint = self.endpoint.clone();
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => ClientError::Endpoint(endpoint),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => ClientError::Unreachable(endpoint),
            ureq::Error::Timeout(ureq::Timeout::Connect) => ClientError::Unreachable(endpoint),
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                ClientError::Unreachable(endpoint)
            }
            error => ClientError::Transport {
                endpoint,
                source: Box::new(error),
            },
        }
    }

    fn refusal(&self, status: u16, answer: &Answer) -> ClientError {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else {
            return self.protocol(&format!("HTTP {status}"));
        };
        let kind = answer
            .headers
            .get("x-amzn-errortype")
            .and_then(|kind| kind.to_str().ok());
        let kind = kind.or(body["__type"].as_str()).unwrap_or("error");
        let messages = ["message", "Message", "detail"];
        let message = messages.iter().find_map(|member| body[member].as_str());
        ClientError::Service(ServiceError {
            status,
            kind: kind.split(':').next().unwrap_or(kind).to_owned(),
            message: message.unwrap_or("no message").to_owned(),
        })
    }

    fn protocol(&self, what: &str) -> ClientError {
        ClientError::Protocol {
            endpoint: self.endpoint.clone(),
            what: what.to_owned(),
        }
    }
}

/// The digest of a file, which is read from its beginning again afterwards.
fn digest_of(file: &mut File) -> std::io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(hasher.finish())
}

/// Trust in the certificates of a file and no others.
fn trusted(path: &Path) -> Result<TlsConfig, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<Certificate<'static>> = certificates.collect();
    if certificates.is_empty() {
        return Err(format!("`{}` holds no certificate", path.display()));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// A text as one path segment or query value.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// One header.
pub fn header(name: &'static str, value: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let value = value.parse();
    headers.insert(
        name,
        value.map_err(|_| anyhow::anyhow!("`{name}` must be plain text without line breaks"))?,
    );
    Ok(headers)
}

/// The path of a function, or of what lies below it.
pub fn function_path(name: &str, below: &str) -> String {
    format!("/2015-03-31/functions/{}{below}", escape(name))
}
