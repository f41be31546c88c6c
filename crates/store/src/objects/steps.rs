//! Named moments between the steps of an operation, at which a test can stop or kill its process.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;
type Hook = dyn Fn(&'static str) -> Pause + Send + Sync;

/// What happens at the named moments: each emits an event with a sequence number, and a test may add more.
#[derive(Clone, Default)]
pub struct CrashPoints {
    sequence: Arc<AtomicU64>,
    hook: Option<Arc<Hook>>,
}

impl CrashPoints {
    /// All names.
    pub const NAMES: &[&str] = &[
        "create.begun",
        "create.looked-up",
        "create.drawn",
        "create.committed",
        "create.settled",
        "change.read",
        "change.planned",
        "change.committed",
        "change.settled",
        "sweep.noted",
        "sweep.resolved",
        "sweep.done",
    ];

    /// Calls `hook` with each name that is reached, and goes on once its future is ready.
    pub fn with<F>(hook: impl Fn(&'static str) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            sequence: Arc::default(),
            hook: Some(Arc::new(move |name| Box::pin(hook(name)) as Pause)),
        }
    }

    pub(super) async fn reach(&self, name: &'static str) {
        debug_assert!(Self::NAMES.contains(&name), "`{name}` is not listed");
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel);
        tracing::trace!(sequence, step = name, "step of an object operation");
        if let Some(hook) = &self.hook {
            hook(name).await;
        }
    }
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashPoints").field(&self.hook.is_some()).finish()
    }
}
