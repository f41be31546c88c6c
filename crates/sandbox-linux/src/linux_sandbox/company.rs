//! The extensions of a sandbox: starting their programs, their output, their ends and their telemetry.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_foundation::id::RequestId;
use bowline_sandbox::record::{Done, Metrics, Status};
use bowline_sandbox::{CreateError, Invocation, Outcome, Report};
use rustix::pipe::PipeFlags;

use super::{LinuxSandbox, Reason};
use crate::cell::{COMPANIONS_DIR, CellError, Command, Lender};
use crate::output::Output;
use crate::runtime_api::{Kind, Schema, Standing, Stream};
use crate::telemetry::{Hub, Lines, Record};

/// Variables that extensions do not get: they are about the runtime. So is all that begins with `_`.
const WITHHELD: [&str; 10] = [
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_XRAY_CONTEXT_MISSING",
    "AWS_XRAY_DAEMON_ADDRESS",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "NODE_PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
];

/// What a sandbox has beside its runtime.
#[derive(Default)]
pub(super) struct Company {
    /// What external extensions print.
    output: Option<Output>,
    /// Which processes of external extensions live, in the order of starting.
    alive: Vec<bool>,
    hub: Option<Arc<Hub>>,
    lender: Option<Arc<Lender>>,
    /// The invocation whose last record is due when everybody has done with it.
    unreported: Option<Told>,
    /// How long the initialisation took, until the first invocation reports it.
    init: Option<Duration>,
}

/// An invocation that telemetry was told of.
pub(super) struct Told {
    request_id: RequestId,
    trace_id: Option<String>,
    at: Timestamp,
    begun: Monotonic,
    status: Status,
    memory_bytes_max: u64,
}

/// What happened beside the runtime.
pub(super) enum News {
    /// The runtime's process ended, though extensions live.
    RuntimeEnded,
    /// An extension failed.
    Failed,
}

impl Company {
    /// Whether an external extension's process lives.
    pub(super) fn lives(&self) -> bool {
        self.alive.contains(&true)
    }

    /// Which external extensions' processes live, by number.
    pub(super) fn living(&self) -> Vec<usize> {
        let numbered = self.alive.iter().enumerate();
        numbered
            .filter(|(_, alive)| **alive)
            .map(|(number, _)| number)
            .collect()
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.hub.as_ref()
    }

    /// Begins another invocation.
    pub(super) fn begin(&mut self) {
        if let Some(output) = &mut self.output {
            output.begin();
        }
    }

    /// Takes what external extensions printed up to now.
    pub(super) fn drain(&mut self) {
        if let Some(output) = &mut self.output {
            output.drain();
        }
    }
}

impl LinuxSandbox {
    /// Starts the external extensions that lie in the sandbox.
    pub(super) async fn launch_extensions(&mut self) -> Result<(), CreateError> {
        let (output, their_output) = output_pipe().map_err(CreateError::Backend)?;
        let output = Output::new(output, self.context.log.clone(), self.context.log_bytes_max);
        self.company.output = Some(output.map_err(CreateError::Backend)?);
        self.open_hub();
        let environment = self.context.environment.iter();
        let kept = environment.filter(|(name, _)| !name.starts_with('_') && !WITHHELD.contains(&name.as_str()));
        let env: Vec<_> = kept.map(|(name, value)| (name.into(), value.into())).collect();
        for name in self.cell.companions().to_vec() {
            let shown = name.to_string_lossy().into_owned();
            let extensions = self
                .server
                .extensions_mut()
                .expect("the server was told of the function");
            let number = match extensions.launch(&shown) {
                Ok(number) => number,
                Err(_) => return Err(self.too_many()),
            };
            let mut path = std::ffi::OsString::from(format!("{COMPANIONS_DIR}/"));
            path.push(name);
            let command = Command {
                argv: vec![path],
                env: env.clone(),
                cwd: "/".into(),
            };
            let their_output = their_output.try_clone().map_err(CreateError::Backend)?;
            match self.cell.accompany(command, their_output).await {
                Ok(()) => self.company.alive.push(true),
                Err(CellError::Step { source, .. }) => return Err(self.not_launched(number, &source)),
                Err(other) => return Err(self.of_cell(other)),
            }
        }
        Ok(())
    }

    fn not_launched(&mut self, number: usize, error: &io::Error) -> CreateError {
        if let Some(extensions) = self.server.extensions_mut() {
            extensions.launch_failed(number, &error.to_string());
        }
        self.extension_failed()
    }

    fn too_many(&mut self) -> CreateError {
        let message = "Error: there are more extensions than a sandbox may have (10)";
        CreateError::Init(bowline_sandbox::FunctionError::new("Extension.LaunchError", message))
    }

    /// The error of an initialisation in which an extension failed.
    pub(super) fn extension_failed(&self) -> CreateError {
        let failure = self.server.extension_failure(None);
        CreateError::Init(failure.expect("an extension is known to have failed"))
    }

    /// Begins to keep telemetry for those who will subscribe.
    fn open_hub(&mut self) {
        let hub = Hub::new(self.context.clock.clone());
        hub.tell_of(self.begun_at, Record::InitStart(self.context.spec.clone()));
        self.output.tap(Some(Lines::new(hub.clone(), Stream::Function)));
        if let Some(output) = &mut self.company.output {
            output.tap(Some(Lines::new(hub.clone(), Stream::Extension)));
        }
        self.company.hub = Some(hub);
    }

    /// Looks after the extensions, as far as there are any; to be polled after the server.
    pub(super) fn poll_company(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        if self.server.extensions().is_none() {
            return Poll::Pending;
        }
        self.attend(cx);
        if self.server.extension_failure(None).is_some() {
            return Poll::Ready(News::Failed);
        }
        if self.cell.has_ended() && !self.company.alive.is_empty() {
            return Poll::Ready(News::RuntimeEnded);
        }
        Poll::Pending
    }

    /// Takes output, subscriptions and ends.
    pub(super) fn attend(&mut self, cx: &mut Context<'_>) {
        self.take_subscriptions();
        if let Some(output) = &mut self.company.output {
            output.poll_drain(cx);
        }
        while self.cell.poll_news(cx).is_ready() {
            for (number, status) in self.cell.take_companions_ended() {
                self.company.alive[number] = false;
                if let Some(extensions) = self.server.extensions_mut() {
                    extensions.ended(number, &status.to_string());
                }
            }
        }
    }

    fn take_subscriptions(&mut self) {
        let new = self
            .server
            .extensions_mut()
            .map(|extensions| extensions.take_subscriptions());
        for subscription in new.into_iter().flatten() {
            if self.company.hub.is_none() {
                self.open_hub();
            }
            let Some(lender) = self.lender() else { continue };
            let streams = subscription.subscription.streams.iter();
            let types: Vec<_> = streams.map(|stream| capitalised(stream.name())).collect();
            let api = match subscription.subscription.schema {
                Schema::Telemetry => "TELEMETRY",
                Schema::Logs { .. } => "LOGS",
            };
            let (name, types) = (&subscription.name, types.join(", "));
            let line = format!("{api}\tName: {name}\tState: Subscribed\tTypes: [{types}]\n");
            self.context.log.write(line.as_bytes());
            if let Some(hub) = &self.company.hub {
                hub.subscribe(subscription, lender);
            }
        }
    }

    fn lender(&mut self) -> Option<Arc<Lender>> {
        if self.company.lender.is_none() {
            match self.cell.lender() {
                Ok(lender) => self.company.lender = Some(Arc::new(lender)),
                Err(error) => tracing::warn!(%error, "telemetry cannot be delivered into a sandbox"),
            }
        }
        self.company.lender.clone()
    }

    /// The initialisation has ended: tells so, and gives up telemetry that nobody wants.
    pub(super) fn company_initialised(&mut self, error_type: Option<&str>, took: Duration) {
        if !self.server.has_extensions() {
            return;
        }
        self.take_subscriptions();
        self.output.end_line();
        let status = error_type.map_or(Status::Success, Status::of_error);
        self.tell(Record::InitRuntimeDone(status.clone()));
        for extension in self.server.extensions().into_iter().flat_map(|all| all.iter()) {
            let (state, events) = (extension.standing.name(), extension.events.names());
            let mut line = format!(
                "EXTENSION\tName: {}\tState: {state}\tEvents: [{}]",
                extension.name,
                events.join(", ")
            );
            if let Some(error_type) = &extension.error_type {
                line.push_str("\tError Type: ");
                line.push_str(error_type);
            }
            line.push('\n');
            self.context.log.write(line.as_bytes());
            self.tell(Record::Extension {
                name: extension.name.clone(),
                state,
                events,
                error_type: extension.error_type.clone(),
            });
        }
        self.tell(Record::InitReport(status, took));
        self.company.init = Some(took);
        if self.company.hub.as_ref().is_some_and(|hub| !hub.close()) {
            self.company.hub = None;
            self.output.tap(None);
            if let Some(output) = &mut self.company.output {
                output.tap(None);
            }
        }
    }

    fn tell(&self, record: Record) {
        if let Some(hub) = &self.company.hub {
            hub.tell(record);
        }
    }

    /// An invocation begins; `None` if nobody wants to know.
    pub(super) fn tell_start(&mut self, invocation: &Invocation, begun: Monotonic) -> Option<Told> {
        let hub = self.company.hub.as_ref()?;
        let at = self.context.clock.now();
        let told = Told {
            request_id: invocation.request_id,
            trace_id: invocation.trace_id.clone(),
            at,
            begun,
            status: Status::Success,
            memory_bytes_max: 0,
        };
        hub.tell_of(
            at,
            Record::Start {
                request_id: told.request_id,
                version: self.context.spec.version.clone(),
                trace_id: told.trace_id.clone(),
            },
        );
        Some(told)
    }

    /// The runtime has done with an invocation; the rest is told when everybody has.
    pub(super) fn tell_done(&mut self, mut told: Told, report: &Report) {
        self.output.end_line();
        let bytes = match &report.outcome {
            Outcome::Success(answer) => answer.len(),
            Outcome::Failed(error) => error.payload.len(),
            Outcome::Broken(_) | Outcome::Suspended(_) => 0,
        };
        told.status = match &report.outcome {
            Outcome::Success(_) => Status::Success,
            Outcome::Failed(error) => Status::of_error(&error.error_type),
            Outcome::Broken(_) | Outcome::Suspended(_) => Status::Failure("Sandbox.Failure".to_owned()),
        };
        told.memory_bytes_max = report.usage.memory_bytes_max;
        self.tell(Record::RuntimeDone {
            request_id: told.request_id,
            status: told.status.clone(),
            trace_id: told.trace_id.clone(),
            done: Done {
                started: told.at,
                duration: report.usage.duration,
                bytes: bytes as u64,
            },
        });
        self.company.unreported = Some(told);
        if !report.reusable || self.server.is_settled() {
            self.tell_report();
        }
    }

    /// Everybody has done with the invocation, or will not.
    pub(super) fn tell_report(&mut self) {
        let Some(told) = self.company.unreported.take() else {
            return;
        };
        let duration = self.context.clock.monotonic().since(told.begun);
        let init = self.company.init.take();
        self.tell(Record::End(told.request_id));
        self.tell(Record::Report {
            request_id: told.request_id,
            status: told.status,
            trace_id: told.trace_id,
            metrics: Metrics {
                duration,
                memory_mib: self.context.spec.memory.0,
                memory_bytes_max: told.memory_bytes_max,
                init,
            },
        });
    }

    /// Whether an extension has failed since it was looked after last.
    pub(super) fn company_is_well(&mut self, cx: &mut Context<'_>) -> bool {
        if self.server.extensions().is_none() {
            return true;
        }
        let well = self.poll_company(cx).is_pending();
        if !well {
            self.reason = Reason::Failure;
        }
        well
    }

    /// Whether an extension is external, or `None` without any.
    pub(super) fn has_external(&self) -> Option<bool> {
        let mut kinds = self
            .server
            .extensions()?
            .iter()
            .map(|extension| extension.kind)
            .peekable();
        kinds.peek()?;
        Some(kinds.any(|kind| kind == Kind::External))
    }

    /// Who has not registered, for a message.
    pub(super) fn unready(&self) -> Vec<String> {
        let all = self.server.extensions().into_iter().flat_map(|all| all.iter());
        let unready = all.filter(|extension| matches!(extension.standing, Standing::Launched | Standing::Registered));
        unready.map(|extension| extension.name.to_string()).collect()
    }
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// A pipe whose read end does not block.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}
