//! The registry's keys in the store.
//!
//! Parts are joined by `/`, which no account, name or alias may contain. Numbers are padded so that keys
//! sort as numbers do.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_store::Key;

use crate::name::image::{ImageName, Tag};
use crate::name::layer::LayerName;
use crate::name::{AliasName, FunctionName};

pub(super) const FUNCTIONS: &str = "functions/function/";
pub(super) const VERSIONS: &str = "functions/version/";
pub(super) const ALIASES: &str = "functions/alias/";
pub(super) const ATTACHED: &str = "functions/attached/";
pub(super) const AUDIT: &str = "functions/audit/";
/// Written by every mutation where the store is shared, so that others look again: the key of its audit
/// row. Lives for ever. Missing: nothing has changed yet.
pub(super) const CHANGED: &str = "functions/changed";
/// An [`IdentityRecord`](super::record::IdentityRecord), written by the first node that starts with the store. Lives for ever, and goes
/// along into copies. Missing: no node has started with it.
pub(super) const IDENTITY: &str = "functions/identity";
pub(super) const EVENT_INVOKES: &str = "functions/event-invoke/";
pub(super) const ACCESS_KEYS: &str = "functions/access-key/";
pub(super) const POLICIES: &str = "functions/policy/";
pub(super) const LAYERS: &str = "functions/layer/";
pub(super) const LAYER_VERSIONS: &str = "functions/layer-version/";
pub(super) const IMAGES: &str = "functions/image/";
pub(super) const MAPPINGS: &str = "functions/mapping/";
const LEASES: &str = "functions/lease/";
pub(super) const OVERFLOWS: &str = "functions/overflow/";
pub(super) const OUTBOX: &str = "functions/outbox/";
const RETIRED: &str = "functions/retired/";

/// `functions/function/ACCOUNT/NAME`: a [`FunctionRecord`](super::record::FunctionRecord). Lives from
/// CreateFunction to DeleteFunction. Missing: there is no such function.
pub(super) fn function(account: &AccountId, name: &FunctionName) -> Key {
    format!("{FUNCTIONS}{account}/{name}").into()
}

/// `functions/version/ACCOUNT/NAME/NUMBER` (20 digits): a [`VersionRecord`](super::record::VersionRecord).
/// Lives from its publication until it or its function is deleted; one without a function is a remnant.
/// Missing: the version was never published or is gone.
pub(super) fn version(account: &AccountId, name: &FunctionName, number: u64) -> Key {
    format!("{VERSIONS}{account}/{name}/{number:020}").into()
}

/// `functions/alias/ACCOUNT/NAME/ALIAS`: an [`AliasRecord`](super::record::AliasRecord). Lives from
/// CreateAlias until it or its function is deleted; one without a function is a remnant. Missing: there is
/// no such alias.
pub(super) fn alias(account: &AccountId, name: &FunctionName, alias: &AliasName) -> Key {
    format!("{ALIASES}{account}/{name}/{alias}").into()
}

/// `functions/attached/ACCOUNT/NAME/QUALIFIER`: an [`AttachedRecord`](super::record::AttachedRecord). Lives
/// while anything is attached to the version or alias (`$LATEST` for the function without one), or until
/// that or its function is deleted; one without a function is a remnant. Missing: nothing is attached.
pub(super) fn attached(account: &AccountId, name: &FunctionName, qualifier: &str) -> Key {
    format!("{ATTACHED}{account}/{name}/{qualifier}").into()
}

/// `functions/retired/ACCOUNT/NAME`: a [`RetiredRecord`](super::record::RetiredRecord). Lives from the
/// deletion of a function that had published versions until a function of that name is created again.
/// Missing: numbering begins at 1.
pub(super) fn retired(account: &AccountId, name: &FunctionName) -> Key {
    format!("{RETIRED}{account}/{name}").into()
}

/// `functions/audit/MICROSECONDS-ROW` (20 and 8 digits): an [`AuditRecord`](super::record::AuditRecord),
/// written with the mutation it tells of. Lives for [`AUDIT_KEPT`](super::load::AUDIT_KEPT). Missing:
/// nothing happened then.
pub(super) fn audit(at: Timestamp, row: u64) -> Key {
    format!("{AUDIT}{:020}-{row:08}", at.as_micros()).into()
}

/// `functions/event-invoke/ACCOUNT/NAME/QUALIFIER`: an
/// [`EventInvokeRecord`](super::record::EventInvokeRecord). Lives from PutFunctionEventInvokeConfig until it,
/// its version, its alias or its function is deleted; one without a function is a remnant. Missing: the
/// defaults hold.
pub(super) fn event_invoke(account: &AccountId, name: &FunctionName, qualifier: &str) -> Key {
    format!("{EVENT_INVOKES}{account}/{name}/{qualifier}").into()
}

/// `functions/policy/ACCOUNT/NAME/QUALIFIER`: a [`PolicyRecord`](super::record::PolicyRecord); `$LATEST` stands
/// for the function without a qualifier. Lives from the first statement until the last of them, its version, its
/// alias or its function is deleted; one without a function is a remnant. Missing: only the owner may.
pub(super) fn policy(account: &AccountId, name: &FunctionName, qualifier: &str) -> Key {
    format!("{POLICIES}{account}/{name}/{qualifier}").into()
}

/// `functions/access-key/ID`: an [`AccessKeyRecord`](super::record::AccessKeyRecord). Lives from `bowline keys
/// create` to `bowline keys rm`. Missing: nobody can sign with it.
pub(super) fn access_key(id: &str) -> Key {
    format!("{ACCESS_KEYS}{id}").into()
}

/// `functions/mapping/UUID`: a [`MappingRecord`](super::record::MappingRecord). Lives from
/// CreateEventSourceMapping to DeleteEventSourceMapping. Missing: there is no such mapping.
pub(super) fn mapping(id: &str) -> Key {
    format!("{MAPPINGS}{id}").into()
}

/// `functions/lease/UUID` (a mapping's): a [`LeaseRecord`](super::record::LeaseRecord), written again and again while a node
/// polls the mapping's queue alone. Lives until that node gives it up, or the mapping is deleted. Missing: any node may take
/// it.
pub(super) fn lease(mapping: &str) -> Key {
    format!("{LEASES}{mapping}").into()
}

/// `functions/overflow/MICROSECONDS-REQUEST` (20 digits): the end of an event's payload, as it came. Lives
/// from before the event is accepted until it is over, or for [`OVERFLOW_KEPT`](super::load::OVERFLOW_KEPT).
/// Missing: the event lies whole in its stream.
pub(super) fn overflow(at: Timestamp, request_id: &str) -> Key {
    format!("{OVERFLOWS}{:020}-{request_id}", at.as_micros()).into()
}

/// `functions/outbox/MICROSECONDS-ROW`: the audit row of the same number, as it goes into the audit stream.
/// Lives from its mutation until the stream has it. Missing: the stream has it, or there is none.
pub(super) fn outbox(at: Timestamp, row: u64) -> Key {
    format!("{OUTBOX}{:020}-{row:08}", at.as_micros()).into()
}

/// `functions/layer/ACCOUNT/NAME`: a [`LayerRecord`](super::record::LayerRecord). Lives from the first
/// PublishLayerVersion of the name for ever, so that a number is never used again. Missing: numbering begins
/// at 1.
pub(super) fn layer(account: &AccountId, name: &LayerName) -> Key {
    format!("{LAYERS}{account}/{name}").into()
}

/// `functions/layer-version/ACCOUNT/NAME/NUMBER` (20 digits): a
/// [`LayerVersionRecord`](super::record::LayerVersionRecord). Lives from PublishLayerVersion to
/// DeleteLayerVersion. Missing: the version was never published or is gone.
pub(super) fn layer_version(account: &AccountId, name: &LayerName, number: u64) -> Key {
    format!("{LAYER_VERSIONS}{account}/{name}/{number:020}").into()
}

/// `functions/image/ACCOUNT/NAME:TAG` (the name may have slashes, but no colon): an
/// [`ImageRecord`](super::record::ImageRecord). Lives from the upload until the image is removed; another upload under
/// the tag takes its place. Missing: no image has the tag.
pub(super) fn image(account: &AccountId, name: &ImageName, tag: &Tag) -> Key {
    format!("{IMAGES}{account}/{name}:{tag}").into()
}

/// Takes a key apart behind its prefix.
pub(super) fn parts<const N: usize>(key: &Key, prefix: &str) -> Option<[String; N]> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    parts.try_into().ok()
}
