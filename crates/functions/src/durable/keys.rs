//! The keys of executions in the store. Parts are joined by `/`; numbers are padded so that they sort.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_store::Key;

use super::id::{ExecutionId, ExecutionKey, ExecutionName};
use crate::name::FunctionName;

pub(super) const DUE: &str = "durable/due/";

/// `durable/execution/ACCOUNT/FUNCTION/ID`: a [`Head`](super::head::Head). Lives from the start until the
/// end of the retention or DeleteDurableExecution. Missing: there is no such execution.
pub(super) fn head(key: &ExecutionKey) -> Key {
    format!("durable/execution/{key}").into()
}

/// The heads of a function's executions, oldest first.
pub(super) fn heads(account: &AccountId, function: &FunctionName) -> Key {
    format!("durable/execution/{account}/{function}/").into()
}

/// `durable/newest/ACCOUNT/FUNCTION/AGE-ID`: empty; sorts the newest execution first. Lives as long as its
/// head, unless that is not shown. Missing: likewise.
pub(super) fn newest(key: &ExecutionKey, started: Timestamp) -> Key {
    let age = u64::MAX - started.as_micros();
    format!("durable/newest/{}/{}/{age:020}-{}", key.account, key.function, key.id).into()
}

/// See [`newest`].
pub(super) fn newest_of(account: &AccountId, function: &FunctionName) -> Key {
    format!("durable/newest/{account}/{function}/").into()
}

/// `durable/name/ACCOUNT/FUNCTION/NAME`: a [`NameRecord`](super::record::NameRecord). Lives as long as the
/// head that it names. Missing: the name is free.
pub(super) fn name(account: &AccountId, function: &FunctionName, name: &ExecutionName) -> Key {
    format!("durable/name/{account}/{function}/{name}").into()
}

/// `durable/operation/ID/PLACE` (8 digits): an [`Operation`](super::operation::Operation). Lives from its
/// start as long as the head; what is left over is removed before it. Missing: the execution has fewer.
pub(super) fn operation(id: ExecutionId, at: usize) -> Key {
    format!("durable/operation/{id}/{at:08}").into()
}

/// `durable/event/ID/NUMBER` (10 digits): an [`Event`](super::event::Event). Lives like an operation.
pub(super) fn event(id: ExecutionId, number: u64) -> Key {
    format!("durable/event/{id}/{number:010}").into()
}

/// `durable/text/ID/NUMBER/CHUNK` (10 and 4 digits): a part of a long payload, as it came. Lives like an
/// operation. Missing: the store is damaged.
pub(super) fn text(id: ExecutionId, number: u64, chunk: usize) -> Key {
    format!("{}{chunk:04}", String::from_utf8_lossy(&text_of(id, number))).into()
}

/// All parts of one payload.
pub(super) fn text_of(id: ExecutionId, number: u64) -> Key {
    format!("durable/text/{id}/{number:010}/").into()
}

/// What lies apart from an execution's head, by kind.
pub(super) fn parts(id: ExecutionId) -> [Key; 3] {
    ["operation", "event", "text"].map(|kind| format!("durable/{kind}/{id}/").into())
}

/// `durable/due/MICROSECONDS/ACCOUNT/FUNCTION/ID` (20 digits): the number of the node that runs an
/// invocation, or nothing. Each execution has one, at the time its head names. Missing: likewise.
pub(super) fn due(at: Timestamp, key: &ExecutionKey) -> Key {
    format!("{DUE}{:020}/{key}", at.as_micros()).into()
}

/// Takes a key of [`due`] apart.
pub(super) fn read_due(key: &Key) -> Option<(Timestamp, ExecutionKey)> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(DUE)?;
    let (at, rest) = text.split_once('/')?;
    Some((Timestamp::from_micros(at.parse().ok()?), rest.parse().ok()?))
}
