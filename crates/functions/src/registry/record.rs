//! What lies behind the registry's keys, apart from the model's types.

mod access_key;
mod alias;
mod attached;
mod audit;
mod configuration;
mod event_invoke;
mod function;
mod identity;
mod image;
mod layer;
mod lease;
mod mapping;
mod policy;
mod retired;
mod version;

pub(super) use access_key::AccessKeyRecord;
pub(super) use alias::AliasRecord;
pub(super) use attached::AttachedRecord;
pub(super) use audit::AuditRecord;
pub(super) use event_invoke::EventInvokeRecord;
pub(super) use function::FunctionRecord;
pub(super) use identity::IdentityRecord;
pub(super) use image::ImageRecord;
pub(super) use layer::{LayerRecord, LayerVersionRecord};
pub(super) use lease::LeaseRecord;
pub(super) use mapping::MappingRecord;
pub(super) use policy::PolicyRecord;
pub(super) use retired::RetiredRecord;
pub(super) use version::VersionRecord;

use bowline_store::record::FrameError;
pub(super) use bowline_store::record::Record;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("record holds `{0}`, which no function can have")]
    Value(String),
}

#[cfg(test)]
mod tests;
