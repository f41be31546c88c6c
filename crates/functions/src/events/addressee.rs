//! Who is told of an event that is over, as the function's configuration says.

use super::outcome::Condition;
use super::parcel::{Head, What};
use crate::model::events::EventInvokeSettings;
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::FunctionEntry;
use crate::service::Inner;

impl What {
    /// Where it goes.
    pub fn place(self, entry: &FunctionEntry, target: &FunctionRef, condition: Condition) -> Option<String> {
        match self {
            Self::Outcome => destination(entry, target, condition),
            Self::Letter => dead_letters(entry, target, condition),
        }
    }
}

impl Inner {
    /// Where a record goes as the configuration is now, for who names another place while the first one is away has it
    /// there. That of a function that is gone goes where it went.
    pub(super) fn place(&self, head: &Head) -> Option<String> {
        let target = head.target().ok()?;
        match self.entry(&target) {
            Ok(entry) => head.what.place(&entry, &target, head.condition),
            Err(_) => Some(head.arn.clone()),
        }
    }
}

/// The configuration of what the caller named; that of the function for `$LATEST`.
pub(super) fn settings(entry: &FunctionEntry, target: &FunctionRef) -> Option<EventInvokeSettings> {
    let latest = Qualifier::Version(Version::Latest);
    let qualifier = target.qualifier.as_ref().unwrap_or(&latest);
    let found = entry.event_invokes.get(&qualifier.to_string())?;
    Some(found.config.settings.clone())
}

/// Who is told of an outcome.
fn destination(entry: &FunctionEntry, target: &FunctionRef, condition: Condition) -> Option<String> {
    let settings = settings(entry, target)?;
    match condition {
        Condition::Success => settings.on_success,
        Condition::RetriesExhausted | Condition::EventAgeExceeded => settings.on_failure,
    }
}

/// Where events go that failed, as the version's own configuration says.
fn dead_letters(entry: &FunctionEntry, target: &FunctionRef, condition: Condition) -> Option<String> {
    if condition == Condition::Success {
        return None;
    }
    let version = match &target.qualifier {
        None => Version::Latest,
        Some(Qualifier::Version(version)) => *version,
        Some(Qualifier::Alias(alias)) => entry.aliases.get(alias)?.alias.version,
    };
    let configuration = match version {
        Version::Latest => &entry.latest,
        Version::Number(number) => &entry.versions.get(&number)?.configuration,
    };
    let arn = configuration
        .inert
        .get("DeadLetterConfig")?
        .get("TargetArn")?
        .as_str()?;
    Some(arn.to_owned()).filter(|arn| !arn.is_empty())
}
