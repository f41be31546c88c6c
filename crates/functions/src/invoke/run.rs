//! One admitted invocation, from a sandbox to the last line of its log.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::{
    AnswerSink, CreateError, Deadline, FunctionError, Invocation, Outcome, Platform, Report, Sandbox, VersionSpec,
};
use tokio::runtime::Handle as RuntimeHandle;

use super::admission::{Admission, Entered};
use super::pool::{Pool, Slot};
use crate::cluster::Away;
use crate::error::{Error, Throttle};
use crate::logs::{ReportLine, SandboxLog, Sink, Status};
use crate::metrics::ErrorKind;
use crate::service::{Inner, InvocationRequest, InvocationResponse};
use crate::state::StateAccess;
use crate::suspend::Seed;

/// An invocation that was let in.
pub(crate) struct Job {
    pub pool: Arc<Pool>,
    pub request: InvocationRequest,
    /// The ARN the caller used.
    pub invoked_arn: String,
    pub admission: Admission,
    pub entered: Entered,
    /// What the guest may ask meanwhile; it can be asked on this node only.
    pub platform: Option<Arc<dyn Platform>>,
    /// Whether another node has handed it on.
    pub is_forwarded: bool,
}

impl Job {
    /// Whether another node may run it.
    fn may_leave(&self, inner: &Inner) -> bool {
        inner.cluster.is_some() && !self.is_forwarded && self.platform.is_none()
    }

    fn away<'a>(&'a self, outlet: &'a mut Option<Outlet>) -> Away<'a> {
        Away {
            pool: &self.pool,
            request: &self.request,
            invoked_arn: &self.invoked_arn,
            outlet,
        }
    }
}

/// Where a streamed answer goes.
pub(crate) struct Outlet {
    pub sink: AnswerSink,
    /// The node that runs the invocation for this one; zero if it runs here.
    pub ran_on: Arc<AtomicU64>,
}

impl Outlet {
    pub fn new(sink: AnswerSink) -> Self {
        let ran_on = Arc::default();
        Self { sink, ran_on }
    }
}

/// Runs an invocation to its end. With an `outlet` the answer goes there if the function streams it; what it
/// answers in one piece is in the response as ever.
pub(crate) async fn run(inner: Arc<Inner>, job: Job, mut outlet: Option<Outlet>) -> Result<InvocationResponse, Error> {
    let warm = warm(&job.pool);
    if warm.is_none()
        && job.may_leave(&inner)
        && let Some(response) = Box::pin(inner.elsewhere(job.away(&mut outlet))).await
    {
        return response;
    }
    let Job {
        pool,
        request,
        invoked_arn,
        admission,
        entered,
        platform,
        is_forwarded: _,
    } = job;
    pool.parts.metrics.invocations.inc();
    let (mut slot, init) = match warm {
        Some(slot) => (slot, None),
        None => match cold(&inner, &pool).await {
            Ok((slot, init)) => (slot, Some(init)),
            Err(failure) => return not_created(&pool, &request, failure),
        },
    };
    slot.log.begin(&request.request_id, &pool.version_text, init.is_some());
    let deadline = deadline(&inner.clock, pool.parts.spec.timeout);
    let state = shared_state(&inner, &pool, (&request, deadline), &platform);
    let platform = state.clone().map(|state| state as Arc<dyn Platform>).or(platform);
    let seed = Seed {
        request_id: request.request_id,
        payload: request.payload,
        deadline,
        invoked_arn,
        client_context: request.client_context,
        trace_id: request.trace_id,
    };
    let mut admission = Some(admission);
    let ways = (outlet.map(|outlet| outlet.sink), platform);
    let report = perform(&inner, (&pool, &mut slot), seed, ways, &mut admission).await;
    if let Some(state) = state {
        state.end();
    }
    let memory_bytes_max = match report.usage.memory_bytes_max {
        0 => slot.sandbox.resident_bytes(),
        bytes => bytes,
    };
    let answer = Answer {
        pool: &pool,
        request_id: request.request_id,
        log_tail: request.log_tail,
        init,
        memory_bytes_max,
    };
    let response = answer.conclude(&slot.log, &report);
    put_away(&inner, &pool, slot, &report, (admission, entered));
    response.map(|log_tail| InvocationResponse {
        result: result(report),
        executed_version: pool.parts.version,
        log_tail,
        execution: None,
        node: None,
    })
}

/// Gives a sandbox back after an invocation, or ends it.
fn put_away(inner: &Arc<Inner>, pool: &Arc<Pool>, slot: Slot, report: &Report, counted: (Option<Admission>, Entered)) {
    if !report.reusable || matches!(report.outcome, Outcome::Broken(_)) {
        inner.runtime.spawn(pool.clone().destroy(slot));
    } else if slot.sandbox.is_settled() {
        inner.sweeper.give_back(pool, slot);
    } else {
        // The caller has its answer; the sandbox stays busy, and counts as such, a while longer.
        inner.runtime.spawn(settle(inner.clone(), pool.clone(), slot, counted));
    }
}

/// What a sandbox is given besides the invocation itself.
type Ways = (Option<AnswerSink>, Option<Arc<dyn Platform>>);

/// Hands an invocation to its sandbox; one that can be suspended is carried over its suspensions.
async fn perform(
    inner: &Arc<Inner>,
    (pool, slot): (&Arc<Pool>, &mut Slot),
    seed: Seed,
    (sink, platform): Ways,
    place: &mut Option<Admission>,
) -> Report {
    if sink.is_none() && pool.suspend_mode().is_some() {
        // Boxed, so that the future of a plain invocation stays small.
        return Box::pin(inner.carry(pool, slot, seed, place)).await;
    }
    let invocation = Invocation {
        request_id: seed.request_id,
        payload: seed.payload,
        deadline: seed.deadline,
        invoked_arn: seed.invoked_arn,
        client_context: seed.client_context,
        trace_id: seed.trace_id,
        sink,
        platform,
        suspension: None,
    };
    slot.sandbox.invoke(invocation).await
}

/// Gives a sandbox back once everybody in it has done with the last invocation.
async fn settle(inner: Arc<Inner>, pool: Arc<Pool>, mut slot: Slot, _counted: (Option<Admission>, Entered)) {
    if slot.sandbox.settle().await {
        inner.sweeper.give_back(&pool, slot);
    } else {
        pool.destroy(slot).await;
    }
}

/// The newest idle sandbox that still lives.
fn warm(pool: &Arc<Pool>) -> Option<Slot> {
    loop {
        let mut slot = pool.take()?;
        if slot.sandbox.is_alive() {
            return Some(slot);
        }
        tracing::debug!(function = %pool.parts.spec.function, "an idle sandbox has died");
        tokio::spawn(pool.clone().destroy(slot));
    }
}

/// The way to the shared state that is attached to the function; where none is, this is one load.
fn shared_state(
    inner: &Arc<Inner>,
    pool: &Pool,
    (request, deadline): (&InvocationRequest, Deadline),
    next: &Option<Arc<dyn Platform>>,
) -> Option<Arc<StateAccess>> {
    if !pool.parts.live.has_state.load(Ordering::Relaxed) {
        return None;
    }
    let account = pool.parts.spec.account.clone();
    let uses = inner
        .registry
        .snapshot
        .get(&account, &pool.parts.name)?
        .state()?
        .clone();
    let holder = (request.request_id.to_string(), deadline.wall);
    Some(StateAccess::new((inner.clone(), account), uses, holder, next.clone()))
}

fn deadline(clock: &Clock, budget: Duration) -> Deadline {
    Deadline {
        wall: clock.now().after(budget),
        monotonic: clock.monotonic().after(budget),
        budget,
    }
}

/// Why there is no sandbox.
pub(super) enum NotCreated {
    /// The function failed while it initialised.
    Init(FunctionError, Arc<SandboxLog>, Duration),
    Refused(Error),
}

/// Creates a sandbox for an invocation that waits for it.
async fn cold(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<(Slot, Duration), NotCreated> {
    let (sandbox, log, init) = create(inner, pool, pool.parts.spec.clone()).await?;
    pool.parts.metrics.cold_starts.inc();
    pool.parts.metrics.init_durations.observe(init.as_secs_f64());
    Ok((pool.created(sandbox, log), init))
}

/// A sandbox for a run that was suspended, for which no warm one is at hand.
pub(crate) async fn create_for_run(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<Slot, String> {
    match cold(inner, pool).await {
        Ok((slot, _)) => Ok(slot),
        Err(NotCreated::Init(error, ..)) => Err(error.error_type),
        Err(NotCreated::Refused(error)) => Err(error.to_string()),
    }
}

/// A sandbox with its log, and how long it took to initialise.
type Created = (Box<dyn Sandbox>, Arc<SandboxLog>, Duration);

/// Creates a sandbox; if there is no room, at the cost of the one that has been idle longest.
pub(super) async fn create(inner: &Arc<Inner>, pool: &Pool, spec: Arc<VersionSpec>) -> Result<Created, NotCreated> {
    let begin = inner.clock.monotonic();
    inner.ensure_prepared(pool).await.map_err(NotCreated::Refused)?;
    let log = SandboxLog::new(pool.parts.live.log.clone(), inner.logs.clone());
    let mut evicted = false;
    loop {
        let sink = Arc::new(Sink(log.clone()));
        let failure = match pool.parts.backend.create(spec.clone(), sink).await {
            Ok(sandbox) => return Ok((sandbox, log, inner.clock.monotonic().since(begin))),
            Err(failure) => failure,
        };
        match failure {
            CreateError::Init(error) => {
                return Err(NotCreated::Init(error, log, inner.clock.monotonic().since(begin)));
            }
            CreateError::Exhausted(reason) => {
                // Another kind's end would make no room for this one.
                let kind = pool.parts.backend.kind();
                let victim = if evicted { None } else { inner.sweeper.evict(kind) };
                let Some((owner, slot)) = victim else {
                    tracing::warn!(function = %pool.parts.spec.function, reason, "no room for a sandbox");
                    return Err(NotCreated::Refused(Error::Throttled(Throttle::AccountConcurrency)));
                };
                evicted = true;
                owner.destroy(slot).await;
            }
            error @ CreateError::Backend(_) => return Err(NotCreated::Refused(Error::service(error))),
        }
    }
}

fn not_created(pool: &Pool, request: &InvocationRequest, failure: NotCreated) -> Result<InvocationResponse, Error> {
    let (error, log, init) = match failure {
        NotCreated::Init(error, log, init) => (error, log, init),
        NotCreated::Refused(error) => {
            if !matches!(error, Error::Throttled(_)) {
                pool.parts.metrics.failed(ErrorKind::Platform);
                tracing::warn!(request_id = %request.request_id, function = %pool.parts.spec.function,
                    error = &error as &dyn std::error::Error, "no sandbox could be created");
            }
            return Err(error);
        }
    };
    pool.parts.metrics.failed(ErrorKind::Init);
    tracing::debug!(request_id = %request.request_id, function = %pool.parts.spec.function,
        error_type = error.error_type, "the function failed to initialise");
    log.begin(&request.request_id, &pool.version_text, true);
    let line = ReportLine {
        duration: init,
        init: Some(init),
        memory_mib: pool.parts.spec.memory.0,
        memory_bytes_max: 0,
        status: Status::Error {
            error_type: &error.error_type,
        },
    };
    let log_tail = log.end(&request.request_id, &line, request.log_tail);
    Ok(InvocationResponse {
        result: Err(error),
        executed_version: pool.parts.version,
        log_tail,
        execution: None,
        node: None,
    })
}

/// What is said about an invocation when it has ended.
struct Answer<'a> {
    pool: &'a Pool,
    request_id: RequestId,
    log_tail: bool,
    init: Option<Duration>,
    memory_bytes_max: u64,
}

impl Answer<'_> {
    /// Writes the last lines of the log and counts; returns the log's tail if it is wanted.
    fn conclude(&self, log: &Arc<SandboxLog>, report: &Report) -> Result<Option<Vec<u8>>, Error> {
        let parts = &self.pool.parts;
        parts.metrics.durations.observe(report.usage.duration.as_secs_f64());
        let status = match &report.outcome {
            Outcome::Success(_) => Status::Success,
            Outcome::Failed(error) => self.failed(log, error),
            Outcome::Suspended(_) => {
                parts.metrics.failed(ErrorKind::Platform);
                Status::Error {
                    error_type: "Sandbox.Failure",
                }
            }
            Outcome::Broken(reason) => {
                parts.metrics.failed(ErrorKind::Platform);
                tracing::warn!(request_id = %self.request_id, function = %parts.spec.function, reason,
                    "a sandbox broke");
                Status::Error {
                    error_type: "Sandbox.Failure",
                }
            }
        };
        let line = ReportLine {
            duration: report.usage.duration,
            init: self.init,
            memory_mib: parts.spec.memory.0,
            memory_bytes_max: self.memory_bytes_max,
            status,
        };
        let tail = log.end(&self.request_id, &line, self.log_tail);
        tracing::debug!(request_id = %self.request_id, function = %parts.spec.function,
            version = %self.pool.version_text, duration_us = report.usage.duration.as_micros() as u64,
            cold = self.init.is_some(), "invocation ended");
        match &report.outcome {
            Outcome::Broken(reason) => Err(Error::Service(reason.clone().into())),
            Outcome::Suspended(_) => Err(Error::Service("nobody has asked the guest to leave".into())),
            _ => Ok(tail),
        }
    }

    fn failed<'e>(&self, log: &Arc<SandboxLog>, error: &'e FunctionError) -> Status<'e> {
        let kind = ErrorKind::of(&error.error_type);
        self.pool.parts.metrics.failed(kind);
        if kind == ErrorKind::Timeout {
            log.timed_out(&self.request_id, self.pool.parts.spec.timeout);
            return Status::Timeout;
        }
        Status::Error {
            error_type: &error.error_type,
        }
    }
}

fn result(report: Report) -> Result<bytes::Bytes, FunctionError> {
    match report.outcome {
        Outcome::Success(answer) if answer.len() > SYNC_PAYLOAD_BYTES_MAX => Err(FunctionError::response_too_large(
            answer.len() as u64,
            SYNC_PAYLOAD_BYTES_MAX,
        )),
        Outcome::Success(answer) => Ok(answer),
        Outcome::Failed(error) => Err(error),
        Outcome::Broken(reason) => Err(FunctionError::new("Sandbox.Failure", &reason)),
        Outcome::Suspended(_) => Err(FunctionError::new("Sandbox.Failure", "the guest has left")),
    }
}

/// Lets a future go on in the background if its caller goes away before it has ended.
pub(crate) struct Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    future: Option<Pin<Box<F>>>,
    runtime: RuntimeHandle,
}

impl<F> Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    pub fn new(future: F, runtime: RuntimeHandle) -> Self {
        Self {
            future: Some(Box::pin(future)),
            runtime,
        }
    }
}

impl<F> Future for Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("a future is not polled after it has ended");
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F> Drop for Finish<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.runtime.spawn(future);
        }
    }
}
