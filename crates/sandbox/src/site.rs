//! Places whose room for sandboxes is bounded by itself, an instance say.

use std::sync::Arc;

use bowline_foundation::units::Mebibytes;

/// Such a place: equal to its clones, and to nothing else.
#[derive(Clone, Debug, Default)]
pub struct Site(Arc<()>);

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Site {}

/// A place that could take a sandbox if others there ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    pub site: Site,
    /// What must come free there, at least one.
    pub missing: Mebibytes,
}

/// Why there is no room for a sandbox, and what would make some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    pub reason: String,
    /// Empty if it is not known where.
    pub crowded: Vec<Crowded>,
}

impl From<String> for NoRoom {
    fn from(reason: String) -> Self {
        let crowded = Vec::new();
        Self { reason, crowded }
    }
}
