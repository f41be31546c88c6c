//! The keys of instances in the store.
//!
//! Parts are joined by `/`, which no account and no name may contain. Numbers are padded so that keys sort as numbers do.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_store::Key;

/// `inventory/file/ACCOUNT/ID`: a [`FileRecord`](crate::model::FileRecord). Lives from its first put to its deletion.
/// Missing: there is no such file, and nothing can be made or replaced from it.
pub(super) fn file(account: &AccountId, id: &str) -> Key {
    format!("{}{id}", files(account)).into()
}

pub(super) fn files(account: &AccountId) -> String {
    format!("{ALL_FILES}{account}/")
}

pub(super) const ALL_FILES: &str = "inventory/file/";

/// `inventory/instance/ACCOUNT/NAME`: an [`Instance`](crate::model::Instance). Lives from its creation to its removal.
/// Missing: there is no such instance.
pub(super) fn instance(account: &AccountId, name: &str) -> Key {
    format!("{}{name}", instances(Some(account))).into()
}

pub(super) fn instances(account: Option<&AccountId>) -> String {
    match account {
        None => "inventory/instance/".to_owned(),
        Some(account) => format!("inventory/instance/{account}/"),
    }
}

/// `inventory/event/ACCOUNT/NAME/NUMBER` (20 digits): an [`Event`](crate::model::Event). The last
/// [`EVENTS_MAX`](super::EVENTS_MAX) of an instance live as long as it. Missing: it was longer ago.
pub(super) fn event(account: &AccountId, name: &str, number: u64) -> Key {
    format!("{}{number:020}", events(account, name)).into()
}

pub(super) fn events(account: &AccountId, name: &str) -> String {
    format!("inventory/event/{account}/{name}/")
}

/// `inventory/assignment/ACCOUNT/NAME/SERVER`: an [`Assignment`](crate::model::Assignment). Lives for ever, so that a
/// role's history is whole. Missing: the server never ran.
pub(super) fn assignment(account: &AccountId, name: &str, server: &str) -> Key {
    format!("{}{server}", assignments(account, name)).into()
}

pub(super) fn assignments(account: &AccountId, name: &str) -> String {
    format!("inventory/assignment/{account}/{name}/")
}

/// `inventory/replacement/ACCOUNT/FAILED`: a [`Replacement`](crate::model::Replacement) that is over, by the server that
/// failed. Lives for ever. Missing: the server was never replaced.
pub(super) fn replacement(account: &AccountId, failed: &str) -> Key {
    format!("inventory/replacement/{account}/{failed}").into()
}

/// `inventory/volume/ACCOUNT/SOURCE`: a [`Claim`](crate::model::Claim) of the one server that may write to the volume.
/// Lives from the server's configuration to its fence. Missing: nobody writes to it.
pub(super) fn volume(account: &AccountId, source: &str) -> Key {
    format!("inventory/volume/{account}/{source}").into()
}

/// `inventory/address/ADDRESS`: a [`Claim`](crate::model::Claim) of the server that has the address. Lives as a volume's.
/// Missing: it is free.
pub(super) fn address(address: &str) -> Key {
    format!("inventory/address/{address}").into()
}

/// `inventory/token/ACCOUNT/TOKEN`: a [`TokenRecord`](crate::model::TokenRecord). Lives for ever. Missing: the token is
/// new.
pub(super) fn token(account: &AccountId, token: &str) -> Key {
    format!("inventory/token/{account}/{token}").into()
}

/// `inventory/cost/ACCOUNT/ROLE/MICROSECONDS-ROW`: a [`CostIndication`](crate::model::CostIndication). Goes when the role has
/// [`COSTS_MAX`](super::COSTS_MAX) newer ones. Missing: nobody said so.
pub(super) fn cost(account: &AccountId, role: &str, at: Timestamp, row: u64) -> Key {
    format!("{}{:020}-{row:020}", costs(account, role), at.as_micros()).into()
}

pub(super) fn costs(account: &AccountId, role: &str) -> String {
    format!("inventory/cost/{account}/{role}/")
}

/// `inventory/fleets/ACCOUNT`: a [`FleetsRecord`](crate::model::FleetsRecord). Lives for ever. Missing: the account's
/// fleets go by the criteria of all.
pub(super) fn fleets(account: &AccountId) -> Key {
    format!("{ALL_FLEETS}{account}").into()
}

pub(super) const ALL_FLEETS: &str = "inventory/fleets/";

/// `inventory/usage/NODE/ACCOUNT/FUNCTION/VERSION`: a [`UsageRecord`](crate::model::UsageRecord) of the calls that a node
/// has seen. Goes when it says no more than that the version is rare. Missing: nothing is known of its calls.
pub(super) fn usage(node: &str, account: &AccountId, function: &str, version: &str) -> Key {
    format!("{}{account}/{function}/{version}", usages(node)).into()
}

pub(super) fn usages(node: &str) -> String {
    format!("inventory/usage/{node}/")
}

/// `inventory/audit/MICROSECONDS-ROW`: an [`AuditRow`](crate::model::AuditRow), written with the change it tells of.
/// Lives for ever. Missing: nothing happened then.
pub(super) fn audit(at: Timestamp, row: u64) -> Key {
    format!("inventory/audit/{:020}-{row:020}", at.as_micros()).into()
}
