//! Runs guests: short ones on the caller's own thread, others on threads of low priority.
//!
//! A guest is polled once where its caller is. Most finish there, and nothing is handed to another
//! thread. A guest that gives way at a tick, or waits, moves to the guest runtime, whose threads yield to
//! everything else the node does; there its deadline is watched too.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinError, JoinHandle};
use wasmtime::EngineWeak;

use crate::ticker::Ticker;

/// How much the guests' threads give way to the node's: as for `nice`.
const NICENESS: i32 = 15;

/// Guests that can be suspended and run at once; further ones wait.
const BLOCKING_THREADS_MAX: usize = 2_048;

/// A guest's work, boxed so that it can move while it runs.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where guests run.
pub(crate) struct Runner {
    ticker: Ticker,
    runtime: Option<Runtime>,
    handle: Handle,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The time was over; the guest is gone.
    Late,
    /// The guest's task panicked or the runtime ended.
    Lost(JoinError),
}

/// Tells when the last guest that moved is gone.
#[derive(Default)]
pub(crate) struct Departure(Option<oneshot::Receiver<()>>);

impl Departure {
    /// Returns when no guest of the sandbox runs any more.
    pub(crate) async fn wait(&mut self) {
        if let Some(gone) = self.0.take() {
            // Nothing is ever sent: the sender is dropped together with the guest.
            let _ = gone.await;
        }
    }
}

impl Runner {
    pub(crate) fn start(engines: Vec<EngineWeak>) -> std::io::Result<Arc<Self>> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(2))
            .thread_name("wasm-guest")
            .on_thread_start(lower_priority)
            // A computing guest is polled once a tick: look at timers almost as often.
            .event_interval(3)
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        Ok(Arc::new(Self {
            ticker: Ticker::start(engines)?,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        }))
    }

    /// Runs `work` to its end or for `budget`. Dropping the returned future ends the work;
    /// `departure` tells when it is gone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        mut work: Work<T>,
        budget: Duration,
        departure: &mut Departure,
    ) -> Result<T, Unfinished> {
        self.ticker.touch();
        let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        match first {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => self.move_away(work, budget, departure).await,
        }
    }

    /// Runs `work`, which may block and compute for long, on a thread of low priority.
    pub(crate) fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn_blocking(work)
    }

    async fn move_away<T: Send + 'static>(
        &self,
        work: Work<T>,
        budget: Duration,
        departure: &mut Departure,
    ) -> Result<T, Unfinished> {
        let _running = self.ticker.running();
        let (present, gone) = oneshot::channel();
        departure.0 = Some(gone);
        let guest = Moved {
            work,
            _present: present,
        };
        let task = self
            .handle
            .spawn(async move { tokio::time::timeout(budget, guest).await });
        let _abort = AbortOnDrop(task.abort_handle());
        match task.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_elapsed)) => Err(Unfinished::Late),
            Err(error) => Err(Unfinished::Lost(error)),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting here would block a thread of the node's own runtime.
            runtime.shutdown_background();
        }
    }
}

/// Work on the guest runtime; its fields are dropped in order, so that the word of its end comes last.
struct Moved<T> {
    work: Work<T>,
    _present: oneshot::Sender<()>,
}

impl<T> Future for Moved<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.work.as_mut().poll(context)
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::warn!(%error, "guests run at the node's own priority");
    }
}
