//! The one entry to functions.

mod absent;
mod executions;
mod follow;
mod handle;
mod images;
mod inner;
mod states;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Backend, FunctionError};
use bytes::Bytes;
use tokio::task::JoinHandle;

pub use handle::Handle;
pub(crate) use inner::Inner;

use crate::crash::CrashPoints;
use crate::error::Error;
use crate::invoke::{ResponseStream, Rung};
use crate::metrics::Metrics;
use crate::name::Version;

/// What the service is built from.
pub struct Options {
    pub clock: Clock,
    pub entropy: Entropy,
    pub store: Arc<dyn bowline_store::Store>,
    /// Whether other nodes use the store and the blobs too.
    pub sharing: bowline_store::Sharing,
    pub blobs: bowline_store::blob::Blobs,
    /// Names this node for as long as its data folder lasts.
    pub node: String,
    /// Where packages are unpacked and logs are kept.
    pub data_dir: PathBuf,
    pub region: String,
    /// Concurrent invocations an account may have.
    pub concurrency_max: u32,
    /// How long an idle sandbox is kept at most; forecasts decide within that.
    pub keep_alive: Duration,
    /// What all sandboxes together may have, each counted with the memory that it is allowed.
    pub memory_budget: Mebibytes,
    /// How fast a streamed answer goes out after its first
    /// [`STREAM_BURST_BYTES`](bowline_foundation::limits::STREAM_BURST_BYTES); as fast as it is read if `None`.
    pub stream_bytes_per_second: Option<u32>,
    /// What keeps events; without it none is accepted, and no function reads a stream.
    pub events: Option<crate::events::Options>,
    pub durable: crate::durable::Options,
    pub suspend: crate::suspend::Options,
    /// Where images may be fetched from by reference.
    pub registries: Vec<bowline_oci::registry::Registry>,
    /// What the node shares invocations with others by, if it is in a cluster.
    pub cluster: Option<crate::cluster::Options>,
    /// One backend for each kind of sandbox this node offers.
    pub backends: Vec<Arc<dyn Backend>>,
    /// What the service counts; register it where `/metrics` is served.
    pub metrics: Metrics,
}

/// A synchronous invocation.
pub struct InvocationRequest {
    pub request_id: RequestId,
    pub payload: Bytes,
    /// Decoded JSON.
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    /// Whether the tail of the log is wanted.
    pub log_tail: bool,
    /// Whether nothing but what the target names may answer, be it not ready yet.
    pub is_strict: bool,
}

/// What a synchronous invocation gives.
pub struct InvocationResponse {
    /// The answer, or the function's error.
    pub result: Result<Bytes, FunctionError>,
    /// The version that ran.
    pub executed_version: Version,
    /// Where its sandbox came from; `None` if there was none.
    pub rung: Option<Rung>,
    /// The fleet that it is in, where the account has fleets.
    pub stand: Option<bowline_sandbox::Stand>,
    /// The last 4 KiB of the invocation's log, if wanted.
    pub log_tail: Option<Vec<u8>>,
    /// The execution that it was, if the function is durable.
    pub execution: Option<crate::durable::ExecutionArn>,
    /// The node that ran it, if another one did.
    pub node: Option<u64>,
}

/// What a synchronous invocation gives whose answer is taken while the function still writes it.
pub struct StreamingResponse {
    /// The version that runs.
    pub executed_version: Version,
    /// The type that the function declared of its streamed answer, or `application/octet-stream`; `None`
    /// if the function answered in one piece, or failed before it began.
    ///
    /// An answer of type [`HTTP_CONTENT_TYPE`](bowline_sandbox::answer::HTTP_CONTENT_TYPE) begins with the
    /// head of an HTTP response: JSON, then eight zero bytes.
    pub content_type: Option<Box<str>>,
    /// The node that runs it, if another one does.
    pub node: Option<u64>,
    /// The answer, and how it ends.
    pub body: ResponseStream,
}

/// The running service; [`Service::start`] loads the registry and begins the background work.
pub struct Service {
    inner: Arc<Inner>,
    background: Vec<JoinHandle<()>>,
    log_thread: ThreadHandle<()>,
}

impl Service {
    /// Loads the registry, finishes what a crash left half done, and begins the background work.
    pub async fn start(options: Options) -> Result<Self, Error> {
        Self::start_with(options, CrashPoints::default()).await
    }

    /// The same, for tests that stop the process at a named moment.
    pub async fn start_with(options: Options, crash: CrashPoints) -> Result<Self, Error> {
        let guests = options.durable.guests;
        let (inner, log_thread) = Inner::open(options, crash)?;
        inner.load().await?;
        inner.open_folders().await.map_err(Error::service)?;
        inner.collect_orphans().await?;
        inner.recall_forecasts().await;
        inner.start_events();
        if let Some(guests) = guests {
            inner.durable.serve(guests(Handle::new(inner.clone())));
        }
        inner.start_durable_work();
        let mut background = vec![
            tokio::spawn(inner.sweeper.clone().run()),
            tokio::spawn(inner.clone().collect_garbage()),
            tokio::spawn(inner.clone().warm_up()),
            tokio::spawn(inner.clone().keep_provisioned()),
            tokio::spawn(inner.clone().foresee()),
            tokio::spawn(inner.clone().follow_use()),
            tokio::spawn(inner.clone().follow_fleets()),
            tokio::spawn(inner.clone().recover_runs()),
            tokio::spawn(inner.clone().watch_pressure()),
        ];
        if inner.registry.sharing == bowline_store::Sharing::Shared {
            background.push(tokio::spawn(follow::run(inner.clone())));
            background.push(tokio::spawn(inner.clone().watch_folders()));
        }
        if let Some(cluster) = &inner.cluster {
            background.push(tokio::spawn(inner.clone().take_part(cluster.clone())));
        }
        Ok(Self {
            inner,
            background,
            log_thread,
        })
    }

    pub fn handle(&self) -> Handle {
        Handle::new(self.inner.clone())
    }

    /// Refuses new invocations, lets the running ones end or reach their deadline, destroys all
    /// sandboxes, flushes the logs.
    pub async fn shut_down(self) {
        if let Some(events) = &self.inner.events {
            events.stop();
        }
        self.inner.durable.stop();
        self.inner.suspends.stop();
        self.inner.running.close().await;
        if let Some(cluster) = &self.inner.cluster {
            cluster.close().await;
        }
        self.inner.durable.join().await;
        self.inner.durable.close();
        if let Some(events) = &self.inner.events {
            events.join().await;
        }
        self.background.iter().for_each(JoinHandle::abort);
        for task in self.background {
            let _ = task.await;
        }
        self.inner.tell_calls();
        self.inner.keep_forecasts().await;
        self.inner.close().await;
        let joined = tokio::task::spawn_blocking(move || self.log_thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the log writer has died");
        }
    }
}
