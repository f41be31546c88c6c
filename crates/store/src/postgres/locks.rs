//! The numbers of the database's advisory locks: one a key, and one gate for the whole store.
//!
//! All nodes of a database must compute the same numbers, so what is here never changes within a format.
//! Two keys that share a number only wait for each other without need.

use bowline_foundation::digest::Digest;

/// The lock that every group holds, shared or, if it has too many keys for locks of their own, alone.
pub(super) fn gate(schema: &str) -> i64 {
    number(&[schema.as_bytes()])
}

/// The lock of one key.
pub(super) fn of_key(schema: &str, key: &[u8]) -> i64 {
    // A schema's name holds no zero byte, so this never spells the gate of another schema.
    number(&[schema.as_bytes(), b"\0", key])
}

fn number(parts: &[&[u8]]) -> i64 {
    let digest = Digest::of(&parts.concat());
    let first = digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes");
    i64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_format_1() {
        assert_eq!(gate("bowline"), 1_919_815_395_716_672_446);
        assert_eq!(of_key("bowline", b"a"), 8_932_045_334_633_570_965);
        assert_ne!(of_key("bowline", b"a"), of_key("other", b"a"));
    }
}
