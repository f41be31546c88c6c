//! Who may use a layer version.

use bowline_foundation::id::AccountId;
use bowline_functions::model::layers::{LayerPrincipal, LayerStatement, PolicyTarget};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::layer::{layer, number};
use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::reply;

const ACTION: &str = "lambda:GetLayerVersion";
const PRINCIPAL_PATTERN: &str = "\\d{12}|\\*|arn:(aws[a-zA-Z-]*):iam::\\d{12}:root";
const ORGANIZATION_PATTERN: &str = "o-[a-z0-9]{10,32}";
const STATEMENT_ID_PATTERN: &str = "([a-zA-Z0-9-_]+)";
const STATEMENT_ID_CHARS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddRequest {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    organization_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AddResponse {
    statement: String,
    revision_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetResponse {
    policy: String,
    revision_id: String,
}

/// `AddLayerVersionPermission`.
pub async fn add(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = target(call)?;
    let statement = statement(read::json(body)?)?;
    let functions = &call.node.functions;
    let added = functions
        .add_layer_permission(&call.caller(), target, statement)
        .await?;
    let shown = AddResponse {
        statement: added.document,
        revision_id: added.revision_id,
    };
    Ok(reply::json(StatusCode::CREATED, &shown))
}

fn statement(request: AddRequest) -> Result<LayerStatement, ApiError> {
    let mut violations = Violations::default();
    violations.require("statementId", request.statement_id.as_ref());
    violations.require("action", request.action.as_ref());
    violations.require("principal", request.principal.as_ref());
    let mut unmatched = |value: &str, member: &str, pattern: &str| {
        let constraint = format!("Member must satisfy regular expression pattern: {pattern}");
        violations.broken(&format!("'{value}'"), member, &constraint);
    };
    if let Some(id) = request.statement_id.as_deref().filter(|id| !is_statement_id(id)) {
        unmatched(id, "statementId", STATEMENT_ID_PATTERN);
    }
    if let Some(action) = request.action.as_deref().filter(|action| *action != ACTION) {
        unmatched(action, "action", ACTION);
    }
    let named = request.principal.as_deref().and_then(principal);
    if let (Some(text), None) = (&request.principal, &named) {
        unmatched(text, "principal", PRINCIPAL_PATTERN);
    }
    let organization = request.organization_id.filter(|id| !id.is_empty());
    if let Some(id) = organization.as_deref().filter(|id| !is_organization(id)) {
        unmatched(id, "organizationId", ORGANIZATION_PATTERN);
    }
    violations.finish()?;
    if organization.is_some() && named != Some(LayerPrincipal::Everybody) {
        return Err(ApiError::invalid(
            "OrganizationId can only be specified when the principal is `*`.",
        ));
    }
    Ok(LayerStatement {
        id: request.statement_id.unwrap_or_default(),
        principal: named.expect("a principal that names nobody was refused"),
        organization,
    })
}

/// Whom the text names.
fn principal(text: &str) -> Option<LayerPrincipal> {
    if text == "*" {
        return Some(LayerPrincipal::Everybody);
    }
    let account = match text.split(':').collect::<Vec<_>>().as_slice() {
        [account] => *account,
        ["arn", partition, "iam", "", account, "root"] if partition.starts_with("aws") => *account,
        _ => return None,
    };
    account.parse::<AccountId>().ok().map(LayerPrincipal::Account)
}

fn is_statement_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=STATEMENT_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_organization(text: &str) -> bool {
    let id = text.strip_prefix("o-").unwrap_or_default();
    (10..=32).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// `GetLayerVersionPolicy`.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let (layer, number) = (layer(call)?, number(call)?);
    let functions = &call.node.functions;
    let found = functions.get_layer_policy(&call.caller(), &layer, number).await?;
    let shown = GetResponse {
        policy: found.document,
        revision_id: found.revision_id,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `RemoveLayerVersionPermission`.
pub async fn remove(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = target(call)?;
    let functions = &call.node.functions;
    functions
        .remove_layer_permission(&call.caller(), target, &call.route.leaf)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn target(call: &Call<'_>) -> Result<PolicyTarget, ApiError> {
    let revision_id = call.route.query.get("RevisionId");
    Ok(PolicyTarget {
        layer: layer(call)?,
        number: number(call)?,
        revision_id: revision_id.filter(|id| !id.is_empty()).map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_accounts_or_everybody() {
        let account = |digits: &str| Some(LayerPrincipal::Account(digits.parse().expect("twelve digits")));
        assert_eq!(principal("*"), Some(LayerPrincipal::Everybody));
        assert_eq!(principal("123456789012"), account("123456789012"));
        assert_eq!(principal("arn:aws:iam::123456789012:root"), account("123456789012"));
        for bad in [
            "",
            "**",
            "1234",
            "arn:aws:iam::123456789012:user/x",
            "arn:aws:iam::*:root",
        ] {
            assert_eq!(principal(bad), None, "{bad}");
        }
    }
}
