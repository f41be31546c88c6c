//! Letting an invocation in: resolve, admit, and wait for a function that is being created.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::id::AccountId;
use bowline_sandbox::Platform;

use super::admission::{Admission, Entered};
use super::payload;
use super::pool::Pool;
use super::resolve::{Readiness, Target};
use super::run::{Finish, Job, run};
use crate::cluster::wire::Refusal;
use crate::error::Error;
use crate::name::{FunctionName, FunctionRef, Qualifier, Version};
use crate::operations::refusals;
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// How long an invocation waits for a function that is being created.
const PENDING_WAIT_MAX: Duration = Duration::from_secs(30);

/// What an invocation is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Whether an older version may not stand in.
    Call { is_strict: bool },
    /// A durable execution wants its function.
    Execution,
}

/// An invocation that may begin.
pub(crate) struct Admitted {
    entered: Entered,
    pool: Arc<Pool>,
    admission: Admission,
}

impl Admitted {
    fn job(self, target: &FunctionRef, request: InvocationRequest, platform: Option<Arc<dyn Platform>>) -> Job {
        Job {
            invoked_arn: invoked_arn(&self.pool, target),
            pool: self.pool,
            request,
            admission: self.admission,
            entered: self.entered,
            platform,
            is_forwarded: false,
        }
    }

    /// The job of an invocation that another node hands on.
    pub fn forwarded_job(self, invoked_arn: String, request: InvocationRequest) -> Job {
        Job {
            pool: self.pool,
            request,
            invoked_arn,
            admission: self.admission,
            entered: self.entered,
            platform: None,
            is_forwarded: true,
        }
    }
}

impl Inner {
    /// Invokes a function and waits for its answer; of a durable one, for the end of an execution.
    pub async fn invoke(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<InvocationResponse, Error> {
        let purpose = Purpose::Call {
            is_strict: request.is_strict,
        };
        let admitted = match self.let_in(target, purpose).await {
            Err(Error::Durable) => return Box::pin(self.invoke_durable(target, request, None)).await,
            admitted => admitted?,
        };
        let payload = payload::check(request.payload)?;
        let job = admitted.job(target, InvocationRequest { payload, ..request }, None);
        let job = self.with_own_code(job).await?;
        Finish::new(run(self.clone(), job, None), self.runtime.clone()).await
    }

    /// Checks an invocation and lets it in; that of a durable function is refused.
    pub(super) async fn enter(
        self: &Arc<Self>,
        target: &FunctionRef,
        mut request: InvocationRequest,
    ) -> Result<Job, Error> {
        let purpose = Purpose::Call {
            is_strict: request.is_strict,
        };
        let admitted = self.let_in(target, purpose).await?;
        request.payload = payload::check(request.payload)?;
        self.with_own_code(admitted.job(target, request, None)).await
    }

    /// Invokes a durable function for one of its executions, with an event that was made here.
    pub async fn invoke_for_execution(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
        platform: Option<Arc<dyn Platform>>,
    ) -> Result<InvocationResponse, Error> {
        let admitted = self.let_in(target, Purpose::Execution).await?;
        let job = admitted.job(target, request, platform);
        Finish::new(run(self.clone(), job, None), self.runtime.clone()).await
    }

    async fn let_in(self: &Arc<Self>, target: &FunctionRef, purpose: Purpose) -> Result<Admitted, Error> {
        let entered = self
            .running
            .enter()
            .ok_or_else(|| Error::Service("the node is stopping".into()))?;
        let (pool, admission) = match self.admit(target, purpose)? {
            Some(admitted) => admitted,
            None => self.await_ready(target, purpose).await?,
        };
        Ok(Admitted {
            entered,
            pool,
            admission,
        })
    }

    /// Lets an invocation in that another node hands on, if this one knows the version as that one does, has it
    /// prepared and has a place for it. To prepare it first can take longer than the sender waits.
    pub(crate) fn admit_errand(
        &self,
        (account, name, version): (&AccountId, &FunctionName, Version),
        identity: u64,
    ) -> Result<Admitted, Refusal> {
        let entered = self.running.enter().ok_or(Refusal::Stopping)?;
        let entry = self.registry.snapshot.get(account, name).ok_or(Refusal::Unknown)?;
        let qualifier = Qualifier::Version(version);
        let target = Target::find(&entry, Some(&qualifier), &self.entropy).ok_or(Refusal::Unknown)?;
        let pool = match target.readiness() {
            Readiness::Ready(pool) if pool.identity == identity && !pool.parts.is_durable => pool.clone(),
            _ => return Err(Refusal::Unknown),
        };
        let admission = entry.live.admit(entry.reserved, &pool.quota.lane);
        Ok(Admitted {
            entered,
            admission: admission.map_err(|_| Refusal::Full)?,
            pool,
        })
    }

    /// Lets an invocation in; `None` while the version is being created.
    fn admit(
        self: &Arc<Self>,
        target: &FunctionRef,
        purpose: Purpose,
    ) -> Result<Option<(Arc<Pool>, Admission)>, Error> {
        let entry = self.entry(target)?;
        let found = self.target(&entry, target)?;
        let pool = match purpose {
            Purpose::Call { is_strict } => self.serving(&entry, &found, is_strict)?,
            Purpose::Execution => match found.readiness() {
                Readiness::Ready(pool) => Some(pool),
                Readiness::Pending => None,
                Readiness::Failed => return Err(refusals::in_state("Failed")),
            },
        };
        let Some(pool) = pool.cloned() else { return Ok(None) };
        if pool.parts.is_durable && purpose != Purpose::Execution {
            return Err(Error::Durable);
        }
        let admission = entry.live.admit(entry.reserved, &pool.quota.lane).map_err(|throttle| {
            self.metrics.throttled(target.name.as_str(), throttle);
            Error::Throttled(throttle)
        })?;
        Ok(Some((pool, admission)))
    }

    /// Waits for the end of a creation, as long as the function may run and no longer than a while.
    async fn await_ready(
        self: &Arc<Self>,
        target: &FunctionRef,
        purpose: Purpose,
    ) -> Result<(Arc<Pool>, Admission), Error> {
        let entry = self.entry(target)?;
        let mut changes = entry.live.changes.subscribe();
        let timeout = self.target(&entry, target)?.configuration.timeout_seconds;
        let wait = Duration::from_secs(timeout.into()).min(PENDING_WAIT_MAX);
        let ready = async {
            loop {
                if let Some(admitted) = self.admit(target, purpose)? {
                    return Ok(admitted);
                }
                if changes.changed().await.is_err() {
                    return Err(refusals::not_found(&self.target_arn(target)));
                }
            }
        };
        match tokio::time::timeout(wait, ready).await {
            Ok(admitted) => admitted,
            Err(_) => Err(refusals::in_state("Pending")),
        }
    }
}

/// The ARN as the caller named the function, qualifier included.
fn invoked_arn(pool: &Pool, target: &FunctionRef) -> String {
    let arn = &*pool.parts.arn;
    match &target.qualifier {
        None => arn.to_owned(),
        Some(qualifier) => format!("{arn}:{qualifier}"),
    }
}
