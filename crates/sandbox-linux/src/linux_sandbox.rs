//! One sandbox: a cell, its Runtime API, its output, and the waiting for all of them at once.

mod company;
mod shutdown;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Monotonic, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    CreateError, Deadline, FunctionError, Invocation, LogSink, Outcome, ProcessorShare, Report, Sandbox, Usage,
    VersionSpec,
};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch as channel;

use crate::cell::{Cell, CellError, Claim, Command, Exit, ExitStatus};
use crate::output::Output;
use crate::runtime_api::{About, Answer, Ready, Server};
use crate::watch;
use company::{Company, News};
use shutdown::Reason;

/// An invocation that needs more competes no more with what is short: it gets the processor time that
/// others leave. Longer than most invocations, shorter than what a neighbour would notice often.
const INVOKE_CLAIM_MAX: Duration = Duration::from_millis(20);
/// The same for an initialisation, which loads libraries and comes but once.
const INIT_CLAIM_MAX: Duration = Duration::from_millis(500);
/// A claim is used up once the guest has had a processor for this part of it.
const CLAIM_PART: u32 = 2;
/// The longest time between two looks at what a guest has used of its claim.
const CLAIM_LOOK_MAX: Duration = INIT_CLAIM_MAX;
/// How long a guest takes what others leave before it has a new claim: where they leave nothing it would never end.
const LEFTOVER_MAX: Duration = Duration::from_secs(2);

/// How long a guest that is about to end is waited for.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

/// The memory at which Lambda gives one whole processor.
const MEMORY_PER_PROCESSOR: Mebibytes = Mebibytes(1769);

/// What a sandbox knows of the world and of its function.
pub(crate) struct Surroundings {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) spec: Arc<VersionSpec>,
    /// What the runtime gets, and most of it the extensions too.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) log_bytes_max: usize,
    /// Subscribed to by each sandbox whose end takes a while.
    pub(crate) endings: Arc<channel::Sender<()>>,
}

/// How the runtime is set going.
pub(crate) enum Departure {
    /// The program is executed.
    Exec(Command),
    /// A program that waits is told what to become.
    Orders(UnixStream, Vec<u8>),
}

/// A sandbox that is initialised, or about to be.
pub(crate) struct LinuxSandbox {
    cell: Cell,
    server: Server,
    output: Output,
    /// Becomes readable when the guest is gone, and its companions too.
    death: AsyncFd<OwnedFd>,
    context: Surroundings,
    company: Company,
    begun_at: Timestamp,
    runtime_started: bool,
    /// Of the last invocation.
    deadline: Monotonic,
    /// Why it will end, if it ends now.
    reason: Reason,
    /// Processor time up to the last report.
    cpu_reported: Duration,
    frozen: bool,
}

/// Why the waiting for a guest ended.
enum End<T> {
    Done(T),
    Died,
    TimedOut,
    /// An extension failed.
    ExtensionFailed,
    Broken(io::Error),
}

impl LinuxSandbox {
    /// Makes a sandbox of a cell that is furnished.
    pub(crate) fn new(mut cell: Cell, output: Output, context: Surroundings) -> io::Result<Self> {
        let (server, death) = attach(&mut cell, &context)?;
        Ok(Self {
            cell,
            server,
            output,
            death,
            company: Company::default(),
            begun_at: context.clock.now(),
            runtime_started: false,
            deadline: Monotonic::default(),
            reason: Reason::Spindown,
            context,
            cpu_reported: Duration::ZERO,
            frozen: false,
        })
    }

    /// Starts the extensions and the runtime, and waits until all of them ask for their first event; a
    /// sandbox that fails is destroyed.
    pub(crate) async fn initialise(mut self, departure: Departure) -> Result<Self, CreateError> {
        let begun = self.context.clock.monotonic();
        let brought_up = self.bring_up(departure, begun).await;
        self.output.drain();
        self.company.drain();
        let error_type = match &brought_up {
            Ok(()) => None,
            Err(CreateError::Init(error)) => Some(error.error_type.as_str()),
            Err(_) => Some("Sandbox.Failure"),
        };
        let took = self.context.clock.monotonic().since(begun);
        self.company_initialised(error_type, took);
        if let Err(error) = brought_up {
            // What it says in its last moments often tells why.
            self.drain_last_words().await;
            self.give_up().await;
            return Err(error);
        }
        Ok(self)
    }

    async fn bring_up(&mut self, departure: Departure, begun: Monotonic) -> Result<(), CreateError> {
        let limit = self.context.spec.init_limit();
        if !self.cell.companions().is_empty() {
            self.launch_extensions().await?;
            match self.wait(limit, Server::poll_registered).await {
                End::Done(()) => {}
                other => return Err(self.not_initialised(other, limit)),
            }
        }
        // The interpreter may still be on its way to the place where it reads its orders.
        let _control = self.set_going(departure).await?;
        let left = limit.saturating_sub(self.context.clock.monotonic().since(begun));
        match self.wait_yielding(INIT_CLAIM_MAX, left, Server::poll_ready).await {
            End::Done(Ready::Idle) => Ok(()),
            End::Done(Ready::Failed(error)) => Err(CreateError::Init(error)),
            other => Err(self.not_initialised(other, limit)),
        }
    }

    fn not_initialised<T>(&mut self, end: End<T>, limit: Duration) -> CreateError {
        match end {
            End::TimedOut => CreateError::Init(init_timed_out(limit, &self.unready())),
            End::ExtensionFailed => self.extension_failed(),
            End::Broken(error) => CreateError::Backend(error),
            End::Died | End::Done(_) => CreateError::Init(self.exit_error(None)),
        }
    }

    /// Sets the runtime going. What it is told must not be dropped before it has listened.
    async fn set_going(&mut self, departure: Departure) -> Result<Option<UnixStream>, CreateError> {
        self.runtime_started = true;
        match departure {
            Departure::Exec(command) => {
                let program = command.argv.first().cloned().unwrap_or_default();
                let folder = command.cwd.clone();
                self.cell.exec(command).await.map_err(|error| match error {
                    CellError::Step { step, source } if step == "chdir" => {
                        let message = format!("Error: chdir {}: {source}", folder.display());
                        CreateError::Init(FunctionError::new("Runtime.InvalidWorkingDir", &message))
                    }
                    CellError::Step { source, .. } => {
                        let message = format!("Error: fork/exec {}: {source}", program.to_string_lossy());
                        CreateError::Init(FunctionError::new("Runtime.InvalidEntrypoint", &message))
                    }
                    other => self.of_cell(other),
                })?;
                Ok(None)
            }
            Departure::Orders(mut control, orders) => {
                // If the interpreter is gone already, the waiting for it says so better.
                let _ = control.write_all(&orders).await;
                Ok(Some(control))
            }
        }
    }

    fn of_cell(&self, error: CellError) -> CreateError {
        cell_error(error, self.context.spec.memory)
    }

    /// Ends a sandbox that could not be initialised. Extensions may finish, but nobody waits for them.
    async fn give_up(mut self) {
        self.reason = Reason::Failure;
        if self.has_external().is_none() {
            return self.cell.destroy().await;
        }
        tokio::spawn(async move {
            self.shut_down().await;
            self.cell.destroy().await;
        });
    }

    /// A program that said why it cannot be initialised ends by itself at once.
    async fn drain_last_words(&mut self) {
        let _ = self.wait(LAST_WORDS_MAX, |_, _| Poll::<io::Result<()>>::Pending).await;
        self.output.drain();
    }

    /// The error of a guest whose streamed answer broke off: of a guest that dies, the connections go first.
    async fn truncated(&mut self, request_id: RequestId) -> FunctionError {
        let end = self.wait(LAST_WORDS_MAX, |_, _| Poll::<io::Result<()>>::Pending).await;
        self.output.drain();
        match end {
            End::Died => self.exit_error(Some(request_id)),
            _ => FunctionError::new("Runtime.TruncatedResponse", "the runtime ended its answer early"),
        }
    }

    /// Waits for the guest, taking its output meanwhile.
    async fn wait<T>(
        &mut self,
        limit: Duration,
        mut poll: impl FnMut(&mut Server, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> End<T> {
        let mut timer = pin!(tokio::time::sleep(limit));
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(&mut self.server, cx) {
                return Poll::Ready(done.map_or_else(End::Broken, End::Done));
            }
            self.output.poll_drain(cx);
            let news = self.poll_company(cx);
            let died = matches!(news, Poll::Ready(News::RuntimeEnded)) || self.death.poll_read_ready(cx).is_ready();
            if died || news.is_ready() {
                // It may have answered before it died.
                return Poll::Ready(match poll(&mut self.server, cx) {
                    Poll::Ready(Ok(done)) => End::Done(done),
                    _ if matches!(news, Poll::Ready(News::Failed)) => End::ExtensionFailed,
                    _ => End::Died,
                });
            }
            timer.as_mut().poll(cx).map(|()| End::TimedOut)
        })
        .await
    }

    /// The error of a guest that is gone.
    fn exit_error(&mut self, request_id: Option<RequestId>) -> FunctionError {
        let exit = self.cell.try_exit().unwrap_or(Exit {
            status: ExitStatus::Signal(libc::SIGKILL),
            out_of_memory: false,
        });
        exit_error(request_id, exit, self.context.spec.memory)
    }

    fn usage_since(&mut self, duration: Duration) -> Usage {
        let usage = self.cell.usage();
        let cpu = usage.cpu.saturating_sub(self.cpu_reported);
        self.cpu_reported = usage.cpu;
        Usage {
            duration,
            memory_bytes_max: usage.memory_bytes_max,
            cpu,
        }
    }

    /// Waits like [`Self::wait`]; a guest that has used its claim gets only the processor time that others leave, for
    /// [`LEFTOVER_MAX`]. One that still waits for a processor has not used it: on a machine that is full it would
    /// never get on.
    async fn wait_yielding<T>(
        &mut self,
        claim: Duration,
        limit: Duration,
        mut poll: impl FnMut(&mut Server, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> End<T> {
        let mut before = self.cpu_reported;
        let (mut waited, mut turn) = (Duration::ZERO, claim);
        loop {
            let end = self.wait(turn.min(limit - waited), &mut poll).await;
            waited += turn;
            if waited >= limit || !matches!(end, End::TimedOut) {
                return end;
            }
            if self.cell.usage().cpu.saturating_sub(before) < claim / CLAIM_PART {
                turn = (turn * 2).min(CLAIM_LOOK_MAX);
                continue;
            }
            let cpu_millis = processors(&self.context.spec).share_millis;
            self.cell.set_claim(Claim::Leftover { cpu_millis });
            let end = self.wait(LEFTOVER_MAX.min(limit - waited), &mut poll).await;
            self.cell.set_claim(Claim::Full { cpu_millis });
            waited += LEFTOVER_MAX;
            if waited >= limit || !matches!(end, End::TimedOut) {
                return end;
            }
            (before, turn) = (self.cell.usage().cpu, claim);
        }
    }

    /// Lets a sandbox that stands still move again.
    fn wake(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.frozen) {
            self.cell.thaw()?;
            if let Some(hub) = self.company.hub() {
                hub.resume();
            }
        }
        Ok(())
    }

    async fn run(&mut self, invocation: Invocation) -> (Outcome, bool) {
        if let Err(error) = self.wake() {
            return (Outcome::Broken(format!("sandbox could not be thawed: {error}")), false);
        }
        let id = invocation.request_id;
        let deadline = invocation.deadline;
        self.output.begin();
        self.company.begin();
        self.deadline = deadline.monotonic;
        if !self.server.start(invocation) {
            return (Outcome::Broken("sandbox is not ready for an event".to_owned()), false);
        }
        let left = deadline.monotonic.since(self.context.clock.monotonic());
        let end = self.wait_yielding(INVOKE_CLAIM_MAX, left, Server::poll_answer).await;
        self.output.drain();
        self.server.finish();
        match end {
            End::Done(Answer::Response(body)) => (Outcome::Success(body), true),
            End::Done(Answer::Streamed) => (Outcome::Success(Bytes::new()), true),
            End::Done(Answer::BrokeOff(error)) => (Outcome::Failed(error), false),
            End::Done(Answer::Truncated) => (Outcome::Failed(self.truncated(id).await), false),
            End::Done(Answer::Error(error)) => (Outcome::Failed(error), true),
            // Some clients end when an answer of theirs is refused: do not wait to see.
            End::Done(Answer::TooLarge(bytes)) => {
                let error = FunctionError::response_too_large(bytes, SYNC_PAYLOAD_BYTES_MAX);
                (Outcome::Failed(error), false)
            }
            End::TimedOut => {
                self.reason = Reason::Timeout;
                (Outcome::Failed(FunctionError::timed_out(id, deadline.budget)), false)
            }
            End::ExtensionFailed => {
                let error = self.server.extension_failure(Some(id));
                let unknown = || FunctionError::new("Extension.Crash", "an extension failed");
                (Outcome::Failed(error.unwrap_or_else(unknown)), false)
            }
            End::Died => (Outcome::Failed(self.exit_error(Some(id))), false),
            End::Broken(error) => (Outcome::Broken(format!("runtime API failed: {error}")), false),
        }
    }
}

fn attach(cell: &mut Cell, context: &Surroundings) -> io::Result<(Server, AsyncFd<OwnedFd>)> {
    let listener = std::net::TcpListener::from(cell.take_listener());
    let server = Server::new(TcpListener::from_std(listener)?).with_extensions(About {
        spec: context.spec.clone(),
        entropy: context.entropy.clone(),
    });
    let death = watch::readable(cell.pidfd().try_clone_to_owned()?)?;
    Ok((server, death))
}

/// What an error of a cell means for a version that is being initialised.
pub(crate) fn cell_error(error: CellError, memory: Mebibytes) -> CreateError {
    match error {
        CellError::Ended(status) => {
            let out_of_memory = false;
            CreateError::Init(exit_error(None, Exit { status, out_of_memory }, memory))
        }
        other => CreateError::Backend(io::Error::other(other)),
    }
}

/// The error of a guest that ended as `exit` says, in Lambda's words.
pub(crate) fn exit_error(request_id: Option<RequestId>, exit: Exit, memory: Mebibytes) -> FunctionError {
    let prefix = request_id.map_or_else(String::new, |id| format!("RequestId: {id} "));
    if exit.out_of_memory {
        let limit = memory.0;
        let message =
            format!("{prefix}Error: Runtime exited with error: signal: killed (memory limit of {limit} MB reached)");
        return FunctionError::new("Runtime.OutOfMemory", &message);
    }
    if exit.status == ExitStatus::Code(0) {
        let message = format!("{prefix}Error: Runtime exited without providing a reason");
        return FunctionError::new("Runtime.ExitError", &message);
    }
    match request_id {
        Some(id) => FunctionError::exited(id, &exit.status.to_string()),
        None => {
            let message = format!("Error: Runtime exited with error: {}", exit.status);
            FunctionError::new("Runtime.ExitError", &message)
        }
    }
}

/// The error of an initialisation in which the runtime, or these extensions, never asked for an event.
fn init_timed_out(limit: Duration, extensions: &[String]) -> FunctionError {
    let who = match extensions {
        [] => "the runtime".to_owned(),
        names => format!("extension `{}`", names.join("`, `")),
    };
    let message = format!(
        "Error: initialisation timed out after {:.2} seconds: {who} never asked for an event",
        limit.as_secs_f64()
    );
    FunctionError::new("Sandbox.Timedout", &message)
}

#[async_trait]
impl Sandbox for LinuxSandbox {
    async fn invoke(&mut self, invocation: Invocation) -> Report {
        let started = self.context.clock.monotonic();
        let Deadline { monotonic, budget, .. } = invocation.deadline;
        let told = self.tell_start(&invocation, started);
        let (outcome, reusable) = self.run(invocation).await;
        let ended = self.context.clock.monotonic();
        if !reusable && self.reason == Reason::Spindown {
            self.reason = Reason::Failure;
        }
        let mut duration = ended.since(started);
        if !reusable && ended >= monotonic {
            // It had its whole time, though a little of it passed before it was handed over.
            duration = duration.max(budget);
        }
        let report = Report {
            outcome,
            usage: self.usage_since(duration),
            reusable,
        };
        if let Some(told) = told {
            self.tell_done(told, &report);
        }
        report
    }

    fn is_settled(&self) -> bool {
        self.server.is_settled()
    }

    async fn settle(&mut self) -> bool {
        let left = self.deadline.since(self.context.clock.monotonic());
        let end = self.wait_yielding(INVOKE_CLAIM_MAX, left, Server::poll_settled).await;
        self.output.drain();
        self.company.drain();
        let settled = matches!(end, End::Done(()));
        if !settled {
            self.reason = match end {
                End::TimedOut => Reason::Timeout,
                _ => Reason::Failure,
            };
        }
        self.tell_report();
        settled
    }

    fn is_alive(&mut self) -> bool {
        // What the runtime already knows of the descriptor: no system call.
        let mut cx = Context::from_waker(Waker::noop());
        self.server.is_idle() && self.death.poll_read_ready(&mut cx).is_pending() && self.company_is_well(&mut cx)
    }

    async fn idle(&mut self) {
        if !self.frozen {
            if let Some(hub) = self.company.hub() {
                hub.pause().await;
            }
            self.frozen = self.cell.freeze().is_ok();
            if let (false, Some(hub)) = (self.frozen, self.company.hub()) {
                hub.resume();
            }
        }
    }

    fn resident_bytes(&self) -> u64 {
        self.cell.usage().memory_bytes_now
    }

    fn can_suspend(&self) -> bool {
        false
    }

    async fn destroy(mut self: Box<Self>) {
        self.shut_down().await;
        self.output.drain();
        self.cell.destroy().await;
    }
}

/// What a version's sandboxes have of the processors.
pub(crate) fn processors(version: &VersionSpec) -> ProcessorShare {
    let by_memory = || ProcessorShare::of(cpu_millis(version.memory));
    version.processors.unwrap_or_else(by_memory)
}

/// The processor time of a function, as a share of one processor's.
///
/// Lambda gives a whole processor at 1,769 MB and proportionally less below. Here nothing below is held
/// back: a processor nobody else wants would only be wasted. Above, the quota grows as on Lambda.
pub(crate) fn cpu_millis(memory: Mebibytes) -> u32 {
    (memory.0 * 1000 / MEMORY_PER_PROCESSOR.0).max(1000)
}
