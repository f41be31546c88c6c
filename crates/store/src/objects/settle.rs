//! Bringing the index in line with an item: the part of a change that comes after its commit point.
//!
//! Entries name the version since which they hold, so a copy that comes late is at worst stale, and a
//! removal that comes late can hit no newer entry.

use bytes::Bytes;

use super::Objects;
use super::backend::{Backend, Deadline, Found};
use super::id::Unique;
use super::keys;
use super::record::{Item, encode_beacon};
use crate::{Condition, Key, Version, Write};

/// The writes that bring the index in line with `item`.
pub(super) fn copies(unique: Unique, item: &Item) -> Vec<Write> {
    let adds = item
        .pending_adds()
        .map(|add| Write::Put(keys::entry(unique, add), Bytes::new()));
    let removes = item.pending_removes.iter().flatten();
    adds.chain(removes.map(|remove| Write::Delete(keys::entry(unique, remove))))
        .collect()
}

/// The write that tells readers of the index about the entries that wait in `item`, if any do.
pub(super) fn beacon(unique: Unique, item: &Item) -> Option<Write> {
    let adds: Vec<_> = item.pending_adds().cloned().collect();
    item.pending_removes.as_ref()?;
    Some(Write::Put(keys::beacon(unique, item), encode_beacon(&adds)))
}

impl Objects {
    /// Copies what waits in `item` and strikes it. Whatever goes wrong is left to the next who meets it.
    pub(super) async fn settle(&self, backend: &Backend, unique: Unique, found: Found, until: Deadline) {
        let Found { mut item, version } = found;
        if item.pending_removes.is_none() {
            return;
        }
        let mut writes = copies(unique, &item);
        item.pending_removes = None;
        writes.push(Write::Put(keys::item(unique), item.encode()));
        writes.push(Write::Delete(keys::beacon(unique, &item)));
        let conditions = vec![Condition::AtVersion(keys::item(unique), version)];
        if let Err(error) = backend.commit(conditions, writes, until).await {
            tracing::debug!(store = %backend.name, %unique, %error, "index entries are left pending");
        }
    }

    /// Settles the object of a beacon that has been met, or removes the beacon if nothing waits any more.
    pub(super) async fn settle_beacon(&self, backend: &Backend, beacon: Key, until: Deadline) -> u64 {
        let Some((unique, version)) = keys::parse_beacon(&beacon) else {
            return 0;
        };
        // Without its item the beacon was written ahead, and its commit may still come.
        let Ok(Some(found)) = backend.item(unique, until).await else {
            return 0;
        };
        if found.item.version < version {
            return 0;
        }
        if found.item.pending_removes.is_some() && keys::beacon(unique, &found.item) == beacon {
            self.settle(backend, unique, found, until).await;
            return 1;
        }
        let gone = backend.commit(vec![], vec![Write::Delete(beacon)], until).await;
        u64::from(gone.is_ok())
    }
}

/// What a commit of `item` gave.
pub(super) fn found(item: Item, version: Version) -> Found {
    Found { item, version }
}
