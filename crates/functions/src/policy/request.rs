//! A request as a policy sees it.

use bowline_foundation::id::AccountId;

use super::{principal, words};

/// What a policy is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Without the service's prefix: `InvokeFunction`.
    pub action: &'a str,
    /// The ARN as the caller named the function, qualifier included.
    pub resource: &'a str,
    /// The caller's account; none for a caller who did not say who it is.
    pub account: Option<&'a AccountId>,
    /// How the function's URL is guarded, if it is called through one.
    pub url: Option<UrlAuth>,
}

/// What the caller of a function's URL must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlAuth {
    /// Nothing.
    None,
    /// A signature of an account that the policy allows.
    AwsIam,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    /// No statement fits.
    Silent,
}

impl UrlAuth {
    /// As the API writes it.
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::AwsIam => "AWS_IAM",
        }
    }
}

impl Request<'_> {
    /// Whether the request is for an action that fits `pattern`. Actions are compared without case.
    pub(super) fn has_action(&self, pattern: &str) -> bool {
        let Some((service, name)) = pattern.split_once(':') else {
            return pattern == "*";
        };
        let fold = str::to_ascii_lowercase;
        service.eq_ignore_ascii_case("lambda") && words::like(&fold(name), &fold(self.action))
    }

    /// The value of a condition's key; none if the request has nothing of the kind. Events from a service
    /// or an organisation never reach a policy here, so their keys have no value.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        match key.to_ascii_lowercase().as_str() {
            "aws:principalaccount" => self.account.map(ToString::to_string),
            "aws:principalarn" => self.account.map(principal::root),
            "lambda:functionurlauthtype" => self.url.map(|auth| auth.text().to_owned()),
            "lambda:invokedviafunctionurl" => Some(self.url.is_some().to_string()),
            _ => None,
        }
    }
}
