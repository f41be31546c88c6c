//! Invocations of functions that have folders: they run on the node that keeps these, and write alone where that is asked.
//!
//! ```text
//!   kept here? ── no ──▶ the node that its record names ── unknown, or it refuses ──▶ told so; nothing has begun
//!      │ yes
//!      ▼
//!   the turn to write, one resource after the other by name ── not within the function's time ──▶ throttled
//!      ▼
//!   run ─▶ the sandbox stands still, or is gone ─▶ the turn is the next one's
//! ```

use std::sync::Arc;

use bowline_sandbox::{Mount, MountAccess, SandboxKind, VersionSpec};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::run::{Job, Outlet};
use crate::error::Error;
use crate::service::{Inner, InvocationResponse};
use crate::state::Whereabouts;

/// The turns that an invocation has; given back when dropped.
pub(crate) type Turns = Vec<OwnedSemaphorePermit>;

/// What becomes of an invocation that has come in.
pub(super) enum Way {
    Here(Turns),
    Ended(Box<Result<InvocationResponse, Error>>),
}

/// Finds the way of an invocation whose function has folders.
pub(super) async fn way(inner: &Arc<Inner>, job: &Job, outlet: &mut Option<Outlet>) -> Way {
    let spec = &job.pool.parts.spec;
    if spec.kind != SandboxKind::Linux {
        let text = "a WebAssembly function sees no folders: detach the shared memory or the volume from it";
        return Way::Ended(Box::new(Err(Error::MountFailed(text.to_owned()))));
    }
    if let Some(missing) = spec.mounts.iter().find(|mount| !inner.shelf.has(&mount.share)) {
        return Way::Ended(Box::new(elsewhere(inner, job, missing, outlet).await));
    }
    match turns(inner, spec).await {
        Ok(turns) => Way::Here(turns),
        Err(error) => Way::Ended(Box::new(Err(error))),
    }
}

/// Has the node that keeps the folder run the invocation.
async fn elsewhere(
    inner: &Arc<Inner>,
    job: &Job,
    missing: &Mount,
    outlet: &mut Option<Outlet>,
) -> Result<InvocationResponse, Error> {
    let parts = &job.pool.parts;
    let away = |why: &str| {
        Err(Error::Away(format!(
            "shared state is away: the folder at `{}`: {why}",
            missing.at
        )))
    };
    let host = match inner.whereabouts(&parts.spec.account, &parts.name, missing).await? {
        Whereabouts::Gone(text) => return Err(Error::MountFailed(text)),
        Whereabouts::Here => return away("this node has it and cannot mount it; see its log"),
        Whereabouts::At(host) => host,
    };
    if job.is_forwarded {
        return away("it is not on the node that was asked for it");
    }
    if !job.may_be_handed_on() {
        return away("it is on another node, and this one alone answers what the function asks the platform");
    }
    let handed = inner.at_node(host, job.away(outlet)).await;
    handed.unwrap_or_else(|| away("the node that has it does not take the invocation now"))
}

/// Waits for the turn to write in each folder that one invocation at a time may write.
pub(super) async fn turns(inner: &Inner, spec: &VersionSpec) -> Result<Turns, Error> {
    let mut turns = Vec::new();
    // By name, as they are attached: who waits for one holds none that comes later.
    let alone = spec
        .mounts
        .iter()
        .filter(|mount| mount.access == MountAccess::WriteAlone);
    let waiting = async {
        for mount in alone {
            let writer = inner.shelf.writer(&mount.share);
            let turn = match writer {
                Some(writer) => writer.acquire_owned().await.ok(),
                None => None,
            };
            let gone = || Error::MountFailed(format!("the folder at `{}` was removed", mount.at));
            turns.push(turn.ok_or_else(gone)?);
        }
        Ok(())
    };
    match timeout(spec.timeout, waiting).await {
        Ok(Ok(())) => Ok(turns),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let waited = spec.timeout.as_secs();
            Err(Error::MountBusy(format!(
                "another invocation writes the function's shared state, and did not end within {waited} s"
            )))
        }
    }
}
