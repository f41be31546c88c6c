//! Named moments between the steps of a mutation, at which a test can kill the process.

use std::fmt;
use std::sync::Arc;

/// What happens at the named moments: nothing, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct CrashPoints(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl CrashPoints {
    /// All names of mutations, in the order in which a function's life reaches them.
    pub const NAMES: &[&str] = &[
        "create.checked",
        "create.unpacked",
        "create.stored",
        "create.committed",
        "settle.prepared",
        "settle.committed",
        "update-code.unpacked",
        "update-code.stored",
        "update-code.committed",
        "update-configuration.committed",
        "publish.committed",
        "create-alias.committed",
        "update-alias.committed",
        "delete-alias.committed",
        "attach.committed",
        "delete-version.committed",
        "delete.committed",
        "publish-layer.stored",
        "publish-layer.committed",
        "add-layer-permission.committed",
        "remove-layer-permission.committed",
        "delete-layer.committed",
        "push-image.stored",
        "push-image.unpacked",
        "push-image.committed",
        "delete-image.committed",
        "collect.unpacked-removed",
        "collect.stored-removed",
    ];

    /// The same for events, in the order in which one reaches them.
    pub const EVENT_NAMES: &[&str] = &[
        "create-mapping.committed",
        "mapping.session-made",
        "event.accepted",
        "event.invoked",
        "event.deferred",
        "event.relayed",
        "event.told",
        "event.concluded",
        "event.acknowledged",
        "batch.invoked",
        "batch.told",
        "batch.processed",
        "batch.acknowledged",
        "audit.published",
    ];

    /// The same for durable executions, in the order in which one reaches them.
    pub const DURABLE_NAMES: &[&str] = &[
        "execution.started",
        "execution.claimed",
        "execution.checkpointed",
        "chained.made",
        "callback.completed",
        "execution.invoked",
        "execution.finished",
        "chained.told",
        "execution.stopped",
    ];

    /// Calls `hook` with each name that is reached.
    pub fn with(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn reach(&self, name: &'static str) {
        debug_assert!(
            [Self::NAMES, Self::EVENT_NAMES, Self::DURABLE_NAMES]
                .iter()
                .any(|names| names.contains(&name)),
            "`{name}` is not listed"
        );
        if let Some(hook) = &self.0 {
            hook(name);
        }
    }
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashPoints").field(&self.0.is_some()).finish()
    }
}
