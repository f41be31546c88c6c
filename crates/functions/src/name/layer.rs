//! Names of layers and their versions, and the ARNs that carry them.

use std::fmt;
use std::str::FromStr;

use bowline_foundation::id::AccountId;

use super::{InvalidName, is_number, is_word};

const NAME_CHARS_MAX: usize = 64;
const ARN_CHARS_MAX: usize = 140;
const NAME_PATTERN: &str = "(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";
const VERSION_ARN_PATTERN: &str = "arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+";

/// A layer's bare name: 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName(Box<str>);

/// A layer as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    pub account: AccountId,
    pub name: LayerName,
}

/// One version of a layer, by its ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerVersionArn {
    pub region: String,
    pub layer: LayerRef,
    pub number: u64,
}

impl LayerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LayerRef {
    /// The region in a text that [`LayerRef::parse`] can read, or in the ARN of a version.
    pub fn region(text: &str) -> Option<&str> {
        text.strip_prefix("arn:")?.split(':').nth(2)
    }

    /// Reads a bare name or a layer's ARN, percent-decoded. An account in the text wins over the caller's.
    pub fn parse(text: &str, caller: &AccountId) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::pattern(text, "layerName", NAME_PATTERN);
        let (account, name) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => (caller.clone(), *name),
            ["arn", partition, "lambda", region, account, "layer", name] if is_word(partition) && is_word(region) => {
                (account.parse().map_err(|_| invalid())?, *name)
            }
            _ => return Err(invalid()),
        };
        let name = name.parse()?;
        Ok(Self { account, name })
    }
}

impl FromStr for LayerName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_word(text) {
            return Err(InvalidName::pattern(text, "layerName", NAME_PATTERN));
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(InvalidName::length(text, "layerName", NAME_CHARS_MAX));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for LayerVersionArn {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName::pattern(text, "arn", VERSION_ARN_PATTERN);
        if text.len() > ARN_CHARS_MAX {
            return Err(InvalidName::length(text, "arn", ARN_CHARS_MAX));
        }
        let (layer, number) = text.rsplit_once(':').ok_or_else(invalid)?;
        let region = layer.split(':').nth(3).ok_or_else(invalid)?.to_owned();
        let layer = LayerRef::parse(layer, &AccountId::default_account()).map_err(|_| invalid())?;
        let canonical = is_number(number) && !number.starts_with('0');
        let number = canonical.then(|| number.parse().ok()).flatten();
        let number = number.ok_or_else(invalid)?;
        Ok(Self { region, layer, number })
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str)>) {
        let caller = AccountId::default_account();
        let found = LayerRef::parse(text, &caller).ok();
        let found = found.map(|layer| (layer.account.to_string(), layer.name.to_string()));
        assert_eq!(
            found,
            expected.map(|(account, name)| (account.to_owned(), name.to_owned())),
            "{text}"
        );
    }

    #[test]
    fn layers_are_named_bare_or_by_arn() {
        check("knots", Some(("000000000000", "knots")));
        check(
            "arn:aws:lambda:us-east-1:123456789012:layer:knots",
            Some(("123456789012", "knots")),
        );
        for bad in [
            "",
            "a b",
            "a:b",
            "a/b",
            "arn:aws:lambda:us-east-1:123456789012:function:knots",
            "arn:aws:lambda:us-east-1:1234:layer:knots",
            "arn:aws:lambda:us-east-1:123456789012:layer:knots:1",
        ] {
            check(bad, None);
        }
        check(&"n".repeat(64), Some(("000000000000", &"n".repeat(64))));
        check(&"n".repeat(65), None);
    }

    #[test]
    fn versions_are_named_by_arn() {
        let arn = "arn:aws:lambda:us-east-1:123456789012:layer:knots:7";
        let found: LayerVersionArn = arn.parse().unwrap();
        assert_eq!(
            (found.region.as_str(), found.layer.name.as_str(), found.number),
            ("us-east-1", "knots", 7)
        );
        for bad in [
            "knots:7",
            "arn:aws:lambda:us-east-1:123456789012:layer:knots",
            "arn:aws:lambda:us-east-1:123456789012:layer:knots:0",
            "arn:aws:lambda:us-east-1:123456789012:layer:knots:07",
            "arn:aws:lambda:us-east-1:123456789012:layer:knots:$LATEST",
        ] {
            assert!(bad.parse::<LayerVersionArn>().is_err(), "{bad}");
        }
    }
}
