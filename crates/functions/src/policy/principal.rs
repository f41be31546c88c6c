//! Whom a statement is about.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bowline_foundation::id::AccountId;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::InvalidPolicy;
use super::words::{self, Words};

const AWS: &str = "AWS";
const SERVICE: &str = "Service";

/// Everybody, or accounts and services by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    Everybody,
    Of(BTreeMap<String, Words>),
}

impl Principal {
    /// What AddPermission takes: an account, an ARN, a service's name or a star.
    pub fn parse(text: &str) -> Option<Self> {
        let of = |kind: &str, word: String| Self::Of([(kind.to_owned(), Words::one(word))].into());
        if text == "*" {
            Some(Self::Everybody)
        } else if let Ok(account) = text.parse::<AccountId>() {
            Some(of(AWS, root(&account)))
        } else if is_principal_arn(text) {
            Some(of(AWS, text.to_owned()))
        } else {
            is_service(text).then(|| of(SERVICE, text.to_owned()))
        }
    }

    /// Whether a caller belongs to it; one without an account is nobody in particular. Services never call.
    pub(super) fn includes(&self, account: Option<&AccountId>) -> bool {
        let Self::Of(kinds) = self else { return true };
        let Some(words) = kinds.get(AWS) else { return false };
        words
            .any(|word| word == "*" || account.is_some_and(|account| account.as_str() == word || root(account) == word))
    }

    pub(super) fn check(&self) -> Result<(), InvalidPolicy> {
        let Self::Of(kinds) = self else { return Ok(()) };
        let fault = |value: &str, reason| {
            Err(InvalidPolicy::Member {
                member: "Principal",
                value: value.to_owned(),
                reason,
            })
        };
        for (kind, words) in kinds {
            let fits: fn(&str) -> bool = match kind.as_str() {
                AWS => |word| word == "*" || word.parse::<AccountId>().is_ok() || is_principal_arn(word),
                SERVICE => is_service,
                _ => return fault(kind, "is no kind of principal: expected `AWS` or `Service`"),
            };
            if let Some(bad) = words.iter().find(|word| !fits(word)) {
                return fault(bad, "names no account, no ARN of a principal and no service");
            }
        }
        if kinds.values().all(Words::is_empty) {
            return fault("{}", "names nobody");
        }
        Ok(())
    }
}

/// The ARN of an account as a principal.
pub(super) fn root(account: &AccountId) -> String {
    format!("arn:aws:iam::{account}:root")
}

fn is_principal_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else {
        return false;
    };
    arn == "arn"
        && partition.starts_with("aws")
        && matches!(service, "iam" | "sts")
        && region.is_empty()
        && account.parse::<AccountId>().is_ok()
        && !resource.is_empty()
        && !text.contains(char::is_whitespace)
}

fn is_service(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && (label.bytes()).all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= 256 && text.contains('.') && text.split('.').all(is_label)
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Everybody => serializer.serialize_str("*"),
            Self::Of(kinds) => kinds.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PrincipalVisitor)
    }
}

struct PrincipalVisitor;

impl<'de> Visitor<'de> for PrincipalVisitor {
    type Value = Principal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`*` or an object of principals by kind")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Principal, E> {
        match text {
            "*" => Ok(Principal::Everybody),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Principal, A::Error> {
        words::Unique(PhantomData).visit_map(map).map(Principal::Of)
    }
}
