//! The operations on functions, one file each.
//!
//! Those that change something run to their end even if the caller goes away, one at a time for each
//! function, and end in one commit.

pub(crate) mod aliases;
pub(crate) mod attach;
pub(crate) mod code;
pub(crate) mod concurrency;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod event_invoke;
pub(crate) mod garbage;
pub(crate) mod images;
pub(crate) mod kept;
pub(crate) mod layer_policy;
mod layer_use;
pub(crate) mod layers;
pub(crate) mod list;
pub(crate) mod mappings;
pub(crate) mod policies;
pub(crate) mod provisioned;
pub(crate) mod publish;
pub(crate) mod refusals;
pub(crate) mod settle;
pub(crate) mod sizing;
pub(crate) mod tags;
pub(crate) mod update;
pub(crate) mod urls;
mod validate;

use bowline_foundation::id::AccountId;

use crate::model::Caller;
use crate::name::{FunctionName, FunctionRef, Qualifier, Version};
use crate::registry::Audit;

/// An audit row's who and what.
fn audit<'a>(
    caller: &'a Caller,
    action: &'static str,
    (account, name): (&AccountId, &FunctionName),
    qualifier: Option<&dyn std::fmt::Display>,
) -> Audit<'a> {
    let subject = match qualifier {
        None => format!("{account}/{name}"),
        Some(qualifier) => format!("{account}/{name}:{qualifier}"),
    };
    Audit {
        caller,
        action,
        subject,
    }
}

/// Refuses a target that names anything but `$LATEST`.
fn latest_only(target: &FunctionRef) -> Result<(), crate::error::Error> {
    match target.qualifier {
        None | Some(Qualifier::Version(Version::Latest)) => Ok(()),
        Some(_) => Err(refusals::latest_only()),
    }
}
