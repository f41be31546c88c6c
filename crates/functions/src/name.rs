//! Names of functions, versions and aliases, and the ARNs that carry them.

pub mod image;
pub mod layer;

use std::fmt;
use std::str::FromStr;

use bowline_foundation::id::AccountId;

/// A function's bare name: 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionName(pub(crate) Box<str>);

/// `$LATEST` or the number of a published version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Latest,
    Number(u64),
}

/// An alias's name: 1 to 128 of `[A-Za-z0-9_-]`, not a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasName(pub(crate) Box<str>);

/// What follows the function's name: a version or an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Qualifier {
    Version(Version),
    Alias(AliasName),
}

/// A function as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionRef {
    pub account: AccountId,
    pub name: FunctionName,
    pub qualifier: Option<Qualifier>,
}

/// A name that no function, version or alias can have; the text is the service's own message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub String);

/// The text of the refusal when the name and the `Qualifier` parameter disagree.
const QUALIFIER_MISMATCH: &str = "The derived qualifier from the function name does not match the specified qualifier.";
const FUNCTION_PATTERN: &str = "(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso(b?)))?-[a-z]+-\\d{1}:)?\
     (\\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?";
const ALIAS_PATTERN: &str = "(?!^[0-9]+$)([a-zA-Z0-9-_]+)";
const QUALIFIER_PATTERN: &str = "(|[a-zA-Z0-9$_-]+)";
const VERSION_PATTERN: &str = "(\\$LATEST|[0-9]+)";
/// Longest text that names a function: an ARN with a qualifier.
const REFERENCE_CHARS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 64;
const QUALIFIER_CHARS_MAX: usize = 128;

impl InvalidName {
    fn pattern(value: &str, member: &str, pattern: &str) -> Self {
        Self(format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
             Member must satisfy regular expression pattern: {pattern}"
        ))
    }

    fn length(value: &str, member: &str, chars_max: usize) -> Self {
        Self(format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
             Member must have length less than or equal to {chars_max}"
        ))
    }

    /// Whether the name and the `Qualifier` parameter were each valid but disagreed.
    pub fn is_qualifier_mismatch(&self) -> bool {
        self.0 == QUALIFIER_MISMATCH
    }
}

impl FunctionRef {
    /// Reads a bare name, `name:qualifier`, a partial ARN (`123456789012:function:name[:q]`) or a full
    /// ARN, already percent-decoded, and the `Qualifier` parameter beside it. An account in the text
    /// wins over the caller's.
    pub fn parse(text: &str, qualifier: Option<&str>, caller: &AccountId) -> Result<Self, InvalidName> {
        if text.len() > REFERENCE_CHARS_MAX {
            return Err(InvalidName::length(text, "functionName", REFERENCE_CHARS_MAX));
        }
        let (account, rest) = split_account(text, caller)?;
        let (name, derived) = match rest.split_once(':') {
            None => (rest, None),
            Some((name, derived)) => (name, Some(derived)),
        };
        if !is_word(name) || derived.is_some_and(|derived| derived != "$LATEST" && !is_word(derived)) {
            return Err(InvalidName::pattern(text, "functionName", FUNCTION_PATTERN));
        }
        let name = name.parse()?;
        let given = qualifier.filter(|given| !given.is_empty());
        if let (Some(derived), Some(given)) = (derived, given)
            && derived != given
        {
            return Err(InvalidName(QUALIFIER_MISMATCH.to_owned()));
        }
        let qualifier = derived.or(given).map(str::parse).transpose()?;
        Ok(Self {
            account,
            name,
            qualifier,
        })
    }

    /// The region in a text that [`FunctionRef::parse`] can read: that of a full ARN, or one before the account.
    pub fn region(text: &str) -> Option<&str> {
        let (head, _) = split_marker(text)?;
        let region = match head.strip_prefix("arn:") {
            Some(rest) => rest.split(':').nth(2),
            None => head.split(':').next().filter(|first| is_region(first)),
        };
        region.filter(|region| !region.is_empty())
    }

    /// A function's `$LATEST` without a qualifier.
    pub fn unqualified(account: AccountId, name: FunctionName) -> Self {
        Self {
            account,
            name,
            qualifier: None,
        }
    }

    /// The same function with another qualifier.
    #[must_use]
    pub fn qualified(&self, qualifier: Option<Qualifier>) -> Self {
        Self {
            account: self.account.clone(),
            name: self.name.clone(),
            qualifier,
        }
    }
}

/// Takes the ARN's part off, up to the name, and finds the account in it.
fn split_account<'a>(text: &'a str, caller: &AccountId) -> Result<(AccountId, &'a str), InvalidName> {
    let invalid = || InvalidName::pattern(text, "functionName", FUNCTION_PATTERN);
    let Some((head, tail)) = split_marker(text) else {
        return Ok((caller.clone(), text));
    };
    let mut parts: Vec<&str> = head.split(':').filter(|part| !part.is_empty()).collect();
    let account = match parts.last().map(|last| last.parse::<AccountId>()) {
        Some(Ok(account)) => {
            parts.pop();
            account
        }
        _ => caller.clone(),
    };
    let known = match parts.as_slice() {
        [] => true,
        ["arn", partition, "lambda", region] => partition.starts_with("aws") && is_word(region),
        [region] => is_region(region),
        _ => false,
    };
    known.then_some((account, tail)).ok_or_else(invalid)
}

/// Splits at `function:`, which stands at the beginning or after a colon; nothing before it may be a
/// name already (`name:function` has no marker).
fn split_marker(text: &str) -> Option<(&str, &str)> {
    const MARKER: &str = "function:";
    if let Some(tail) = text.strip_prefix(MARKER) {
        return Some(("", tail));
    }
    let at = text.find(":function:")?;
    Some((&text[..at], &text[at + 1 + MARKER.len()..]))
}

fn is_region(text: &str) -> bool {
    text.contains('-') && text.ends_with(|last: char| last.is_ascii_digit()) && is_word(text)
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FunctionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AliasName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FunctionName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_word(text) {
            return Err(InvalidName::pattern(text, "functionName", FUNCTION_PATTERN));
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(InvalidName::length(text, "functionName", NAME_CHARS_MAX));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for AliasName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_word(text) || is_number(text) {
            return Err(InvalidName::pattern(text, "name", ALIAS_PATTERN));
        }
        if text.len() > QUALIFIER_CHARS_MAX {
            return Err(InvalidName::length(text, "name", QUALIFIER_CHARS_MAX));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "$LATEST" {
            return Ok(Self::Latest);
        }
        let canonical = is_number(text) && (text == "0" || !text.starts_with('0'));
        let number = canonical.then(|| text.parse().ok()).flatten();
        number
            .map(Self::Number)
            .ok_or_else(|| InvalidName::pattern(text, "functionVersion", VERSION_PATTERN))
    }
}

impl FromStr for Qualifier {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "$LATEST" || is_number(text) {
            text.parse().map(Self::Version)
        } else if is_word(text) {
            text.parse().map(Self::Alias)
        } else {
            Err(InvalidName::pattern(text, "qualifier", QUALIFIER_PATTERN))
        }
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => version.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("$LATEST"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
