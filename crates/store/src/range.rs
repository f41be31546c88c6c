//! The interval of keys that a scan visits.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Key;

/// The interval from `lower` (inclusive) up to `upper` (exclusive, or the end of all keys).
pub(crate) struct Range {
    pub lower: Key,
    pub upper: Option<Key>,
}

impl Range {
    /// The keys that begin with `prefix` and come after `after`.
    pub fn of(prefix: &Key, after: Option<&Key>) -> Self {
        let lower = match after {
            Some(after) if after >= prefix => next(after),
            _ => prefix.clone(),
        };
        Self {
            lower,
            upper: end(prefix),
        }
    }

    /// Whether no key can lie in the interval.
    pub fn is_empty(&self) -> bool {
        self.upper.as_ref().is_some_and(|upper| self.lower >= *upper)
    }
}

/// The smallest key greater than `key`.
fn next(key: &Key) -> Key {
    let mut longer = BytesMut::with_capacity(key.len() + 1);
    longer.put_slice(key);
    longer.put_u8(0);
    longer.freeze()
}

/// The smallest key greater than all that begin with `prefix`; none if they reach to the end.
fn end(prefix: &Key) -> Option<Key> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut bytes = prefix[..=last].to_vec();
    bytes[last] += 1;
    Some(Bytes::from(bytes))
}
