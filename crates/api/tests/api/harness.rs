//! A node under test and a client that says exactly what a test wants on the wire.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_api::auth::{Auth, Exposure};
use bowline_api::{Options, Running, Server};
use bowline_aws::sqs::Sqs;
use bowline_aws::{Access, Credentials, Trust};
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_functions::Service;
use bowline_functions::metrics::Metrics;
use bowline_store::blob::Blobs;
use bowline_store::{MemoryStore, Sharing};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::backend::Scripted;
use crate::data::engines::Engines;
use crate::events::Streams;

/// The beginning of any WebAssembly module; the scripted backend looks no further.
pub const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Where functions lie on the wire.
pub const FUNCTIONS: &str = "/2015-03-31/functions";

pub struct TestNode {
    pub addr: SocketAddr,
    /// Lets invocations that wait go on.
    pub gate: Arc<Semaphore>,
    /// One permit for each invocation that waits.
    pub waiting: Arc<Semaphore>,
    pub streams: Streams,
    /// Whose keys the node knows: none at first.
    pub auth: Arc<Auth>,
    running: Running,
    service: Service,
    engines: Option<Engines>,
    _data: TempDir,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl TestNode {
    /// A node on which time stands still and chance is the same each time.
    pub async fn start() -> Self {
        let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_123_456));
        Self::build(clock, tempfile::tempdir().expect("a folder"), None, None).await
    }

    /// A node that was told where queues are: at a place where nobody answers.
    pub async fn beside_queues() -> Self {
        let clock = Clock::system();
        let access = Access {
            region: "eu-central-1".to_owned(),
            credentials: Credentials {
                access_key: "any".to_owned(),
                secret_key: "any".to_owned(),
                session_token: None,
            },
            clock: clock.clone(),
            trust: Trust::nobody(),
        };
        let sqs = Sqs::new("http://127.0.0.1:1".parse().expect("an endpoint"), access);
        Self::build(clock, tempfile::tempdir().expect("a folder"), None, Some(sqs)).await
    }

    /// A node that also serves streams, sessions and objects, over SQLite and in real time.
    pub async fn with_engines() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut registry = Registry::with_prefix("bowline");
        let engines = Engines::start(data.path(), &mut registry).await;
        Self::build(Clock::system(), data, Some((engines, registry)), None).await
    }

    async fn build(clock: Clock, data: TempDir, engines: Option<(Engines, Registry)>, queues: Option<Sqs>) -> Self {
        let entropy = Entropy::seeded(7);
        let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let backend = Scripted {
            gate: Arc::clone(&gate),
            waiting: Arc::clone(&waiting),
        };
        let (engines, mut registry) = match engines {
            Some((engines, registry)) => (Some(engines), registry),
            None => (None, Registry::default()),
        };
        let store: Arc<dyn bowline_store::Store> = Arc::new(MemoryStore::default());
        let streams = Streams::start(store.clone(), &clock, &entropy).await;
        let service = Service::start(bowline_functions::Options {
            events: Some(bowline_functions::events::Options {
                queues,
                ..streams.options()
            }),
            suspend: bowline_functions::suspend::Options::new(Blobs::in_memory()),
            durable: bowline_functions::durable::Options {
                guests: Some(bowline_api::GuestWire::make),
                ..Default::default()
            },
            clock: clock.clone(),
            entropy: entropy.clone(),
            store,
            sharing: Sharing::Exclusive,
            blobs: Blobs::in_memory(),
            data_dir: data.path().to_owned(),
            region: "eu-central-1".to_owned(),
            node: "here".to_owned(),
            concurrency_max: 1000,
            keep_alive: Duration::from_secs(60),
            memory_budget: Mebibytes(1 << 20),
            registries: Vec::new(),
            stream_bytes_per_second: None,
            cluster: None,
            backends: vec![Arc::new(backend)],
            metrics: Metrics::register(&mut registry),
        })
        .await
        .expect("an empty store loads");

        let account = AccountId::default_account();
        let auth = Arc::new(Auth::new(Exposure::Loopback, "eu-central-1", account));
        let options = Options {
            auth: Arc::clone(&auth),
            clock,
            entropy,
            region: "eu-central-1".to_owned(),
            registry: Arc::new(registry),
            data: engines.as_ref().map(Engines::handles),
            ..Options::new((Ipv4Addr::LOCALHOST, 0).into(), service.handle())
        };
        let running = Server::bind(options).await.expect("a free port");
        Self {
            addr: running.local_addr(),

            gate,
            waiting,
            streams,
            auth,
            running,
            service,
            engines,
            _data: data,
        }
    }

    /// The engines behind the wire.
    pub fn engines(&self) -> &Engines {
        self.engines.as_ref().expect("a node with engines")
    }

    /// Ends the server, then the services.
    pub async fn stop(self) {
        self.running.shut_down().await;
        if let Some(engines) = self.engines {
            engines.stop().await;
        }
        self.service.shut_down().await;
        self.streams.stop().await;
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        send(self.addr, request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, Bytes::new()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request("PUT", path, body.to_string().into()).await
    }

    pub async fn request(&self, method: &str, path: &str, body: Bytes) -> Answer {
        self.send(request(method, path, &[], body)).await
    }

    /// Creates a function and waits until it can be invoked.
    pub async fn create(&self, name: &str) -> Value {
        let answer = self.post(FUNCTIONS, &creation(name)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        self.settled(name).await;
        answer.json()
    }

    /// Waits until neither creation nor update is in progress; returns the configuration.
    pub async fn settled(&self, name: &str) -> Value {
        loop {
            let shown = self.get(&format!("{FUNCTIONS}/{name}/configuration")).await.json();
            if shown["State"] != "Pending" && shown["LastUpdateStatus"] != "InProgress" {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    }

    pub async fn invoke(&self, name: &str, event: &str) -> Answer {
        let path = format!("{FUNCTIONS}/{name}/invocations");
        self.request("POST", &path, Bytes::copy_from_slice(event.as_bytes()))
            .await
    }
}

/// The body of a `CreateFunction`.
pub fn creation(name: &str) -> Value {
    json!({
        "FunctionName": name,
        "Runtime": "provided.al2023",
        "Role": "arn:aws:iam::000000000000:role/any",
        "Handler": "bootstrap",
        "Code": { "ZipFile": STANDARD.encode(MODULE) },
    })
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path).header("host", "node.test");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body)).expect("a valid request")
}

pub async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(addr).await.expect("the node listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    connection.abort();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The document of a refusal, which must have this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let document: Value = serde_json::from_slice(&self.body).expect("a JSON document");
        assert_eq!((self.status, &document["code"]), (status, &json!(code)), "{document}");
        assert_eq!(document["status"], status, "{document}");
        assert!(
            !document["detail"].as_str().unwrap_or_default().is_empty(),
            "{document}"
        );
        assert!(self.header("x-amzn-requestid").is_some(), "{self:?}");
        document
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// Checks that this is the error `name` with `status`, in the shape clients read; returns its message.
    #[track_caller]
    pub fn refused(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("x-amzn-errortype"), Some(name), "{self:?}");
        assert!(self.header("x-amzn-requestid").is_some(), "{self:?}");
        let body = self.json();
        let fault = if status < 500 { "User" } else { "Service" };
        assert_eq!(body["Type"], fault, "{self:?}");
        let (lower, upper) = (body.get("message"), body.get("Message"));
        assert!(lower.is_some() != upper.is_some(), "{self:?}");
        lower.or(upper).and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}
