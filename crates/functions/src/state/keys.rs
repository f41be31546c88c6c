//! The durable keys of shared state.
//!
//! | key | value | lives |
//! | --- | --- | --- |
//! | `state/resource/ACCOUNT/NAME` | [`super::record::ResourceRecord`] | from its creation to its removal; missing: there is none |
//! | `state/head/ID` | [`super::record::HeadRecord`] | as its resource; missing: nothing was written yet |
//! | `state/keeper/NODE` | [`super::record::KeeperRecord`] | for ever; missing: the node has never kept a volume by this store |
//! | `state/entry/ID/KEY` | [`super::record::EntryRecord`] | from its first write until it or its resource goes |

use bowline_foundation::id::AccountId;
use bowline_store::Key;

use super::StateName;

const RESOURCES: &str = "state/resource/";

/// What the keys of the resources of all accounts begin with.
pub(super) fn all_resources() -> Key {
    RESOURCES.into()
}

pub(super) fn resources(account: &AccountId) -> Key {
    format!("{RESOURCES}{account}/").into()
}

pub(super) fn resource(account: &AccountId, name: &StateName) -> Key {
    format!("{RESOURCES}{account}/{name}").into()
}

/// The account of a resource's key.
pub(super) fn account_of(resource: &Key) -> Option<AccountId> {
    let rest = str::from_utf8(resource).ok()?.strip_prefix(RESOURCES)?;
    rest.split_once('/')?.0.parse().ok()
}

pub(super) fn keeper(node: &str) -> Key {
    format!("state/keeper/{node}").into()
}

pub(super) fn head(id: &str) -> Key {
    format!("state/head/{id}").into()
}

pub(super) fn entries(id: &str) -> Key {
    format!("state/entry/{id}/").into()
}

pub(super) fn entry(id: &str, key: &str) -> Key {
    format!("state/entry/{id}/{key}").into()
}
