//! From a qualifier to the version that runs.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;

use super::pool::Pool;
use crate::model::{Alias, Configuration, State};
use crate::name::{Qualifier, Version};
use crate::registry::FunctionEntry;

/// The version that a qualifier stands for at this moment.
pub(crate) struct Target<'a> {
    pub configuration: &'a Arc<Configuration>,
    pool: Option<&'a Arc<Pool>>,
}

/// Whether a target can be invoked.
pub(crate) enum Readiness<'a> {
    Ready(&'a Arc<Pool>),
    Pending,
    Failed,
}

impl<'a> Target<'a> {
    /// Resolves a qualifier; a weighted alias draws anew each time. `None`: there is nothing of that name.
    pub fn find(entry: &'a FunctionEntry, qualifier: Option<&Qualifier>, entropy: &Entropy) -> Option<Self> {
        match qualifier {
            None => Self::version(entry, Version::Latest),
            Some(Qualifier::Version(version)) => Self::version(entry, *version),
            Some(Qualifier::Alias(name)) => Self::version(entry, draw(&entry.aliases.get(name)?.alias, entropy)),
        }
    }

    fn version(entry: &'a FunctionEntry, version: Version) -> Option<Self> {
        match version {
            Version::Latest => Some(Self {
                configuration: &entry.latest,
                pool: entry.pool.as_ref(),
            }),
            Version::Number(number) => {
                let version = entry.versions.get(&number)?;
                Some(Self {
                    configuration: &version.configuration,
                    pool: version.pool.as_ref(),
                })
            }
        }
    }

    pub fn readiness(&self) -> Readiness<'a> {
        match (self.pool, &self.configuration.state) {
            (Some(pool), _) => Readiness::Ready(pool),
            (None, State::Failed { .. }) => Readiness::Failed,
            (None, _) => Readiness::Pending,
        }
    }
}

fn draw(alias: &Alias, entropy: &Entropy) -> Version {
    match alias.routing {
        Some((version, weight)) if entropy.unit() < weight => version,
        _ => alias.version,
    }
}
