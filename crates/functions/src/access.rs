//! Access keys: what callers sign their requests with.
//!
//! A signature is checked by making it again, so the secret itself has to be kept; it lies in the store, like the
//! functions' environments, and is shown to its owner once.

use std::fmt;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;

pub use crate::registry::{AccessKeyError, AccessKeys};

/// Most keys that a cluster knows.
pub const ACCESS_KEYS_MAX: usize = 1_000;
/// What all identifiers of keys begin with.
const ID_PREFIX: &str = "BOWL";
const ID_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ID_LETTERS_RANDOM: usize = 16;
const SECRET_LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const SECRET_CHARS: usize = 40;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// What requests name it by; no secret.
    pub id: String,
    pub account: AccountId,
    pub secret: Secret,
    pub created: Timestamp,
}

/// A text that reaches neither logs nor errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl AccessKey {
    /// A new key of an account.
    pub(crate) fn generate(entropy: &Entropy, account: AccountId, created: Timestamp) -> Self {
        let id: String = letters(entropy, ID_LETTERS).take(ID_LETTERS_RANDOM).collect();
        let secret: String = letters(entropy, SECRET_LETTERS).take(SECRET_CHARS).collect();
        Self {
            id: format!("{ID_PREFIX}{id}"),
            account,
            secret: Secret::new(&secret),
            created,
        }
    }
}

/// Letters drawn from `from`, each as likely as any other.
fn letters(entropy: &Entropy, from: &'static [u8]) -> impl Iterator<Item = char> {
    let fair = 256 - 256 % from.len();
    let bytes = std::iter::repeat_with(|| {
        let mut bytes = [0_u8; 64];
        entropy.fill(&mut bytes);
        bytes
    });
    let bytes = bytes.flatten().map(usize::from).filter(move |byte| *byte < fair);
    bytes.map(|byte| char::from(from[byte % from.len()]))
}

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself: for signatures, the store, and its owner's eyes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_shown_to_nobody() {
        let make = |seed| {
            let account = AccountId::default_account();
            AccessKey::generate(&Entropy::seeded(seed), account, Timestamp::default())
        };
        let (one, other) = (make(1), make(2));
        assert_eq!((one.id.len(), one.secret.reveal().len()), (20, 40));
        assert!(one.id != other.id && one.secret != other.secret);
        assert!(one.secret.reveal().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(!format!("{one:?}").contains(one.secret.reveal()), "{one:?}");
    }
}
