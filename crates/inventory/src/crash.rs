//! Named moments between the steps of a replacement, at which a test can kill the process.

use std::fmt;
use std::sync::Arc;

/// What happens at the named moments: nothing, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct CrashPoints(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl CrashPoints {
    /// All names, in the order in which a replacement reaches them.
    pub const NAMES: [&str; 5] = [
        "after_detect",
        "after_fence",
        "after_create",
        "after_start",
        "after_cmdb",
    ];

    /// Calls `hook` at each of them.
    pub fn new(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn at(&self, name: &'static str) {
        if let Some(hook) = &self.0 {
            hook(name);
        }
    }
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashPoints")
    }
}
