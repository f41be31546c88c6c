//! One admitted invocation, from a sandbox to the last line of its log.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_capacity::identity::RunId;
use bowline_capacity::sizing::{self, Sample};
use bowline_foundation::clock::Clock;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    AnswerSink, CheckpointMode, Deadline, FunctionError, Invocation, Outcome, Platform, Report, SandboxKind,
};
use tokio::runtime::Handle as RuntimeHandle;

use super::admission::{Admission, Entered};
use super::create::{Crowded, Got, NotCreated, cold, warm};
use super::mounted::{self, Turns, Way};
use super::pool::{Pool, Slot};
use crate::cluster::Away;
use crate::error::{Error, Throttle};
use crate::logs::{ReportLine, SandboxLog, Status};
use crate::metrics::ErrorKind;
use crate::service::{Inner, InvocationRequest, InvocationResponse};
use crate::state::StateAccess;
use crate::suspend::{Left, Seed};

/// What sandboxes call the end of a function that wanted more memory than it may have.
const OUT_OF_MEMORY: &str = "Runtime.OutOfMemory";

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
    /// Whether another node may run it. One that can be suspended stays: what is told of its suspensions is told
    /// where it arrived.
    fn may_leave(&self, inner: &Inner) -> bool {
        inner.cluster.is_some() && !self.is_forwarded && self.may_be_handed_on()
    }

    pub(super) fn may_be_handed_on(&self) -> bool {
        self.platform.is_none() && !self.asks_for_checkpoints() && !self.pool.parts.is_brought
    }

    fn asks_for_checkpoints(&self) -> bool {
        let mode = CheckpointMode::of(&self.pool.parts.spec.environment);
        mode.is_ok_and(|mode| mode.is_some())
    }

    pub(super) fn away<'a>(&'a self, outlet: &'a mut Option<Outlet>) -> Away<'a> {
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
    let turns = match job.pool.parts.spec.mounts.is_empty() {
        true => Turns::new(),
        // Boxed, so that the future of a warm invocation stays small.
        false => match Box::pin(mounted::way(&inner, &job, &mut outlet)).await {
            Way::Here(turns) => turns,
            Way::Ended(ended) => return *ended,
        },
    };
    let warm = warm(&job.pool);
    if warm.is_none()
        && job.pool.parts.spec.mounts.is_empty()
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
        is_forwarded,
    } = job;
    pool.parts.metrics.invocations.inc();
    let Got { mut slot, init, rung } = match warm {
        Some(got) => got,
        // Boxed, so that the future of a warm invocation stays small.
        None => match Box::pin(cold(&inner, &pool, Crowded::of(is_forwarded))).await {
            Ok(got) => got,
            Err(NotCreated::Refused(error)) if is_forwarded => return Err(handed_back(&pool, error)),
            Err(failure) => return not_created(&pool, &request, failure),
        },
    };
    slot.turns = turns;
    pool.parts.metrics.served(rung);
    slot.log.begin(&request.request_id, &pool.version_text, init.is_some());
    let (stand, deadline) = (slot.stand, deadline(&inner.clock, pool.parts.spec.timeout));
    let state = shared_state(&inner, &pool, (&request, deadline), &platform);
    let platform = state.clone().map(|state| state as Arc<dyn Platform>).or(platform);
    let (request_id, log_tail) = (request.request_id, request.log_tail);
    let seed = seed(request, deadline, invoked_arn);
    let mut admission = Some(admission);
    let ways = (outlet.map(|outlet| outlet.sink), platform);
    let (report, left) = perform(&inner, (&pool, slot), seed, ways, &mut admission).await;
    state.iter().for_each(|state| state.end());
    let answer = Answer {
        pool: &pool,
        request_id,
        log_tail,
        init,
        memory: left.as_ref().map_or_else(|_| pool.size(), Slot::memory),
        memory_bytes_max: peak(&report, &left),
    };
    let response = answer.conclude(log_of(&left), &report);
    if let Ok(mut slot) = left {
        slot.used = answer.used(&report);
        put_away(&inner, &pool, slot, &report, (admission, entered));
    }
    response.map(|log_tail| InvocationResponse {
        result: result(report),
        executed_version: pool.parts.version,
        rung: Some(rung),
        stand: stand.filter(|_| pool.mooring.is_set()),
        log_tail,
        execution: None,
        node: None,
    })
}

fn seed(request: InvocationRequest, deadline: Deadline, invoked_arn: String) -> Seed {
    Seed {
        request_id: request.request_id,
        payload: request.payload,
        deadline,
        invoked_arn,
        client_context: request.client_context,
        trace_id: request.trace_id,
    }
}

/// The most memory that the run had, as far as it is known.
fn peak(report: &Report, left: &Left) -> u64 {
    match (report.usage.memory_bytes_max, left) {
        (0, Ok(slot)) => slot.sandbox.resident_bytes(),
        (bytes, _) => bytes,
    }
}

fn log_of(left: &Left) -> &Arc<SandboxLog> {
    left.as_ref().map_or_else(|log| log, |slot| &slot.log)
}

/// Gives a sandbox back after an invocation, or ends it.
fn put_away(inner: &Arc<Inner>, pool: &Arc<Pool>, slot: Slot, report: &Report, counted: (Option<Admission>, Entered)) {
    if !report.reusable || matches!(report.outcome, Outcome::Broken(_)) {
        inner.runtime.spawn(pool.clone().destroy(slot));
    } else if slot.sandbox.is_settled() && slot.turns.is_empty() {
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
    (pool, mut slot): (&Arc<Pool>, Slot),
    seed: Seed,
    (sink, platform): Ways,
    place: &mut Option<Admission>,
) -> (Report, Left) {
    let is_plain = sink.is_none() && (platform.is_none() || pool.parts.spec.kind == SandboxKind::Wasm);
    let can_suspend = slot.sandbox.can_suspend();
    if is_plain && pool.suspend_mode().is_some() && Box::pin(inner.carries(&seed.request_id, can_suspend)).await {
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
    (slot.sandbox.invoke(invocation).await, Ok(slot))
}

/// Gives a sandbox back once everybody in it has done with the last invocation.
async fn settle(inner: Arc<Inner>, pool: Arc<Pool>, mut slot: Slot, _counted: (Option<Admission>, Entered)) {
    if slot.sandbox.is_settled() || slot.sandbox.settle().await {
        if !slot.turns.is_empty() {
            // What it left running writes nothing more before its next turn.
            slot.sandbox.idle().await;
            if !slot.sandbox.is_alive() {
                // Its turn ends with it.
                return pool.destroy(slot).await;
            }
            slot.turns.clear();
        }
        inner.sweeper.give_back(&pool, slot);
    } else {
        pool.destroy(slot).await;
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

/// What the node is told that handed an invocation on for which there is no sandbox. Nothing has begun, so that it
/// runs it itself, whatever is amiss here.
fn handed_back(pool: &Pool, error: Error) -> Error {
    if matches!(error, Error::Throttled(_)) {
        return error;
    }
    tracing::warn!(function = %pool.parts.spec.function, error = &error as &dyn std::error::Error,
        "no sandbox could be created for an invocation of another node");
    Error::Throttled(Throttle::Memory)
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
        answer_bytes: 0,
        status: Status::Error {
            error_type: &error.error_type,
        },
    };
    let log_tail = log.end(&request.request_id, &line, request.log_tail);
    Ok(InvocationResponse {
        result: Err(error),
        executed_version: pool.parts.version,
        rung: None,
        stand: None,
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
    /// What the sandbox may have.
    memory: Mebibytes,
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
            memory_mib: self.memory.0,
            memory_bytes_max: self.memory_bytes_max,
            answer_bytes: answer_bytes(&report.outcome),
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

    /// What the run has used, if it speaks for a size. Where the peak is unknown it tells nothing of its memory,
    /// unless it wanted more than there was.
    fn used(&self, report: &Report) -> Option<Sample> {
        let sample = self.sample(report);
        (self.memory_bytes_max > 0 || sample.outcome == sizing::Outcome::OutOfMemory).then_some(sample)
    }

    fn sample(&self, report: &Report) -> Sample {
        let outcome = match &report.outcome {
            Outcome::Success(_) => sizing::Outcome::Ok,
            Outcome::Failed(error) if error.error_type == OUT_OF_MEMORY => sizing::Outcome::OutOfMemory,
            Outcome::Failed(error) if ErrorKind::of(&error.error_type) == ErrorKind::Timeout => {
                sizing::Outcome::TimedOut
            }
            Outcome::Failed(_) | Outcome::Broken(_) | Outcome::Suspended(_) => sizing::Outcome::Failed,
        };
        let peak = self.memory_bytes_max.div_ceil(Mebibytes(1).bytes());
        Sample {
            run: RunId(self.request_id.tail()),
            limit: self.memory,
            peak: Mebibytes(u32::try_from(peak).unwrap_or(u32::MAX)),
            duration_ms: u64::try_from(report.usage.duration.as_millis()).unwrap_or(u64::MAX),
            outcome,
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

/// The length of what the runtime has answered in one piece.
fn answer_bytes(outcome: &Outcome) -> u64 {
    let bytes = match outcome {
        Outcome::Success(answer) => answer.len(),
        Outcome::Failed(error) => error.payload.len(),
        Outcome::Broken(_) | Outcome::Suspended(_) => 0,
    };
    bytes as u64
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
