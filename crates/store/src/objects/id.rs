//! The identifier of an object, which names the store that keeps it: `v1.STORE.UNIQUE`.

use std::fmt;
use std::str::FromStr;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;

/// Longest name of a store.
pub const STORE_NAME_BYTES_MAX: usize = 32;
/// Longest identifier: the scheme, the name of the store and the unique part, with two dots.
pub const OBJECT_ID_BYTES_MAX: usize = 2 + 1 + STORE_NAME_BYTES_MAX + 1 + UNIQUE_TEXT_BYTES;
const UNIQUE_TEXT_BYTES: usize = 32;
const SCHEME: &str = "v1";

/// Why a text is no identifier of an object, or no part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("object identifier has `{0}` bytes, at most `{OBJECT_ID_BYTES_MAX}`")]
    TooLong(usize),
    #[error("object identifier `{0}` is not three parts joined by dots, as in `v1.STORE.UNIQUE`")]
    Form(String),
    #[error("object identifier has scheme `{0}`, this build knows `{SCHEME}`")]
    Scheme(String),
    #[error("store name `{0}` is not 1 to {STORE_NAME_BYTES_MAX} lower-case letters, digits or `-`")]
    Store(String),
    #[error("unique part `{0}` is not {UNIQUE_TEXT_BYTES} lower-case hexadecimal digits")]
    Unique(String),
}

/// The name of a store, as identifiers carry it; it must never be given to another store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(Box<str>);

impl StoreName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StoreName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > STORE_NAME_BYTES_MAX || !text.bytes().all(good) {
            return Err(InvalidId::Store(shown(text)));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of an identifier that no two objects of a store share: 48 bits of milliseconds since the
/// epoch, then 80 random bits, so that it sorts by the time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unique(u128);

impl Unique {
    /// Draws a fresh one.
    pub fn random(clock: &Clock, entropy: &Entropy) -> Self {
        let mut random = [0; 16];
        entropy.fill(&mut random[6..]);
        random[..6].copy_from_slice(&clock.now().as_millis().to_be_bytes()[2..]);
        Self(u128::from_be_bytes(random))
    }

    pub(super) fn from_number(number: u128) -> Self {
        Self(number)
    }

    pub(super) fn number(self) -> u128 {
        self.0
    }
}

impl FromStr for Unique {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != UNIQUE_TEXT_BYTES || !text.bytes().all(good) {
            return Err(InvalidId::Unique(shown(text)));
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidId::Unique(shown(text)))
    }
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identifier of an object. Its text form is the only one that clients see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    pub store: StoreName,
    pub unique: Unique,
}

impl FromStr for ObjectId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() > OBJECT_ID_BYTES_MAX {
            return Err(InvalidId::TooLong(text.len()));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [scheme, store, unique] = parts[..] else {
            return Err(InvalidId::Form(shown(text)));
        };
        if scheme != SCHEME {
            return Err(InvalidId::Scheme(shown(scheme)));
        }
        Ok(Self {
            store: store.parse()?,
            unique: unique.parse()?,
        })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}.{}.{}", self.store, self.unique)
    }
}

/// The beginning of what somebody sent, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(OBJECT_ID_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bowline_foundation::clock::Timestamp;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identifiers_survive_their_text_form_and_sort_by_time() {
        let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_123_456));
        let entropy = Entropy::seeded(1);
        let mut ids = Vec::new();
        for _ in 0..50 {
            let id = ObjectId {
                store: "a".parse().unwrap(),
                unique: Unique::random(&clock, &entropy),
            };
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            ids.push(id.to_string());
            clock.advance(Duration::from_millis(1));
        }
        assert!(ids.is_sorted());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unique = "0".repeat(32);
        let check = |text: &str, kind: fn(&InvalidId) -> bool| {
            let error = text.parse::<ObjectId>().unwrap_err();
            assert!(kind(&error), "{text}: {error}");
        };
        check("", |error| matches!(error, InvalidId::Form(_)));
        check("v1.a", |error| matches!(error, InvalidId::Form(_)));
        check(&format!("v1.a.{unique}.b"), |error| matches!(error, InvalidId::Form(_)));
        check(&format!("v2.a.{unique}"), |error| matches!(error, InvalidId::Scheme(_)));
        check(&format!("v1..{unique}"), |error| matches!(error, InvalidId::Store(_)));
        check(&format!("v1.A.{unique}"), |error| matches!(error, InvalidId::Store(_)));
        check("v1.a.12", |error| matches!(error, InvalidId::Unique(_)));
        check(&format!("v1.a.+{}", "0".repeat(31)), |error| {
            matches!(error, InvalidId::Unique(_))
        });
        check(&"x".repeat(200), |error| matches!(error, InvalidId::TooLong(200)));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_its_own_text(text in "(v1|v2|.{0,4})\\.[a-z0-9.-]{0,34}\\.[0-9a-fA-F]{30,33}|.{0,90}") {
            if let Ok(id) = text.parse::<ObjectId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
