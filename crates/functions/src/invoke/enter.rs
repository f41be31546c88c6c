//! Letting an invocation in: resolve, admit, and wait for a function that is being created.

use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::payload;
use super::pool::Pool;
use super::resolve::Readiness;
use super::run::{Finish, Job, run};
use crate::error::Error;
use crate::name::FunctionRef;
use crate::operations::refusals;
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// How long an invocation waits for a function that is being created.
const PENDING_WAIT_MAX: Duration = Duration::from_secs(30);

impl Inner {
    pub async fn invoke(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<InvocationResponse, Error> {
        let job = self.enter(target, request).await?;
        Finish::new(run(self.clone(), job, None), self.runtime.clone()).await
    }

    /// Checks an invocation and lets it in.
    pub(super) async fn enter(
        self: &Arc<Self>,
        target: &FunctionRef,
        mut request: InvocationRequest,
    ) -> Result<Job, Error> {
        let entered = self
            .running
            .enter()
            .ok_or_else(|| Error::Service("the node is stopping".into()))?;
        request.payload = payload::check(request.payload)?;
        let (pool, admission) = match self.admit(target)? {
            Some(admitted) => admitted,
            None => self.await_ready(target).await?,
        };
        Ok(Job {
            invoked_arn: invoked_arn(&pool, target),
            pool,
            request,
            admission,
            entered,
        })
    }

    /// Lets an invocation in; `None` while the version is being created.
    fn admit(&self, target: &FunctionRef) -> Result<Option<(Arc<Pool>, Admission)>, Error> {
        let entry = self.entry(target)?;
        let pool = match self.target(&entry, target)?.readiness() {
            Readiness::Ready(pool) => pool.clone(),
            Readiness::Pending => return Ok(None),
            Readiness::Failed => return Err(refusals::in_state("Failed")),
        };
        let admission = entry.live.admit(entry.reserved, &pool.quota.lane).map_err(|throttle| {
            self.metrics.throttled(target.name.as_str(), throttle);
            Error::Throttled(throttle)
        })?;
        Ok(Some((pool, admission)))
    }

    /// Waits for the end of a creation, as long as the function may run and no longer than a while.
    async fn await_ready(&self, target: &FunctionRef) -> Result<(Arc<Pool>, Admission), Error> {
        let entry = self.entry(target)?;
        let mut changes = entry.live.changes.subscribe();
        let timeout = self.target(&entry, target)?.configuration.timeout_seconds;
        let wait = Duration::from_secs(timeout.into()).min(PENDING_WAIT_MAX);
        let ready = async {
            loop {
                if let Some(admitted) = self.admit(target)? {
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
