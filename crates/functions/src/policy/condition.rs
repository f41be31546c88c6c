//! The conditions of a statement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::InvalidPolicy;
use super::request::Request;
use super::words::{self, Words};

/// Keys and wanted values by operator; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(#[serde(deserialize_with = "words::unique")] BTreeMap<String, Keys>);

/// The wanted values by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Keys(#[serde(deserialize_with = "words::unique")] BTreeMap<String, Words>);

/// An operator as written: how values are compared, and what its prefix and suffix turn.
struct Operator {
    compare: Compare,
    negated: bool,
    if_exists: bool,
}

#[derive(Clone, Copy)]
enum Compare {
    Equal,
    EqualFolded,
    Like,
    Arn,
    Bool,
    /// Whether the key has no value.
    Null,
}

impl Operator {
    fn parse(text: &str) -> Option<Self> {
        let (name, if_exists) = match text.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let (compare, negated) = match name {
            "StringEquals" => (Compare::Equal, false),
            "StringNotEquals" => (Compare::Equal, true),
            "StringEqualsIgnoreCase" => (Compare::EqualFolded, false),
            "StringNotEqualsIgnoreCase" => (Compare::EqualFolded, true),
            "StringLike" => (Compare::Like, false),
            "StringNotLike" => (Compare::Like, true),
            "ArnEquals" | "ArnLike" => (Compare::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Compare::Arn, true),
            "Bool" => (Compare::Bool, false),
            "Null" if !if_exists => (Compare::Null, false),
            _ => return None,
        };
        Some(Self {
            compare,
            negated,
            if_exists,
        })
    }

    fn holds(&self, wanted: &Words, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return match self.compare {
                Compare::Null => wanted.any(|wanted| wanted == "true"),
                _ => self.negated || self.if_exists,
            };
        };
        let fits = wanted.any(|wanted| match self.compare {
            Compare::Equal => wanted == value,
            Compare::EqualFolded | Compare::Bool => wanted.eq_ignore_ascii_case(value),
            Compare::Like => words::like(wanted, value),
            Compare::Arn => words::arn_like(wanted, value),
            Compare::Null => wanted == "false",
        });
        fits != self.negated
    }
}

impl Conditions {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds that `key` must be `value`.
    pub(super) fn add(&mut self, operator: &str, key: &str, value: String) {
        let keys = self.0.entry(operator.to_owned()).or_default();
        keys.0.insert(key.to_owned(), Words::one(value));
    }

    pub(super) fn hold(&self, request: &Request<'_>) -> bool {
        self.0.iter().all(|(operator, keys)| {
            // `check` has refused what is no operator; one that came past it must not let anybody in.
            Operator::parse(operator).is_some_and(|operator| {
                let mut keys = keys.0.iter();
                keys.all(|(key, wanted)| operator.holds(wanted, request.value(key).as_deref()))
            })
        })
    }

    pub(super) fn check(&self) -> Result<(), InvalidPolicy> {
        match self.0.keys().find(|operator| Operator::parse(operator).is_none()) {
            None => Ok(()),
            Some(bad) => Err(InvalidPolicy::Member {
                member: "Condition",
                value: bad.clone(),
                reason: "is no operator this node judges: expected a String, Arn, Bool or Null operator",
            }),
        }
    }
}
