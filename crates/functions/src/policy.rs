//! Resource policies: who besides the owning account may do what with a function, version or alias.
//!
//! ```text
//!   AddPermission ─▶ Statement ─┐
//!   PutResourcePolicy ─▶ text ──┴▶ Policy ─▶ record ─▶ Policy::decide(request) ─▶ Allow │ Deny │ Silent
//! ```
//! A policy is kept as the model of its document: what this node cannot judge is refused when it is put,
//! so that no condition is ever passed over.

mod condition;
mod grant;
mod principal;
mod request;
mod words;

use serde::{Deserialize, Serialize};

pub use condition::Conditions;
pub use grant::{Grant, InvalidGrant};
pub use principal::Principal;
pub use request::{Decision, Request, UrlAuth};
pub use words::Words;

/// Largest policy as a document, in bytes.
pub const POLICY_BYTES_MAX: usize = 20_480;
const VERSIONS: [&str; 2] = ["2012-10-17", "2008-10-17"];

/// A policy document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Policy {
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "Statement", deserialize_with = "words::one_or_many")]
    pub statements: Vec<Statement>,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Statement {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    pub effect: Effect,
    pub principal: Principal,
    pub action: Words,
    pub resource: Words,
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub condition: Conditions,
}

/// What a statement that fits does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    Allow,
    Deny,
}

/// A text that is no policy this node can judge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    #[error("the policy has `{bytes}` bytes, at most {POLICY_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("the policy is not a policy document: {0}")]
    Document(String),
    #[error("`{value}` in `{member}` {reason}")]
    Member {
        member: &'static str,
        value: String,
        reason: &'static str,
    },
}

impl Policy {
    /// A policy without a statement, as AddPermission begins one.
    pub fn empty() -> Self {
        Self {
            version: VERSIONS[0].to_owned(),
            id: Some("default".to_owned()),
            statements: Vec::new(),
        }
    }

    /// Reads a policy document and checks that each of its statements can be judged.
    pub fn parse(text: &str) -> Result<Self, InvalidPolicy> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(InvalidPolicy::TooLong { bytes: text.len() });
        }
        let policy: Self = serde_json::from_str(text).map_err(|error| InvalidPolicy::Document(error.to_string()))?;
        policy.check()?;
        Ok(policy)
    }

    /// The document, as short as JSON can be.
    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("a policy holds text only")
    }

    /// The statement of that identifier.
    pub fn statement(&self, sid: &str) -> Option<&Statement> {
        let mut statements = self.statements.iter();
        statements.find(|statement| statement.sid.as_deref() == Some(sid))
    }

    /// What the policy says about a request: a statement that denies wins over all that allow.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let mut decision = Decision::Silent;
        for statement in self.statements.iter().filter(|statement| statement.fits(request)) {
            match statement.effect {
                Effect::Deny => return Decision::Deny,
                Effect::Allow => decision = Decision::Allow,
            }
        }
        decision
    }

    fn check(&self) -> Result<(), InvalidPolicy> {
        let member = |member, value: &str, reason| InvalidPolicy::Member {
            member,
            value: value.to_owned(),
            reason,
        };
        if !VERSIONS.contains(&self.version.as_str()) {
            return Err(member("Version", &self.version, "is no version of the policy language"));
        }
        if self.statements.is_empty() {
            return Err(member("Statement", "[]", "holds no statement"));
        }
        for (at, statement) in self.statements.iter().enumerate() {
            let repeated = |other: &Statement| other.sid.is_some() && other.sid == statement.sid;
            if let Some(other) = self.statements[..at].iter().find(|other| repeated(other)) {
                let sid = other.sid.as_deref().unwrap_or_default();
                return Err(member("Sid", sid, "stands for more than one statement"));
            }
            statement.check()?;
        }
        Ok(())
    }
}

impl Statement {
    /// The statement as a document.
    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("a statement holds text only")
    }

    /// Whether each resource of the statement may be the one of this ARN.
    pub(crate) fn is_about(&self, arn: &str) -> bool {
        self.resource.iter().all(|pattern| words::arn_like(pattern, arn))
    }

    fn fits(&self, request: &Request<'_>) -> bool {
        self.action.any(|pattern| request.has_action(pattern))
            && self.resource.any(|pattern| words::arn_like(pattern, request.resource))
            && self.principal.includes(request.account)
            && self.condition.hold(request)
    }

    fn check(&self) -> Result<(), InvalidPolicy> {
        let fault = |member, value: &str, reason| {
            Err(InvalidPolicy::Member {
                member,
                value: value.to_owned(),
                reason,
            })
        };
        if let Some(bad) = self.action.iter().find(|action| !grant::is_action(action)) {
            return fault(
                "Action",
                bad,
                "is no action of Lambda: expected `lambda:NAME`, `lambda:*` or `*`",
            );
        }
        if self.action.is_empty() || self.resource.is_empty() {
            return fault("Statement", "", "has no action or no resource");
        }
        self.principal.check()?;
        self.condition.check()
    }
}

#[cfg(test)]
mod tests;
