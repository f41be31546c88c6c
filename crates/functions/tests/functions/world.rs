//! A running service with its store, its folder and its fake backends.

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_functions::error::Error;
use bowline_functions::metrics::Metrics;
use bowline_functions::model::{Caller, Configuration, CreateFunction, Settings, UpdateCode};
use bowline_functions::name::FunctionRef;
use bowline_functions::{CrashPoints, Handle, InvocationRequest, InvocationResponse, Options, Service};
use bowline_sandbox::{Runtime, SandboxKind};
use bowline_store::blob::Blobs;
use bowline_store::{MemoryStore, Sharing, SqliteStore, Store};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use crate::fake::{Fake, FakeBackend};

/// A service that a test drives through its handle.
pub struct World {
    pub handle: Handle,
    pub fake: Arc<Fake>,
    pub wasm: Arc<Fake>,
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    pub registry: prometheus_client::registry::Registry,
    service: Option<Service>,
    folder: Arc<TempDir>,
    settings: WorldSettings,
}

/// What tests vary.
#[derive(Clone, Copy)]
pub struct WorldSettings {
    pub concurrency_max: u32,
    pub keep_alive: Duration,
    pub stream_bytes_per_second: Option<u32>,
    pub sharing: Sharing,
    pub memory_budget: Mebibytes,
    /// Of runs that can be suspended.
    pub lease: Duration,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            concurrency_max: 1000,
            keep_alive: Duration::from_secs(600),
            stream_bytes_per_second: None,
            sharing: Sharing::Exclusive,
            memory_budget: Mebibytes(1 << 20),
            lease: Duration::from_secs(10),
        }
    }
}

impl World {
    /// A service in memory.
    pub async fn new() -> Self {
        Self::with(WorldSettings::default()).await
    }

    pub async fn with(settings: WorldSettings) -> Self {
        let store = Arc::new(MemoryStore::default());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::over(store, Blobs::in_memory(), folder, settings).await
    }

    /// A service over SQLite and a folder of blobs.
    pub async fn durable() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let (store, blobs) = open(folder.path());
        Self::over(store, blobs, folder, WorldSettings::default()).await
    }

    pub async fn over(store: Arc<dyn Store>, blobs: Blobs, folder: Arc<TempDir>, settings: WorldSettings) -> Self {
        Self::over_streams(store, blobs, folder, settings, (Clock::system(), None)).await
    }

    /// The same with streams, at the given time.
    pub async fn over_streams(
        store: Arc<dyn Store>,
        blobs: Blobs,
        folder: Arc<TempDir>,
        settings: WorldSettings,
        (clock, events): (Clock, Option<bowline_functions::events::Options>),
    ) -> Self {
        let (fake, wasm) = (Fake::new(SandboxKind::Linux), Fake::new(SandboxKind::Wasm));
        let mut registry = prometheus_client::registry::Registry::default();
        let mut options = options(store.clone(), blobs.clone(), folder.path(), settings);
        options.clock = clock;
        options.events = events;
        options.metrics = Metrics::register(&mut registry);
        options.backends = vec![Arc::new(FakeBackend(fake.clone())), Arc::new(FakeBackend(wasm.clone()))];
        let service = Service::start_with(options, CrashPoints::default()).await.unwrap();
        Self {
            handle: service.handle(),
            service: Some(service),
            fake,
            wasm,
            store,
            blobs,
            registry,
            folder,
            settings,
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Stops the service; what it kept stays.
    pub async fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.shut_down().await;
        }
    }

    /// Stops the service and starts another on what it kept.
    pub async fn restart(self) -> Self {
        self.restart_at(Clock::system()).await
    }

    /// The same at a time that the test moves.
    pub async fn restart_at(mut self, clock: Clock) -> Self {
        self.stop().await;
        let Self {
            store,
            blobs,
            folder,
            settings,
            ..
        } = self;
        Self::over_streams(store, blobs, folder, settings, (clock, None)).await
    }

    /// Creates a function and waits until it can be invoked.
    pub async fn deploy(&self, name: &str) -> Configuration {
        self.handle
            .create_function(&caller(), creation(name, "one"))
            .await
            .unwrap();
        self.handle.settled(&target(name)).await.unwrap()
    }

    /// Gives a function other code and waits until that serves.
    pub async fn redeploy(&self, name: &str, code: &str) -> Configuration {
        self.handle
            .update_code(&caller(), &target(name), update(code))
            .await
            .unwrap();
        self.handle.settled(&target(name)).await.unwrap()
    }

    pub async fn invoke(&self, name: &str, event: Value) -> Result<InvocationResponse, Error> {
        self.handle.invoke(&target(name), request(event)).await
    }

    /// Invokes and reads the answer.
    pub async fn answer(&self, name: &str, event: Value) -> Value {
        let response = self.invoke(name, event).await.unwrap();
        serde_json::from_slice(&response.result.unwrap()).unwrap()
    }

    /// The value of a metric line that begins so, or zero.
    pub fn metric(&self, begin: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(begin));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_default()
    }
}

/// Options over given storage, without backends.
pub fn options(store: Arc<dyn Store>, blobs: Blobs, folder: &Path, settings: WorldSettings) -> Options {
    Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        store,
        sharing: settings.sharing,
        blobs,
        node: "here".to_owned(),
        data_dir: folder.to_owned(),
        region: "us-east-1".to_owned(),
        concurrency_max: settings.concurrency_max,
        keep_alive: settings.keep_alive,
        memory_budget: settings.memory_budget,
        registries: Vec::new(),
        stream_bytes_per_second: settings.stream_bytes_per_second,
        events: None,
        suspend: bowline_functions::suspend::Options {
            lease: settings.lease,
            ..bowline_functions::suspend::Options::new(Blobs::in_memory())
        },
        durable: bowline_functions::durable::Options::default(),
        cluster: None,
        backends: Vec::new(),
        metrics: Metrics::default(),
    }
}

/// The storage in a folder.
pub fn open(folder: &Path) -> (Arc<dyn Store>, Blobs) {
    let store = SqliteStore::open(&folder.join("store.sqlite")).unwrap();
    let blobs = Blobs::open_dir(&folder.join("blobs")).unwrap();
    (Arc::new(store), blobs)
}

pub fn caller() -> Caller {
    Caller {
        account: AccountId::default_account(),
        request_id: "request".to_owned(),
    }
}

/// A function as a caller names it.
pub fn target(name: &str) -> FunctionRef {
    FunctionRef::parse(name, None, &AccountId::default_account()).unwrap()
}

pub fn request(event: Value) -> InvocationRequest {
    InvocationRequest {
        request_id: RequestId::random(&Entropy::system()),
        payload: Bytes::from(event.to_string()),
        client_context: None,
        trace_id: None,
        log_tail: true,
        is_strict: false,
    }
}

/// A creation with a package whose file `code` holds the given text.
pub fn creation(name: &str, code: &str) -> CreateFunction {
    CreateFunction {
        name: name.parse().unwrap(),
        runtime: Runtime::Python { minor: 11 },
        role: "arn:aws:iam::000000000000:role/any".to_owned(),
        handler: Some("app.handler".to_owned()),
        code: package(code).into(),
        settings: Settings::default(),
        architecture: None,
        tags: BTreeMap::new(),
        publish: false,
    }
}

pub fn update(code: &str) -> UpdateCode {
    UpdateCode {
        code: package(code).into(),
        architecture: None,
        publish: false,
        dry_run: false,
        revision_id: None,
    }
}

/// A package with one file, `code`.
pub fn package(code: &str) -> Bytes {
    zip_of(&[("code", code.as_bytes())])
}

pub fn zip_of(files: &[(&str, &[u8])]) -> Bytes {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner().into()
}
