//! The rows of membership: their keys and bytes.
//!
//! | key | life time | value |
//! | --- | --- | --- |
//! | `cluster/hosts` | as the cluster | tag, the last host number given; missing: none was |
//! | `cluster/guard/HOST` | from join to fence or leave | tag |
//! | `cluster/lease/HOST` | as the guard row | tag, joined, renewed, lease, version of the guard row, name |
//!
//! `HOST` is the number in 16 hexadecimal digits. The tag is the byte 1, the format. Numbers have 8 bytes,
//! the greatest first; times are microseconds. The version of the guard row is 0 in the lease row that is
//! made together with it: both then have the same. The name is the rest, in UTF-8.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};

use super::HostNumber;
use crate::{Entry, Key, Version};

const FORMAT: u8 = 1;

/// A row of membership cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A later build wrote it.
    #[error("membership row `{key}` has format `{found}`, this build knows up to `{FORMAT}`: start a newer build")]
    NewerFormat { key: String, found: u8 },
    #[error("membership row `{key}` is damaged")]
    Damaged { key: String },
}

pub(super) fn counter_key() -> Key {
    Key::from_static(b"cluster/hosts")
}

pub(super) fn guard_key(host: HostNumber) -> Key {
    Key::from(format!("cluster/guard/{:016x}", host.0))
}

pub(super) fn lease_prefix() -> Key {
    Key::from_static(b"cluster/lease/")
}

pub(super) fn lease_key(host: HostNumber) -> Key {
    Key::from(format!("cluster/lease/{:016x}", host.0))
}

/// The host that a lease row's key names.
pub(super) fn host_of(key: &Key) -> Result<HostNumber, RowError> {
    let digits = key.strip_prefix(&lease_prefix()[..]);
    let text = digits
        .filter(|digits| digits.len() == 16)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let number = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    number.map(HostNumber).ok_or_else(|| damaged(key))
}

pub(super) fn encode_counter(last: HostNumber) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(FORMAT);
    bytes.put_u64(last.0);
    bytes.freeze()
}

/// The number after the last one given.
pub(super) fn next_host(counter: Option<&Entry>) -> Result<HostNumber, RowError> {
    let Some(entry) = counter else { return Ok(HostNumber(1)) };
    let key = counter_key();
    let body = body(&key, &entry.value)?;
    let last = u64::from_be_bytes(body.try_into().map_err(|_| damaged(&key))?);
    last.checked_add(1).map(HostNumber).ok_or_else(|| damaged(&key))
}

pub(super) fn encode_guard() -> Bytes {
    Bytes::from_static(&[FORMAT])
}

/// A lease row's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseRow {
    pub joined: Timestamp,
    pub renewed: Timestamp,
    pub lease: Duration,
    /// None if the guard row has the version of this row.
    pub guard: Option<Version>,
    pub name: String,
}

impl LeaseRow {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.joined.as_micros());
        bytes.put_u64(self.renewed.as_micros());
        bytes.put_u64(u64::try_from(self.lease.as_micros()).unwrap_or(u64::MAX));
        bytes.put_u64(self.guard.map_or(0, |version| version.0));
        bytes.put_slice(self.name.as_bytes());
        bytes.freeze()
    }

    pub fn decode(key: &Key, value: &[u8]) -> Result<Self, RowError> {
        let (numbers, name) = body(key, value)?.split_at_checked(32).ok_or_else(|| damaged(key))?;
        let mut numbers = numbers.chunks_exact(8).map(|chunk| {
            let bytes = chunk.try_into().expect("every chunk has 8 bytes");
            u64::from_be_bytes(bytes)
        });
        let mut next = || numbers.next().expect("32 bytes are four numbers");
        Ok(Self {
            joined: Timestamp::from_micros(next()),
            renewed: Timestamp::from_micros(next()),
            lease: Duration::from_micros(next()),
            guard: Some(next()).filter(|version| *version > 0).map(Version),
            name: String::from_utf8(name.to_vec()).map_err(|_| damaged(key))?,
        })
    }
}

/// What follows the tag.
fn body<'a>(key: &Key, value: &'a [u8]) -> Result<&'a [u8], RowError> {
    match value.split_first() {
        Some((&FORMAT, body)) => Ok(body),
        Some((&found, _)) if found > FORMAT => Err(RowError::NewerFormat { key: shown(key), found }),
        _ => Err(damaged(key)),
    }
}

fn damaged(key: &Key) -> RowError {
    RowError::Damaged { key: shown(key) }
}

fn shown(key: &Key) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> LeaseRow {
        LeaseRow {
            joined: Timestamp::from_micros(1),
            renewed: Timestamp::from_micros(2),
            lease: Duration::from_secs(10),
            guard: Some(Version(7)),
            name: "node-a:9000".to_owned(),
        }
    }

    #[test]
    fn the_bytes_are_those_of_format_1() {
        let golden = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\x98\x96\x80\0\0\0\0\0\0\0\x07node-a:9000";
        assert_eq!(row().encode(), &golden[..]);
        let key = lease_key(HostNumber(0x1f));
        assert_eq!(key, "cluster/lease/000000000000001f");
        assert_eq!(host_of(&key), Ok(HostNumber(0x1f)));
        assert_eq!(LeaseRow::decode(&key, golden), Ok(row()));
        assert_eq!(encode_counter(HostNumber(258)), &b"\x01\0\0\0\0\0\0\x01\x02"[..]);
    }

    #[test]
    fn newer_and_damaged_rows_are_named() {
        let key = lease_key(HostNumber(1));
        let newer = LeaseRow::decode(&key, b"\x02whatever").unwrap_err();
        assert!(matches!(newer, RowError::NewerFormat { found: 2, .. }));
        assert!(newer.to_string().contains("start a newer build"));
        for damage in [&b""[..], b"\0", b"\x01short", &[&row().encode()[..], b"\xff"].concat()] {
            assert!(matches!(LeaseRow::decode(&key, damage), Err(RowError::Damaged { .. })));
        }
        assert!(host_of(&Key::from("cluster/lease/x")).is_err());
    }
}
