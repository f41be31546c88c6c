//! One sandbox: a cell, its Runtime API, its output, and the waiting for all of them at once.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::{INIT_SECONDS_MAX, SYNC_PAYLOAD_BYTES_MAX};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{CreateError, Deadline, FunctionError, Invocation, Outcome, Report, Sandbox, Usage};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;

use crate::cell::{Cell, Claim, Exit, ExitStatus};
use crate::output::Output;
use crate::runtime_api::{Answer, Ready, Server};
use crate::watch;

/// An invocation that takes longer competes no more with what is short: it gets the processor time that
/// others leave. Longer than most invocations, shorter than what a neighbour would notice often.
const INVOKE_CLAIM_MAX: Duration = Duration::from_millis(20);
/// The same for an initialisation, which loads libraries and comes but once.
const INIT_CLAIM_MAX: Duration = Duration::from_millis(500);

/// The memory at which Lambda gives one whole processor.
const MEMORY_PER_PROCESSOR: Mebibytes = Mebibytes(1769);

/// A sandbox that is initialised, or about to be.
pub(crate) struct LinuxSandbox {
    cell: Cell,
    server: Server,
    output: Output,
    /// Becomes readable when the guest is gone.
    death: AsyncFd<OwnedFd>,
    clock: Clock,
    memory: Mebibytes,
    /// Processor time up to the last report.
    cpu_reported: Duration,
    frozen: bool,
}

/// Why the waiting for a guest ended.
enum End<T> {
    Done(T),
    Died,
    TimedOut,
    Broken(io::Error),
}

impl LinuxSandbox {
    /// Makes a sandbox of a cell that is furnished and whose program runs or is about to.
    pub(crate) fn new(
        mut cell: Cell,
        output: Output,
        clock: Clock,
        memory: Mebibytes,
    ) -> Result<Self, (Cell, io::Error)> {
        match attach(&mut cell) {
            Ok((server, death)) => Ok(Self {
                cell,
                server,
                output,
                death,
                clock,
                memory,
                cpu_reported: Duration::ZERO,
                frozen: false,
            }),
            Err(error) => Err((cell, error)),
        }
    }

    /// Waits until the function asks for its first event; a sandbox that fails is destroyed.
    pub(crate) async fn initialise(mut self) -> Result<Self, CreateError> {
        let limit = Duration::from_secs(u64::from(INIT_SECONDS_MAX));
        let end = self.wait_yielding(INIT_CLAIM_MAX, limit, Server::poll_ready).await;
        self.output.drain();
        let error = match end {
            End::Done(Ready::Idle) => return Ok(self),
            End::Done(Ready::Failed(error)) => CreateError::Init(error),
            End::TimedOut => CreateError::Init(init_timed_out(limit)),
            End::Died => CreateError::Init(self.exit_error(None)),
            End::Broken(error) => CreateError::Backend(error),
        };
        // What it says in its last moments often tells why.
        self.drain_last_words().await;
        self.cell.destroy().await;
        Err(error)
    }

    /// A program that said why it cannot be initialised ends by itself at once.
    async fn drain_last_words(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(100);
        let _ = self.wait(PATIENCE, |_, _| Poll::<io::Result<()>>::Pending).await;
        self.output.drain();
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
            if self.death.poll_read_ready(cx).is_ready() {
                // It may have answered before it died.
                return Poll::Ready(match poll(&mut self.server, cx) {
                    Poll::Ready(Ok(done)) => End::Done(done),
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
        exit_error(request_id, exit, self.memory)
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

    /// Waits like [`Self::wait`]; after `claim` the guest gets only the processor time that others leave.
    async fn wait_yielding<T>(
        &mut self,
        claim: Duration,
        limit: Duration,
        mut poll: impl FnMut(&mut Server, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> End<T> {
        let end = self.wait(limit.min(claim), &mut poll).await;
        if limit <= claim || !matches!(end, End::TimedOut) {
            return end;
        }
        self.cell.set_claim(Claim::Leftover);
        let end = self.wait(limit - claim, poll).await;
        let cpu_millis = cpu_millis(self.memory);
        self.cell.set_claim(Claim::Full { cpu_millis });
        end
    }

    async fn run(&mut self, invocation: Invocation) -> (Outcome, bool) {
        if std::mem::take(&mut self.frozen)
            && let Err(error) = self.cell.thaw()
        {
            return (Outcome::Broken(format!("sandbox could not be thawed: {error}")), false);
        }
        let id = invocation.request_id;
        let deadline = invocation.deadline;
        self.output.begin();
        if !self.server.start(invocation) {
            return (Outcome::Broken("sandbox is not ready for an event".to_owned()), false);
        }
        let left = deadline.monotonic.since(self.clock.monotonic());
        let end = self.wait_yielding(INVOKE_CLAIM_MAX, left, Server::poll_answer).await;
        self.output.drain();
        match end {
            End::Done(Answer::Response(body)) => (Outcome::Success(body), true),
            End::Done(Answer::Error(error)) => (Outcome::Failed(error), true),
            // Some clients end when an answer of theirs is refused: do not wait to see.
            End::Done(Answer::TooLarge(bytes)) => {
                let error = FunctionError::response_too_large(bytes, SYNC_PAYLOAD_BYTES_MAX);
                (Outcome::Failed(error), false)
            }
            End::TimedOut => (Outcome::Failed(FunctionError::timed_out(id, deadline.budget)), false),
            End::Died => (Outcome::Failed(self.exit_error(Some(id))), false),
            End::Broken(error) => (Outcome::Broken(format!("runtime API failed: {error}")), false),
        }
    }
}

fn attach(cell: &mut Cell) -> io::Result<(Server, AsyncFd<OwnedFd>)> {
    let listener = std::net::TcpListener::from(cell.take_listener());
    let server = Server::new(TcpListener::from_std(listener)?);
    let death = watch::readable(cell.pidfd().try_clone_to_owned()?)?;
    Ok((server, death))
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

fn init_timed_out(limit: Duration) -> FunctionError {
    let message = format!(
        "Error: initialisation timed out after {:.2} seconds: the runtime never asked for an event",
        limit.as_secs_f64()
    );
    FunctionError::new("Sandbox.Timedout", &message)
}

#[async_trait]
impl Sandbox for LinuxSandbox {
    async fn invoke(&mut self, invocation: Invocation) -> Report {
        let started = self.clock.monotonic();
        let Deadline { monotonic, budget, .. } = invocation.deadline;
        let (outcome, reusable) = self.run(invocation).await;
        let ended = self.clock.monotonic();
        let mut duration = ended.since(started);
        if !reusable && ended >= monotonic {
            // It had its whole time, though a little of it passed before it was handed over.
            duration = duration.max(budget);
        }
        Report {
            outcome,
            usage: self.usage_since(duration),
            reusable,
        }
    }

    fn is_alive(&mut self) -> bool {
        // What the runtime already knows of the descriptor: no system call.
        let mut cx = Context::from_waker(Waker::noop());
        self.server.is_idle() && self.death.poll_read_ready(&mut cx).is_pending()
    }

    async fn idle(&mut self) {
        if !self.frozen {
            self.frozen = self.cell.freeze().is_ok();
        }
    }

    fn resident_bytes(&self) -> u64 {
        self.cell.usage().memory_bytes_now
    }

    async fn destroy(mut self: Box<Self>) {
        self.output.drain();
        self.cell.destroy().await;
    }
}

/// The processor time of a function, as a share of one processor's.
///
/// Lambda gives a whole processor at 1,769 MB and proportionally less below. Here nothing below is held
/// back: a processor nobody else wants would only be wasted. Above, the quota grows as on Lambda.
pub(crate) fn cpu_millis(memory: Mebibytes) -> u32 {
    (memory.0 * 1000 / MEMORY_PER_PROCESSOR.0).max(1000)
}
