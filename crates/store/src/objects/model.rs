//! What callers of objects give and get, and the limits on it.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bytes::Bytes;

use super::error::InvalidRequest;
use super::id::{ObjectId, StoreName};
use super::record::IndexRef;

/// Largest body of an object. Twice this never lies in one value, and the rest of an item is far below
/// the difference to [`crate::limits::VALUE_BYTES_MAX`].
pub const BODY_BYTES_MAX: usize = 768 * 1024;
/// Most index keys of one object.
pub const INDEXES_MAX: usize = 16;
/// Longest name of an index.
pub const INDEX_NAME_BYTES_MAX: usize = 64;
/// Longest key in an index.
pub const INDEX_KEY_BYTES_MAX: usize = 256;
/// Longest client token, name of a caller and request id.
pub const LABEL_BYTES_MAX: usize = 128;
/// Most hits or events of one page.
pub const PAGE_MAX: usize = 1000;

/// A key under which an object is found, in the index of that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey {
    pub index: String,
    pub key: Bytes,
}

/// Who asks, for the events, and the token that makes a repetition harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub by: String,
    pub request: String,
    /// The same token again returns the first answer and has no second effect.
    pub token: Option<String>,
}

/// A new object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    pub body: Bytes,
    pub indexes: Vec<IndexKey>,
    pub caller: Caller,
}

/// Which version the object must have for a change to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this one.
    Version(u64),
    /// Any: the last writer wins.
    Any,
}

/// What becomes of the index keys when the body changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Indexes {
    Keep,
    Replace(Vec<IndexKey>),
}

/// A new body of an object, and new index keys if wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub id: ObjectId,
    pub expect: Expect,
    pub body: Bytes,
    pub indexes: Indexes,
    pub caller: Caller,
}

/// The end of an object. Its events remain readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub id: ObjectId,
    pub expect: Expect,
    pub caller: Caller,
}

/// The answer to a create: the one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub id: ObjectId,
    /// Versions of an object are counted from 1.
    pub version: u64,
}

/// An object as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub version: u64,
    pub body: Bytes,
    pub indexes: Vec<IndexKey>,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
}

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Create,
    Update,
    Delete,
}

/// One committed version of an object; at once the audit row of its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub event_id: String,
    pub object: ObjectId,
    pub kind: EventKind,
    pub version: u64,
    pub at: Timestamp,
    pub by: String,
    pub request: String,
    /// The object's body from this version on; empty after a delete.
    pub body: Bytes,
}

/// Some events of one object, in the order of their versions and without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// The version to give as `after` for the next page; none at the end.
    pub next: Option<u64>,
}

/// Which keys of an index are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    Exactly(Bytes),
    BeginningWith(Bytes),
}

/// What to do when a store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Answer from the others and name it.
    Partial,
    /// Fail.
    Complete,
}

/// A question to an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub index: String,
    pub select: Select,
    /// The last hit of the page before.
    pub after: Option<Hit>,
    /// At most [`PAGE_MAX`].
    pub limit: usize,
    pub completeness: Completeness,
}

/// An object that had this key when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub key: Bytes,
    pub id: ObjectId,
    pub version: u64,
}

/// Hits of all stores in the order of key and time of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPage {
    pub hits: Vec<Hit>,
    /// The stores that could not be asked.
    pub partial: Vec<StoreName>,
    /// Whether the page was filled; ask again after its last hit.
    pub more: More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Perhaps,
    None,
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Second objects of a request that were visible and are now deleted.
    pub removed: u64,
    /// Creates in doubt that had not applied and cannot any more.
    pub barred: u64,
    /// Objects whose losers could not all be asked for.
    pub unresolved: u64,
    /// Index entries and beacons put in order.
    pub tidied: u64,
    /// The longest time for which two objects of one request were visible.
    pub double_visible_max: Duration,
}

impl Caller {
    pub(super) fn check(&self) -> Result<(), InvalidRequest> {
        let token = self.token.as_deref().map_or(0, str::len);
        if self.token.is_some() && token == 0 {
            return Err(InvalidRequest::EmptyToken);
        }
        for (what, bytes) in [("by", self.by.len()), ("request", self.request.len()), ("token", token)] {
            if bytes > LABEL_BYTES_MAX {
                return Err(InvalidRequest::Label { what, bytes });
            }
        }
        Ok(())
    }

    /// The number that the token stands for, in the realm of `about`.
    pub(super) fn token_number(&self, about: &str) -> Option<u128> {
        let token = self.token.as_ref()?;
        let digest = Digest::of(format!("{about}\n{token}").as_bytes());
        let half = digest.as_bytes()[..16].try_into().expect("a digest has 32 bytes");
        Some(u128::from_be_bytes(half))
    }
}

/// Checks a body's size.
pub(super) fn check_body(body: &Bytes) -> Result<(), InvalidRequest> {
    if body.len() > BODY_BYTES_MAX {
        return Err(InvalidRequest::Body(body.len()));
    }
    Ok(())
}

/// Checks index keys and gives them the version at which they begin; a pair that is named twice counts once.
pub(super) fn check_indexes(indexes: &[IndexKey], since: u64) -> Result<Vec<IndexRef>, InvalidRequest> {
    if indexes.len() > INDEXES_MAX {
        return Err(InvalidRequest::Indexes(indexes.len()));
    }
    let mut sorted = indexes.to_vec();
    sorted.sort();
    sorted.dedup();
    let checked = sorted.into_iter().map(|IndexKey { index, key }| {
        check_index(&index, &key)?;
        Ok(IndexRef { index, key, since })
    });
    checked.collect()
}

/// Checks the name of an index and a key, or the beginning of one.
pub(super) fn check_index(index: &str, key: &[u8]) -> Result<(), InvalidRequest> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if index.is_empty() || index.len() > INDEX_NAME_BYTES_MAX || !index.bytes().all(good) {
        return Err(InvalidRequest::IndexName(
            index.chars().take(INDEX_NAME_BYTES_MAX).collect(),
        ));
    }
    if key.len() > INDEX_KEY_BYTES_MAX {
        return Err(InvalidRequest::IndexKey(key.len()));
    }
    Ok(())
}
