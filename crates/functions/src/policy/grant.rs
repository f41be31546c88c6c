//! What AddPermission takes, and the statement it becomes.

use super::{Conditions, Effect, Principal, Statement, UrlAuth, Words};

const SID_CHARS_MAX: usize = 100;
const TOKEN_CHARS_MAX: usize = 256;

/// One permission.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pub statement_id: String,
    pub action: String,
    pub principal: String,
    pub source_arn: Option<String>,
    pub source_account: Option<String>,
    pub event_source_token: Option<String>,
    pub organization: Option<String>,
    pub url_auth: Option<UrlAuth>,
    pub via_url: Option<bool>,
}

/// A permission that no policy can hold; the text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    #[error(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must satisfy \
         regular expression pattern: {pattern}"
    )]
    Pattern {
        member: &'static str,
        value: String,
        pattern: &'static str,
    },
    #[error("The provided principal was invalid. Please check the principal and try again.")]
    Principal,
    #[error("FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action")]
    UrlAuth,
    #[error("InvokedViaFunctionUrl is only supported for lambda:InvokeFunction action")]
    ViaUrl,
}

impl Grant {
    /// The statement about `resource`, an ARN.
    pub fn statement(&self, resource: &str) -> Result<Statement, InvalidGrant> {
        self.check()?;
        let mut condition = Conditions::default();
        let mut add = |operator, key, value: Option<&str>| {
            if let Some(value) = value {
                condition.add(operator, key, value.to_owned());
            }
        };
        add("StringEquals", "AWS:SourceAccount", self.source_account.as_deref());
        add("StringEquals", "aws:PrincipalOrgID", self.organization.as_deref());
        let auth = self.url_auth.map(UrlAuth::text);
        add("StringEquals", "lambda:FunctionUrlAuthType", auth);
        let token = self.event_source_token.as_deref();
        add("StringEquals", "lambda:EventSourceToken", token);
        add("ArnLike", "AWS:SourceArn", self.source_arn.as_deref());
        let via = self.via_url.map(|via| if via { "true" } else { "false" });
        add("Bool", "lambda:InvokedViaFunctionUrl", via);
        Ok(Statement {
            sid: Some(self.statement_id.clone()),
            effect: Effect::Allow,
            principal: Principal::parse(&self.principal).ok_or(InvalidGrant::Principal)?,
            action: Words::one(self.action.clone()),
            resource: Words::one(resource),
            condition,
        })
    }

    fn check(&self) -> Result<(), InvalidGrant> {
        let pattern = |fits: bool, member, value: &str, pattern| {
            if fits {
                return Ok(());
            }
            Err(InvalidGrant::Pattern {
                member,
                value: value.to_owned(),
                pattern,
            })
        };
        let given = |value: &'_ Option<String>| value.clone().unwrap_or_default();
        let (arn, account) = (given(&self.source_arn), given(&self.source_account));
        let (token, organization) = (given(&self.event_source_token), given(&self.organization));
        let sid = &self.statement_id;
        pattern(is_sid(sid), "statementId", sid, "([a-zA-Z0-9-_]+)")?;
        let action = &self.action;
        pattern(is_action(action), "action", action, "(lambda:[*]|lambda:[a-zA-Z]+|[*])")?;
        pattern(
            arn.is_empty() || is_arn(&arn),
            "sourceArn",
            &arn,
            "arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\\-])+:([a-z]{2}(-gov)?-[a-z]+-\\d{1})?:(\\d{12})?:(.*)",
        )?;
        let is_account =
            account.is_empty() || (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()));
        pattern(is_account, "sourceAccount", &account, "\\d{12}")?;
        pattern(
            token.is_empty() || is_token(&token),
            "eventSourceToken",
            &token,
            "[a-zA-Z0-9._\\-]+",
        )?;
        pattern(
            organization.is_empty() || is_organization(&organization),
            "principalOrgID",
            &organization,
            "o-[a-z0-9]{10,32}",
        )?;
        match (self.url_auth, self.via_url, action.as_str()) {
            (Some(_), _, action) if action != "lambda:InvokeFunctionUrl" => Err(InvalidGrant::UrlAuth),
            (_, Some(_), action) if action != "lambda:InvokeFunction" => Err(InvalidGrant::ViaUrl),
            _ => Ok(()),
        }
    }
}

/// Whether a text is an action of Lambda, or all of them.
pub(super) fn is_action(text: &str) -> bool {
    match text.split_once(':') {
        None => text == "*",
        Some((service, name)) => {
            service == "lambda"
                && (name == "*" || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic())))
        }
    }
}

fn is_sid(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= SID_CHARS_MAX && text.bytes().all(allowed)
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.len() <= TOKEN_CHARS_MAX && text.bytes().all(allowed)
}

fn is_organization(text: &str) -> bool {
    let id = text.strip_prefix("o-").unwrap_or_default();
    (10..=32).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, _region, account, _resource] = parts[..] else {
        return false;
    };
    arn == "arn"
        && partition.starts_with("aws")
        && !service.is_empty()
        && (account.is_empty() || account.bytes().all(|byte| byte.is_ascii_digit()))
}
