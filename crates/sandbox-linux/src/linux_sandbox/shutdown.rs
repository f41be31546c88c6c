//! The last phase of a sandbox with extensions: everybody may finish, but not for long.
//!
//! ```text
//!  telemetry sent ─▶ SIGTERM to the runtime ─▶ SIGKILL ─▶ SHUTDOWN to external extensions ─▶ SIGKILL to all
//!                    └──── its share of the time ────┘   └───────── what is left ────────┘
//! ```
//! Without extensions there is no such phase. Nobody waits for it but the node's own stop.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::LinuxSandbox;
use crate::runtime_api::shutdown_event;

/// The whole time, with an external extension.
const EXTERNAL_MAX: Duration = Duration::from_secs(2);
/// The whole time with internal ones only.
const INTERNAL_MAX: Duration = Duration::from_millis(500);
/// The runtime's share where external extensions have to follow, as a fraction.
const RUNTIME_SHARE: (u32, u32) = (3, 10);
/// What sending telemetry may take before anything ends, as a fraction.
const TELEMETRY_SHARE: (u32, u32) = (1, 10);

/// Why a sandbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is not needed any more.
    Spindown,
    /// An invocation ran out of time.
    Timeout,
    /// Something in it failed.
    Failure,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Spindown => "spindown",
            Self::Timeout => "timeout",
            Self::Failure => "failure",
        }
    }
}

impl LinuxSandbox {
    /// Lets the runtime and the extensions finish; returns when they have, or when the time is over.
    pub(super) async fn shut_down(&mut self) {
        let Some(external) = self.has_external() else { return };
        let limit = if external { EXTERNAL_MAX } else { INTERNAL_MAX };
        let _ending = self.context.endings.subscribe();
        if let Err(error) = self.wake() {
            tracing::debug!(%error, "a sandbox that cannot be thawed ends without notice");
            return;
        }
        let begun = self.context.clock.monotonic();
        let deadline_ms = self.context.clock.now().after(limit).as_millis();
        if let Some(extensions) = self.server.extensions_mut() {
            extensions.end();
        }
        self.send_telemetry(share(limit, TELEMETRY_SHARE)).await;
        let runtime_max = if external { share(limit, RUNTIME_SHARE) } else { limit };
        self.end_runtime(runtime_max).await;
        if external {
            let left = |sandbox: &Self| limit.saturating_sub(sandbox.context.clock.monotonic().since(begun));
            self.send_telemetry(share(limit, TELEMETRY_SHARE).min(left(self))).await;
            let left = left(self);
            self.end_extensions(deadline_ms, left).await;
        }
        self.output.drain();
        self.company.drain();
    }

    async fn send_telemetry(&mut self, limit: Duration) {
        let Some(hub) = self.company.hub().cloned() else { return };
        let mut sent = pin!(hub.hurry());
        self.attend_until(limit, |_, cx| sent.as_mut().poll(cx).is_ready())
            .await;
    }

    async fn end_runtime(&mut self, limit: Duration) {
        if !self.runtime_started || self.cell.has_ended() {
            return;
        }
        let _ = self.cell.signal(None, libc::SIGTERM);
        self.attend_until(limit, |sandbox, _| sandbox.cell.has_ended()).await;
        if !self.cell.has_ended() {
            let _ = self.cell.signal(None, libc::SIGKILL);
        }
    }

    async fn end_extensions(&mut self, deadline_ms: u64, limit: Duration) {
        let event = shutdown_event(self.reason.name(), deadline_ms);
        self.server.shut_down_extensions(&event);
        for number in self.company.living() {
            let waits = self.server.extensions().is_some_and(|all| all.takes_leave(number));
            if !waits {
                let _ = self.cell.signal(Some(number), libc::SIGKILL);
            }
        }
        self.attend_until(limit, |sandbox, _| !sandbox.company.lives()).await;
    }

    /// Serves the sandbox until `done` says so, everything in it is gone, or the time is over.
    async fn attend_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self, &mut std::task::Context<'_>) -> bool,
    ) {
        let mut timer = pin!(tokio::time::sleep(limit));
        poll_fn(|cx| {
            // A server that cannot serve any more leaves only the time to pass.
            let _ = self.server.poll_serve(cx);
            self.output.poll_drain(cx);
            self.attend(cx);
            let gone = self.death.poll_read_ready(cx).is_ready();
            if gone || done(self, cx) {
                return Poll::Ready(());
            }
            timer.as_mut().poll(cx)
        })
        .await;
    }
}

fn share(limit: Duration, (part, whole): (u32, u32)) -> Duration {
    limit * part / whole
}
