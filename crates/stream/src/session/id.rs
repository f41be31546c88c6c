//! The names of a session and of one delivery of a set.

use std::fmt;
use std::str::FromStr;

use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;

use crate::StreamId;

/// A session's identifier: 32 hexadecimal digits, random or derived from the client's token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Box<str>);

/// Text that is not 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session id `{0}` is not 32 lower-case hexadecimal digits")]
pub struct InvalidSessionId(String);

impl SessionId {
    const TEXT_BYTES: usize = 32;

    /// Draws a fresh identifier.
    pub fn random(entropy: &Entropy) -> Self {
        let (high, low) = (entropy.number(), entropy.number());
        Self(format!("{high:016x}{low:016x}").into())
    }

    /// The identifier of the session that a client's token stands for; the same token gives the same.
    pub(super) fn of_token(stream: &StreamId, token: &str) -> Self {
        let digest = Digest::of(format!("session\0{stream}\0{token}").as_bytes()).to_string();
        Self(digest[..Self::TEXT_BYTES].into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == Self::TEXT_BYTES && text.bytes().all(good) {
            return Ok(Self(text.into()));
        }
        Err(InvalidSessionId(text.chars().take(80).collect()))
    }
}

/// What a worker shows to settle the set it was given: the set's number in its session, and what tells
/// this delivery of it from every other. Its text form is `17-9f8e7d6c5b4a3928`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchToken {
    /// From 1; a set keeps it over all attempts.
    pub batch: u64,
    pub(super) nonce: u64,
}

/// Text that is no token of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch token `{0}` is not a number, `-` and 16 hexadecimal digits")]
pub struct InvalidBatchToken(String);

impl fmt::Display for BatchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.batch, self.nonce)
    }
}

impl FromStr for BatchToken {
    type Err = InvalidBatchToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('-').and_then(|(batch, nonce)| {
            let whole = nonce.len() == 16 && !nonce.starts_with('+') && !batch.starts_with('+');
            let nonce = u64::from_str_radix(nonce, 16).ok().filter(|_| whole)?;
            Some(Self {
                batch: batch.parse().ok()?,
                nonce,
            })
        });
        parsed.ok_or_else(|| InvalidBatchToken(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_ids_survive_their_text_form() {
        let token = BatchToken { batch: 17, nonce: 0xff };
        assert_eq!(token.to_string(), "17-00000000000000ff");
        assert_eq!(token.to_string().parse(), Ok(token));
        for bad in [
            "",
            "17",
            "17-",
            "-00000000000000ff",
            "17-ff",
            "17-000000000000000g",
            "+1-+0000000000000ff",
        ] {
            assert!(bad.parse::<BatchToken>().is_err(), "{bad}");
        }
        let id = SessionId::random(&Entropy::seeded(1));
        assert_eq!(id.as_str().parse(), Ok(id));
        assert!("A".repeat(32).parse::<SessionId>().is_err());
    }

    #[test]
    fn a_token_names_one_session_of_one_stream() {
        let [one, other] = ["a~2", "b~2"].map(|text| text.parse().expect("a stream"));
        assert_eq!(SessionId::of_token(&one, "t"), SessionId::of_token(&one, "t"));
        assert_ne!(SessionId::of_token(&one, "t"), SessionId::of_token(&other, "t"));
        assert_ne!(SessionId::of_token(&one, "t"), SessionId::of_token(&one, "u"));
    }
}
