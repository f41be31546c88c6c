//! What one call to a store may ask for, and how much may wait in it.

use crate::{CommitError, Condition, Write};

/// Longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value; what is larger belongs in a blob.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most writes of one commit.
pub const WRITES_PER_COMMIT_MAX: usize = 1024;
/// Most conditions of one commit.
pub const CONDITIONS_PER_COMMIT_MAX: usize = 1024;
/// Largest sum of a commit's keys and values.
pub const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most commits that wait for the writer; further ones are refused as unavailable.
pub const WAITING_COMMITS_MAX: usize = 4096;
/// Largest sum of the keys and values of the commits that wait; further ones are refused as unavailable.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most reads that run or wait at once; further ones are refused as unavailable.
pub const WAITING_READS_MAX: usize = 4096;
/// Largest blob.
pub const BLOB_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Checks a commit against the limits; returns the bytes of its keys and values.
pub fn check(conditions: &[Condition], writes: &[Write]) -> Result<usize, CommitError> {
    at_most("conditions", conditions.len(), CONDITIONS_PER_COMMIT_MAX)?;
    at_most("writes", writes.len(), WRITES_PER_COMMIT_MAX)?;
    let mut bytes = 0;
    for condition in conditions {
        at_most("bytes of a key", condition.key().len(), KEY_BYTES_MAX)?;
        bytes += condition.key().len();
    }
    for write in writes {
        let (key, value_bytes) = match write {
            Write::Put(key, value) => (key, value.len()),
            Write::Delete(key) => (key, 0),
        };
        at_most("bytes of a key", key.len(), KEY_BYTES_MAX)?;
        at_most("bytes of a value", value_bytes, VALUE_BYTES_MAX)?;
        bytes += key.len() + value_bytes;
    }
    at_most("bytes of a commit", bytes, COMMIT_BYTES_MAX)?;
    Ok(bytes)
}

fn at_most(what: &str, actual: usize, max: usize) -> Result<(), CommitError> {
    if actual <= max {
        return Ok(());
    }
    Err(CommitError::TooLarge(format!("`{actual}` {what}, at most `{max}`")))
}
