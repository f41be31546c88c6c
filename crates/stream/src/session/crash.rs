//! Named moments of a delivery, at which a test can stop the node.

use std::fmt;
use std::sync::Arc;

/// Whether the node lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Live,
    /// The service does nothing any more, as if its process had been killed.
    Die,
}

type Hook = dyn Fn(&'static str) -> Fate + Send + Sync;

/// What happens at the named moments: nothing, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct CrashPoints(Option<Arc<Hook>>);

impl CrashPoints {
    /// Sets are chosen, nothing is written.
    pub(super) const AFTER_SELECT: &str = "after_select";
    /// The markers are written, and with them, by the same commit, the cursor.
    pub(super) const AFTER_MARKER: &str = "after_marker";
    /// The node knows that the cursor has moved; no reply has left.
    pub(super) const AFTER_CURSOR: &str = "after_cursor";
    /// The replies have left.
    pub(super) const AFTER_SEND: &str = "after_send";
    /// All names, in the order in which a delivery reaches them.
    pub const NAMES: &[&str] = &[
        Self::AFTER_SELECT,
        Self::AFTER_MARKER,
        Self::AFTER_CURSOR,
        Self::AFTER_SEND,
    ];

    /// Calls `hook` with each name that is reached.
    pub fn with(hook: impl Fn(&'static str) -> Fate + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(super) fn reach(&self, name: &'static str) -> Fate {
        self.0.as_ref().map_or(Fate::Live, |hook| hook(name))
    }
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashPoints").field(&self.0.is_some()).finish()
    }
}
