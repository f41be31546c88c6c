//! The identifier of a stream: its name and how many chains it began with.

use std::fmt;
use std::str::FromStr;

/// Longest name of a stream.
pub const NAME_BYTES_MAX: usize = 128;
/// Fewest chains of a stream.
pub const CHAINS_MIN: u32 = 2;
/// Most chains a stream begins with.
pub const CHAINS_MAX: u32 = 256;

/// A stream's identifier; its text form is `orders~4`: the name and the number of chains it began with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    name: Box<str>,
    chains: u32,
}

/// Why something is no identifier of a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStreamId {
    #[error("stream name `{0}` is not 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`")]
    Name(String),
    #[error("a stream has {CHAINS_MIN} to {CHAINS_MAX} chains, not `{0}`")]
    Chains(u32),
    #[error("stream identifier `{0}` is not a name, `~` and a number of chains")]
    Form(String),
}

impl StreamId {
    pub fn new(name: &str, chains: u32) -> Result<Self, InvalidStreamId> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
            return Err(InvalidStreamId::Name(name.chars().take(NAME_BYTES_MAX).collect()));
        }
        if !(CHAINS_MIN..=CHAINS_MAX).contains(&chains) {
            return Err(InvalidStreamId::Chains(chains));
        }
        Ok(Self {
            name: name.into(),
            chains,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many chains the stream began with.
    pub fn chains(&self) -> u32 {
        self.chains
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.name, self.chains)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidStreamId::Form(text.chars().take(NAME_BYTES_MAX).collect());
        let (name, chains) = text.rsplit_once('~').ok_or_else(form)?;
        Self::new(name, chains.parse().map_err(|_| form())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_tells_the_number_of_chains() {
        let id: StreamId = "orders~4".parse().expect("a good identifier");
        assert_eq!((id.name(), id.chains()), ("orders", 4));
        assert_eq!(id.to_string(), "orders~4");
    }

    #[test]
    fn one_chain_is_refused() {
        assert_eq!(StreamId::new("orders", 1), Err(InvalidStreamId::Chains(1)));
        for bad in ["orders", "orders~", "orders~x", "~4", "a b~4", "orders~257"] {
            assert!(bad.parse::<StreamId>().is_err(), "{bad}");
        }
    }
}
