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
        "event.laid-by",
        "waiting.sent",
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

    /// The same for a run that moves to another node, in the order in which it reaches them there and here.
    pub const MOVE_NAMES: &[&str] = &[
        // At the source: before anybody is asked, when one was chosen, when the checkpoint's bytes are there and when
        // its record is, which is before the offer.
        "move.asked",
        "move.fitted",
        "move.copied",
        "move.left",
        // At the target: when it hears of the checkpoint, before and after its own test, with the checkpoint in hand, when the run is its own.
        "take.announced",
        "take.offered",
        "take.fitted",
        "take.read",
        "take.committed",
        // At the source: when it has the answer, before it lets go.
        "move.told",
    ];

    /// Calls `hook` with each name that is reached.
    pub fn with(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn reach(&self, name: &'static str) {
        debug_assert!(
            [Self::NAMES, Self::EVENT_NAMES, Self::DURABLE_NAMES, Self::MOVE_NAMES]
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
