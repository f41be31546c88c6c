//! The durable keys of streams.
//!
//! | key | value | lives |
//! | --- | --- | --- |
//! | `stream/directory/NAME` | [`crate::record::Directory`] | as long as the stream |
//! | `stream/head/NAME/` chain | [`crate::record::Head`]; never missing for a chain of the directory | as long as the chain |
//! | `stream/node/NAME/` chain, number | [`crate::record::Node`] or [`crate::record::Pack`] | until it is trimmed |
//! | `stream/doomed/NAME` | [`crate::record::Doomed`] | from a stream's deletion until nothing is left of it |
//! | `stream/hosts` | the last [`HostId`] given, 8 bytes; missing: none yet | for ever |
//! | `stream/member/` host | [`crate::record::Member`] | until nothing is left that the host owned |
//! | `stream/beat/` host | [`crate::record::Beat`] | as its member |
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do: hosts and node numbers have eight
//! bytes, chains four.

use bowline_store::Key;
use bytes::{BufMut, Bytes, BytesMut};

use crate::{ChainId, HostId};

pub(crate) const DIRECTORIES: &str = "stream/directory/";
const DOOMED: &str = "stream/doomed/";
const HEADS: &str = "stream/head/";
const NODES: &str = "stream/node/";
const MEMBERS: &str = "stream/member/";
const BEATS: &str = "stream/beat/";

pub(crate) fn hosts() -> Key {
    Bytes::from_static(b"stream/hosts")
}

pub(crate) fn members() -> Key {
    Bytes::from_static(MEMBERS.as_bytes())
}

pub(crate) fn member(host: HostId) -> Key {
    numbered(MEMBERS, "", &host.0.to_be_bytes())
}

pub(crate) fn beats() -> Key {
    Bytes::from_static(BEATS.as_bytes())
}

pub(crate) fn beat(host: HostId) -> Key {
    numbered(BEATS, "", &host.0.to_be_bytes())
}

/// The host of a key of [`member`] or [`beat`].
pub(crate) fn host_of(key: &Key) -> Option<HostId> {
    let digits = key
        .strip_prefix(MEMBERS.as_bytes())
        .or(key.strip_prefix(BEATS.as_bytes()))?;
    Some(HostId(u64::from_be_bytes(digits.try_into().ok()?)))
}

pub(crate) fn directories() -> Key {
    Bytes::from_static(DIRECTORIES.as_bytes())
}

pub(crate) fn directory(name: &str) -> Key {
    numbered(DIRECTORIES, name, &[])
}

pub(crate) fn doomed_all() -> Key {
    Bytes::from_static(DOOMED.as_bytes())
}

pub(crate) fn doomed(name: &str) -> Key {
    numbered(DOOMED, name, &[])
}

/// What all heads of a stream begin with.
pub(crate) fn heads(name: &str) -> Key {
    numbered(HEADS, name, b"/")
}

pub(crate) fn head(name: &str, chain: ChainId) -> Key {
    numbered(&format!("{HEADS}{name}/"), "", &chain.0.to_be_bytes())
}

/// The chain of a key of [`head`].
pub(crate) fn chain_of(name: &str, key: &Key) -> Option<ChainId> {
    let digits = key.strip_prefix(&heads(name)[..])?;
    Some(ChainId(u32::from_be_bytes(digits.try_into().ok()?)))
}

/// What all nodes of a chain begin with.
pub(crate) fn nodes(name: &str, chain: ChainId) -> Key {
    numbered(&format!("{NODES}{name}/"), "", &chain.0.to_be_bytes())
}

pub(crate) fn node(name: &str, chain: ChainId, number: u64) -> Key {
    let mut key = BytesMut::from(&nodes(name, chain)[..]);
    key.put_u64(number);
    key.freeze()
}

/// The number of a key of [`node`].
pub(crate) fn node_number(key: &Key) -> Option<u64> {
    let digits = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[digits..].try_into().ok()?))
}

fn numbered(prefix: &str, name: &str, rest: &[u8]) -> Key {
    let mut key = BytesMut::with_capacity(prefix.len() + name.len() + rest.len());
    key.put_slice(prefix.as_bytes());
    key.put_slice(name.as_bytes());
    key.put_slice(rest);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_sort() {
        assert_eq!(host_of(&member(HostId(7))), Some(HostId(7)));
        assert_eq!(host_of(&beat(HostId(7))), Some(HostId(7)));
        assert_eq!(host_of(&hosts()), None);
        assert_eq!(chain_of("a", &head("a", ChainId(258))), Some(ChainId(258)));
        assert_eq!(chain_of("a", &head("ab", ChainId(258))), None);
        assert_eq!(node_number(&node("a", ChainId(1), 1 << 40)), Some(1 << 40));
        assert!(node("a", ChainId(1), 255) < node("a", ChainId(1), 256));
        assert!(node("a", ChainId(1), 255).starts_with(&nodes("a", ChainId(1))));
    }
}
