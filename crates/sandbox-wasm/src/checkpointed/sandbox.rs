//! The sandbox of a command that can be checkpointed: it runs one leg after another until the invocation ends.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_checkpoint::Checkpoint;
use bowline_foundation::clock::Monotonic;
use bowline_foundation::id::RequestId;
use bowline_sandbox::suspension::Kept;
use bowline_sandbox::{
    Control, Frozen, FunctionError, Invocation, Outcome, Report, Sandbox, Suspension, Usage, VersionSpec, Wish,
};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::leg::{End, Leg, Start, resident_bytes, unwanted};
use super::library::Program;
use crate::backend::Shared;
use crate::command::call_variables;
use crate::guest::Surroundings;

/// A place to run a command in that can be checkpointed.
pub(crate) struct CheckpointedSandbox {
    shared: Arc<Shared>,
    program: Arc<Program>,
    surroundings: Arc<Surroundings>,
    environment: Vec<String>,
    task: PathBuf,
    /// Held by what runs.
    busy: Arc<Mutex<()>>,
}

/// Ends the guest when the invocation's future is dropped before it has ended.
struct EndOnDrop(Option<Arc<Control>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.ask(Wish::End);
        }
    }
}

/// What is the same for all legs of an invocation.
struct Journey {
    shared: Arc<Shared>,
    program: Arc<Program>,
    surroundings: Arc<Surroundings>,
    task: PathBuf,
    busy: Arc<Mutex<()>>,
    control: Arc<Control>,
    request_id: RequestId,
    /// The time that the invocation had when it was handed over.
    limit: Duration,
    budget: Duration,
}

impl CheckpointedSandbox {
    pub(crate) fn new(
        shared: Arc<Shared>,
        program: Arc<Program>,
        version: &VersionSpec,
        surroundings: Arc<Surroundings>,
    ) -> io::Result<Self> {
        let variables = version.lambda_environment();
        Ok(Self {
            shared,
            program,
            surroundings,
            environment: variables
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            task: version.code.path.clone(),
            busy: Arc::default(),
        })
    }

    async fn run(&self, invocation: Invocation, mut suspension: Option<Suspension>) -> Outcome {
        let control = suspension
            .as_ref()
            .map_or_else(Arc::default, |suspension| suspension.control.clone());
        let mut environment = self.environment.clone();
        let own = call_variables(&invocation);
        environment.extend(own.into_iter().map(|(name, value)| format!("{name}={value}")));
        let now = self.surroundings.clock.monotonic();
        let journey = Journey {
            shared: self.shared.clone(),
            program: self.program.clone(),
            surroundings: self.surroundings.clone(),
            task: self.task.clone(),
            busy: self.busy.clone(),
            control: control.clone(),
            request_id: invocation.request_id,
            limit: invocation.deadline.budget,
            budget: invocation.deadline.monotonic.since(now),
        };
        let mut end = EndOnDrop(Some(control));
        let fresh = Start::Fresh {
            environment,
            event: invocation.payload,
        };
        let start = match suspension.as_mut().and_then(|suspension| suspension.from.take()) {
            None => fresh,
            Some(bytes) => match journey.read(bytes).await {
                Ok(checkpoint) => Start::From(checkpoint),
                Err(reason) => {
                    end.0 = None;
                    return Outcome::Broken(format!("the checkpoint cannot be resumed: {reason}"));
                }
            },
        };
        let outcome = journey.travel(start, suspension.as_ref()).await;
        // The same control serves the run when it is taken up again.
        end.0 = None;
        outcome
    }
}

impl Journey {
    /// One leg after the other, until one is the last.
    async fn travel(&self, mut start: Start, suspension: Option<&Suspension>) -> Outcome {
        let late = tokio::time::sleep(self.budget);
        tokio::pin!(late);
        loop {
            let leg = self.leg();
            let busy = self.busy.clone().lock_owned().await;
            let running = self.shared.runner.block(move || {
                let _busy = busy;
                leg.run(start)
            });
            let ended = tokio::select! {
                ended = running => ended,
                () = &mut late => {
                    // The guest ends by itself, and what it leaves is for nobody.
                    self.control.ask(Wish::End);
                    return self.timed_out();
                }
            };
            let asked = self.surroundings.clock.monotonic();
            let wish = self.control.take();
            let checkpoint = match ended {
                Err(error) => return Outcome::Broken(error.to_string()),
                Ok(End::Finished(outcome)) => return outcome,
                Ok(End::Left(_)) if wish == Some(Wish::End) => return unwanted(),
                Ok(End::Left(frozen)) => return Outcome::Suspended(frozen),
                Ok(End::Stopped(checkpoint)) => checkpoint,
            };
            start = match (wish, suspension) {
                (Some(Wish::End), _) => return unwanted(),
                (Some(Wish::Leave), _) => return self.leave(checkpoint, asked).await,
                (Some(Wish::Copy), Some(suspension)) => {
                    let (checkpoint, frozen) = match self.freeze(checkpoint, asked).await {
                        Ok(frozen) => frozen,
                        Err(reason) => return Outcome::Broken(reason),
                    };
                    match suspension.keeper.keep(frozen).await {
                        Kept::GoOn => Start::From(checkpoint),
                        Kept::GiveUp => return Outcome::Broken("the invocation goes on elsewhere".to_owned()),
                    }
                }
                (Some(Wish::Copy) | None, _) => Start::From(checkpoint),
            };
        }
    }

    fn leg(&self) -> Leg {
        Leg {
            shared: self.shared.clone(),
            program: self.program.clone(),
            surroundings: self.surroundings.clone(),
            task: self.task.clone(),
            control: self.control.clone(),
            request_id: self.request_id,
        }
    }

    fn timed_out(&self) -> Outcome {
        Outcome::Failed(FunctionError::timed_out(self.request_id, self.limit))
    }

    /// Of one that was asked to leave after it had stopped for something else.
    async fn leave(&self, checkpoint: Box<Checkpoint>, asked: Monotonic) -> Outcome {
        match self.freeze(checkpoint, asked).await {
            Ok((_, frozen)) => Outcome::Suspended(frozen),
            Err(reason) => Outcome::Broken(reason),
        }
    }

    /// Packs and signs a checkpoint, off the threads that serve requests.
    async fn freeze(&self, checkpoint: Box<Checkpoint>, asked: Monotonic) -> Result<(Box<Checkpoint>, Frozen), String> {
        let (shared, clock) = (self.shared.clone(), self.surroundings.clock.clone());
        let packing = self.shared.runner.block(move || {
            let bytes = shared.checkpointed.write(&checkpoint);
            let frozen = Frozen {
                resident_bytes: resident_bytes(&checkpoint),
                took: clock.monotonic().since(asked),
                bytes,
                machine: None,
            };
            (checkpoint, frozen)
        });
        packing.await.map_err(|error| error.to_string())
    }

    async fn read(&self, bytes: Bytes) -> Result<Box<Checkpoint>, String> {
        let shared = self.shared.clone();
        let reading = self.shared.runner.block(move || shared.checkpointed.read(&bytes));
        let read = reading.await.map_err(|error| error.to_string())?;
        let checkpoint = read?;
        let fits = self.program.prepared.plan().check(&checkpoint);
        fits.map_err(|error| error.to_string())?;
        Ok(Box::new(checkpoint))
    }
}

#[async_trait]
impl Sandbox for CheckpointedSandbox {
    async fn invoke(&mut self, mut invocation: Invocation) -> Report {
        let started = self.surroundings.clock.monotonic();
        let suspension = invocation.suspension.take();
        let outcome = self.run(invocation, suspension).await;
        Report {
            usage: Usage {
                duration: self.surroundings.clock.monotonic().since(started),
                memory_bytes_max: self.surroundings.peak_bytes(),
                cpu: Duration::ZERO,
            },
            reusable: !matches!(outcome, Outcome::Broken(_)) && self.is_alive(),
            outcome,
        }
    }

    /// While a guest is on its way out whose invocation is over, nobody else comes in.
    fn is_alive(&mut self) -> bool {
        self.busy.try_lock().is_ok()
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(self: Box<Self>) {
        // An invocation that was dropped, or too late, has asked its guest to end.
        let _gone = self.busy.lock().await;
    }
}
