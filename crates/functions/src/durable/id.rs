//! What names an execution and the things of it: ids, ARNs, checkpoint tokens, callback ids.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use serde::{Deserialize, Serialize};

use crate::name::{FunctionName, Version};

const NAME_CHARS_MAX: usize = 64;
const ARN_CHARS_MAX: usize = 1024;
const TOKEN_BYTES: usize = 40;

/// Text that does not name what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not {1}")]
pub struct Invalid(String, &'static str);

/// An execution: a UUID (version 7) whose text sorts by the time it was drawn, to a quarter of a microsecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(u128);

impl ExecutionId {
    pub fn new(now: Timestamp, entropy: &Entropy) -> Self {
        let micros = u128::from(now.as_micros());
        let millis = (micros / 1_000) & 0xffff_ffff_ffff;
        let fraction = (micros % 1_000) * 4;
        let random = u128::from(entropy.number()) & 0x3fff_ffff_ffff_ffff;
        Self((millis << 80) | (7 << 76) | (fraction << 64) | (2 << 62) | random)
    }

    fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        f.write_str(&parts.join("-"))
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid(text.to_owned(), "the id of an execution");
        let hex = text.replace('-', "");
        let id = Self(u128::from_str_radix(&hex, 16).map_err(|_| invalid())?);
        (id.to_string() == text).then_some(id).ok_or_else(invalid)
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.to_string()
    }
}

/// Where an execution lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionKey {
    pub account: AccountId,
    pub function: FunctionName,
    pub id: ExecutionId,
}

impl fmt::Display for ExecutionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.account, self.function, self.id)
    }
}

impl FromStr for ExecutionKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid(text.to_owned(), "the place of an execution");
        let parts: Vec<&str> = text.split('/').collect();
        let [account, function, id] = parts[..] else {
            return Err(invalid());
        };
        Ok(Self {
            account: account.parse().map_err(|_| invalid())?,
            function: function.parse().map_err(|_| invalid())?,
            id: id.parse()?,
        })
    }
}

/// What a caller calls an execution: 1 to 64 of `[A-Za-z0-9_-]`, unique among a function's executions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionName(Box<str>);

impl ExecutionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExecutionName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = !text.is_empty() && text.len() <= NAME_CHARS_MAX && is_word(text);
        let invalid = || Invalid(text.to_owned(), "1 to 64 letters, digits, hyphens and underscores");
        good.then(|| Self(text.into())).ok_or_else(invalid)
    }
}

impl TryFrom<String> for ExecutionName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ExecutionName> for String {
    fn from(name: ExecutionName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for ExecutionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// `arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION/durable-execution/NAME/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionArn {
    pub region: String,
    pub account: AccountId,
    pub function: FunctionName,
    pub version: Version,
    pub name: ExecutionName,
    pub id: ExecutionId,
}

impl ExecutionArn {
    pub fn key(&self) -> ExecutionKey {
        ExecutionKey {
            account: self.account.clone(),
            function: self.function.clone(),
            id: self.id,
        }
    }

    /// The ARN of the version that runs.
    pub fn function_arn(&self) -> String {
        let Self {
            region,
            account,
            function,
            version,
            ..
        } = self;
        format!("arn:aws:lambda:{region}:{account}:function:{function}:{version}")
    }
}

impl fmt::Display for ExecutionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/durable-execution/{}/{}", self.function_arn(), self.name, self.id)
    }
}

impl FromStr for ExecutionArn {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            Invalid(
                text.chars().take(ARN_CHARS_MAX).collect(),
                "the ARN of a durable execution",
            )
        };
        if text.len() > ARN_CHARS_MAX {
            return Err(invalid());
        }
        let parts: Vec<&str> = text.split('/').collect();
        let [function, "durable-execution", name, id] = parts[..] else {
            return Err(invalid());
        };
        let parts: Vec<&str> = function.split(':').collect();
        let [
            "arn",
            partition,
            "lambda",
            region,
            account,
            "function",
            function,
            version,
        ] = parts[..]
        else {
            return Err(invalid());
        };
        if ![partition, region]
            .into_iter()
            .all(|part| !part.is_empty() && is_word(part))
        {
            return Err(invalid());
        }
        Ok(Self {
            region: region.to_owned(),
            account: account.parse().map_err(|_| invalid())?,
            function: function.parse().map_err(|_| invalid())?,
            version: version.parse().map_err(|_| invalid())?,
            name: name.parse().map_err(|_| invalid())?,
            id: id.parse().map_err(|_| invalid())?,
        })
    }
}

impl TryFrom<String> for ExecutionArn {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ExecutionArn> for String {
    fn from(arn: ExecutionArn) -> Self {
        arn.to_string()
    }
}

/// The right to make one checkpoint: good once, in one invocation of one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointToken {
    pub execution: ExecutionId,
    /// Drawn for each invocation.
    pub invocation: u128,
    /// How many checkpoints were made before.
    pub sequence: u64,
}

impl fmt::Display for CheckpointToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = [0; TOKEN_BYTES];
        raw[..16].copy_from_slice(&self.execution.as_u128().to_be_bytes());
        raw[16..32].copy_from_slice(&self.invocation.to_be_bytes());
        raw[32..].copy_from_slice(&self.sequence.to_be_bytes());
        f.write_str(&STANDARD.encode(raw))
    }
}

impl FromStr for CheckpointToken {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid(String::new(), "a checkpoint token");
        let raw = STANDARD.decode(text).map_err(|_| invalid())?;
        let raw: [u8; TOKEN_BYTES] = raw.try_into().map_err(|_| invalid())?;
        let (execution, rest) = raw.split_at(16);
        let (invocation, sequence) = rest.split_at(16);
        let wide = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| (sum << 8) | u128::from(*byte));
        Ok(Self {
            execution: ExecutionId(wide(execution)),
            invocation: wide(invocation),
            sequence: u64::try_from(wide(sequence)).map_err(|_| invalid())?,
        })
    }
}

/// The right to complete one callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackId {
    pub key: ExecutionKey,
    /// The operation's place in the execution.
    pub operation: usize,
    proof: String,
}

impl CallbackId {
    /// The id of a callback of an execution with this secret.
    pub fn new(key: ExecutionKey, operation: usize, secret: u128) -> Self {
        let proof = Self::proof(operation, secret);
        Self { key, operation, proof }
    }

    /// Whether the id is of the execution with this secret, and not made up.
    pub fn is_genuine(&self, secret: u128) -> bool {
        self.proof == Self::proof(self.operation, secret)
    }

    fn proof(operation: usize, secret: u128) -> String {
        let digest = Digest::of(format!("{secret:032x}/{operation}").as_bytes()).to_string();
        digest[..24].to_owned()
    }
}

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}/{}/{}", self.key, self.operation, self.proof);
        f.write_str(&STANDARD.encode(text))
    }
}

impl FromStr for CallbackId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid(text.chars().take(ARN_CHARS_MAX).collect(), "a callback id");
        let raw = STANDARD.decode(text).map_err(|_| invalid())?;
        let inner = String::from_utf8(raw).map_err(|_| invalid())?;
        let (rest, proof) = inner.rsplit_once('/').ok_or_else(invalid)?;
        let (key, operation) = rest.rsplit_once('/').ok_or_else(invalid)?;
        Ok(Self {
            key: key.parse().map_err(|_| invalid())?,
            operation: operation.parse().map_err(|_| invalid())?,
            proof: proof.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(micros: u64, seed: u64) -> ExecutionId {
        ExecutionId::new(Timestamp::from_micros(micros), &Entropy::seeded(seed))
    }

    #[test]
    fn ids_sort_by_time_as_text() {
        let early = id(1_795_217_079_123_456, 9);
        let late = id(1_795_217_079_123_457, 1);
        assert!(early.to_string() < late.to_string());
        assert_eq!(&early.to_string()[14..15], "7");
        assert_eq!(early.to_string().parse(), Ok(early));
        for bad in ["", "x", "0", &early.to_string().to_uppercase()] {
            assert!(bad.parse::<ExecutionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arns_are_read_back_and_nothing_else_is() {
        let id = id(1, 1);
        let text = format!("arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST/durable-execution/order-7/{id}");
        let arn: ExecutionArn = text.parse().unwrap();
        assert_eq!(arn.to_string(), text);
        assert_eq!(arn.key().to_string().parse(), Ok(arn.key()));
        for bad in [
            text.replace("$LATEST", "live"),
            text.replace("order-7", ""),
            text.replace("order-7", &"x".repeat(65)),
            text.replace("durable-execution", "execution"),
            text.replace("123456789012", "12"),
            format!("{text}/more"),
        ] {
            assert!(bad.parse::<ExecutionArn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_and_callback_ids_fit_the_services_patterns() {
        let token = CheckpointToken {
            execution: id(5, 5),
            invocation: 7 << 90,
            sequence: 3,
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        assert!(text[1..].parse::<CheckpointToken>().is_err());
        let key: ExecutionKey = format!("123456789012/f/{}", id(5, 5)).parse().unwrap();
        let callback = CallbackId::new(key, 4, 77);
        let text = callback.to_string();
        assert!(
            text.trim_end_matches('=')
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
        );
        let read: CallbackId = text.parse().unwrap();
        assert_eq!(read, callback);
        assert!(read.is_genuine(77));
        assert!(!read.is_genuine(78), "another execution's secret");
        assert!("bm9uc2Vuc2U=".parse::<CallbackId>().is_err());
    }
}
