//! The keys of objects in each store.
//!
//! Parts are joined by `/`, numbers padded to 20 digits. The keys of indexes stand in hexadecimal: they
//! sort as the bytes do, because `/` sorts before every digit.

use std::fmt::Write as _;

use super::id::Unique;
use super::record::{IndexRef, Item};
use crate::Key;

pub(super) const BEACONS: &str = "objects/beacon/";
pub(super) const SWEEPS: &str = "objects/sweep/";

/// `objects/item/UNIQUE`: an [`Item`](super::record::Item). Lives from the create on, as a tombstone after
/// the delete. Missing: nothing was created with this identifier.
pub(super) fn item(unique: Unique) -> Key {
    format!("objects/item/{unique}").into()
}

/// `objects/events/UNIQUE/LAST`: a node of events up to version LAST. Never changes, never goes. Missing:
/// the item has them.
pub(super) fn node(unique: Unique, last: u64) -> Key {
    format!("objects/events/{unique}/{last:020}").into()
}

pub(super) fn nodes(unique: Unique) -> Key {
    format!("objects/events/{unique}/").into()
}

/// `objects/applied/UNIQUE/EVENT`: the version that the event of a client's token made, once the event has
/// left the item. Missing: ask the item.
pub(super) fn applied(unique: Unique, event_id: u128) -> Key {
    format!("objects/applied/{unique}/{event_id:032x}").into()
}

/// `objects/index/INDEX/KEY/UNIQUE/SINCE`: nothing but the key counts. Lives while the object has this key
/// since this version; may outlive it for a while. Missing: a beacon tells of it, or the object has not
/// this key.
pub(super) fn entry(unique: Unique, entry: &IndexRef) -> Key {
    let mut text = index_key(&entry.index, &entry.key);
    let _ = write!(text, "/{unique}/{:020}", entry.since);
    text.into()
}

/// All entries whose key begins with `key`.
pub(super) fn entries_from(index: &str, key: &[u8]) -> Key {
    index_key(index, key).into()
}

/// All entries with exactly this key.
pub(super) fn entries_at(index: &str, key: &[u8]) -> Key {
    (index_key(index, key) + "/").into()
}

/// After all entries of this object under this key.
pub(super) fn after_entry(index: &str, key: &[u8], unique: Unique) -> Key {
    format!("{}/{unique}/~", index_key(index, key)).into()
}

fn index_key(index: &str, key: &[u8]) -> String {
    let mut text = format!("objects/index/{index}/");
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The key, object and version that the key of an entry names.
pub(super) fn parse_entry(key: &Key) -> Option<(Unique, IndexRef)> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix("objects/index/")?;
    let parts: Vec<&str> = text.split('/').collect();
    let [index, key, unique, since] = parts[..] else {
        return None;
    };
    let digits = key.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let entry = IndexRef {
        index: index.to_owned(),
        key: bytes?.into(),
        since: since.parse().ok()?,
    };
    Some((unique.parse().ok()?, entry))
}

/// `objects/beacon/UNIQUE/VERSION/EVENT`: the index entries that wait in the item since this version, which
/// this event made. Written with that version or before it, removed once they are written. Of two writers
/// at the same version each has its own. Missing: none wait.
pub(super) fn beacon(unique: Unique, item: &Item) -> Key {
    let event_id = item.events.last().map_or(0, |newest| newest.event_id);
    format!("{BEACONS}{unique}/{:020}/{event_id:032x}", item.version).into()
}

pub(super) fn parse_beacon(key: &Key) -> Option<(Unique, u64)> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(BEACONS)?;
    let mut parts = text.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `objects/sweep/UNIQUE`: the item of this name has losers that may still be visible. Written with the item
/// or before it. Missing: it has none, or they are gone.
pub(super) fn sweep(unique: Unique) -> Key {
    format!("{SWEEPS}{unique}").into()
}

pub(super) fn parse_sweep(key: &Key) -> Option<Unique> {
    let text = std::str::from_utf8(key).ok()?;
    text.strip_prefix(SWEEPS)?.parse().ok()
}

/// `objects/claim/REQUEST`: which item the create with this client's token made in this store. Missing: none.
pub(super) fn claim(request_id: u128) -> Key {
    format!("objects/claim/{request_id:032x}").into()
}

/// `objects/probe`: written to learn whether the store takes writes. What it holds means nothing.
pub(super) fn probe() -> Key {
    Key::from_static(b"objects/probe")
}
