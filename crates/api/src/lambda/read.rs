//! Reading requests: JSON bodies, constraints on their members, and which page of a list is wanted.

use std::borrow::Cow;
use std::fmt::Display;

use bowline_functions::model::PageRequest;
use serde::Deserialize;
use serde_json::error::Category;

use crate::error::{ApiError, Exception};
use crate::route::Query;

const ITEMS_MAX: u32 = 10_000;
/// And in a page of the lists of layers, URLs, and what is set for qualifiers.
const SHORT_ITEMS_MAX: u32 = 50;

/// Text that is borrowed from the body unless it holds an escape.
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Reads a JSON object; members that the type does not have are ignored. A body without a byte is an
/// object without a member.
pub fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        // A structure would be read from a list's items in order.
        return Err(mismatch("START_ARRAY can not be converted to a Structure"));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => mismatch(&conversion(&error.to_string())),
        Category::Io | Category::Syntax | Category::Eof => ApiError::new(
            Exception::InvalidRequestContent,
            format!("Could not parse request body into json: {error}"),
        ),
    })
}

/// A value of the wrong type.
pub fn mismatch(message: &str) -> ApiError {
    ApiError::new(Exception::Serialization, message)
}

/// What the service says about a value of the wrong type, from what serde says.
fn conversion(message: &str) -> String {
    let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message.to_owned();
    };
    let token = match found.split([' ', '`']).next() {
        Some("string") => "STRING_VALUE",
        Some("integer" | "floating") => "NUMBER_VALUE",
        Some("boolean") if found.contains("true") => "TRUE_VALUE",
        Some("boolean") => "FALSE_VALUE",
        Some("sequence") => "START_ARRAY",
        Some("map") => "START_OBJECT",
        _ => "VALUE_NULL",
    };
    let wanted = match expected.split(" at line").next().unwrap_or_default() {
        "i64" | "u64" | "u32" | "i32" => "an Integer",
        "f64" => "a Double",
        "a string" => "a String",
        "a boolean" => "a Boolean",
        "a sequence" => "a List",
        "a map" => "a Map",
        _ => "a Structure",
    };
    format!("{token} can not be converted to {wanted}")
}

/// Constraints that a request breaks, reported all together.
#[derive(Default)]
pub struct Violations(Vec<String>);

impl Violations {
    /// Notes a member that is missing.
    pub fn require<T>(&mut self, member: &str, value: Option<&T>) {
        if value.is_none() {
            self.broken("null", member, "Member must not be null");
        }
    }

    /// Notes a value outside a set.
    pub fn one_of(&mut self, member: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let constraint = format!("Member must satisfy enum value set: [{}]", allowed.join(", "));
            self.0.push(violation(&format!("'{value}'"), member, &constraint));
        }
    }

    /// Notes a number below its least value.
    pub fn at_least(&mut self, member: &str, value: i64, least: i64) {
        if value < least {
            let constraint = format!("Member must have value greater than or equal to {least}");
            self.broken(&format!("'{value}'"), member, &constraint);
        }
    }

    /// Notes a number above its greatest value.
    pub fn at_most(&mut self, member: &str, value: i64, greatest: i64) {
        if value > greatest {
            let constraint = format!("Member must have value less than or equal to {greatest}");
            self.broken(&format!("'{value}'"), member, &constraint);
        }
    }

    /// Notes any other broken constraint.
    pub fn broken(&mut self, value: &str, member: &str, constraint: &str) {
        self.0.push(violation(value, member, constraint));
    }

    /// The refusal, if anything was noted.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let plural = if self.0.len() == 1 { "" } else { "s" };
        let message = format!(
            "{} validation error{plural} detected: {}",
            self.0.len(),
            self.0.join("; ")
        );
        Err(ApiError::new(Exception::Validation, message))
    }
}

fn violation(value: &str, member: &str, constraint: &str) -> String {
    format!("Value {value} at '{member}' failed to satisfy constraint: {constraint}")
}

/// The refusal of one member that breaks a constraint.
pub fn invalid(value: impl Display, member: &str, constraint: &str) -> ApiError {
    let text = violation(&format!("'{value}'"), member, constraint);
    ApiError::new(Exception::Validation, format!("1 validation error detected: {text}"))
}

/// `Marker` and `MaxItems`.
pub fn page(query: Query<'_>) -> Result<PageRequest, ApiError> {
    page_within(query, ITEMS_MAX)
}

/// The same of the lists that give few items at once.
pub fn short_page(query: Query<'_>) -> Result<PageRequest, ApiError> {
    page_within(query, SHORT_ITEMS_MAX)
}

fn page_within(query: Query<'_>, limit: u32) -> Result<PageRequest, ApiError> {
    let items_max = match query.get("MaxItems") {
        None => None,
        Some(text) => Some(items_max(&text, limit)?),
    };
    Ok(PageRequest {
        marker: query
            .get("Marker")
            .filter(|marker| !marker.is_empty())
            .map(Cow::into_owned),
        items_max,
    })
}

fn items_max(text: &str, limit: u32) -> Result<u32, ApiError> {
    let number: i64 = text
        .parse()
        .map_err(|_| mismatch("STRING_VALUE can not be converted to an Integer"))?;
    let mut violations = Violations::default();
    violations.at_least("maxItems", number, 1);
    violations.at_most("maxItems", number, limit.into());
    violations.finish()?;
    Ok(u32::try_from(number).unwrap_or(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "PascalCase")]
    #[allow(dead_code, reason = "only whether it can be read matters")]
    struct Sample {
        timeout: Option<i64>,
        name: Option<String>,
        publish: Option<bool>,
        list: Option<Vec<String>>,
    }

    fn check(body: &str, expected: &str) {
        let found = json::<Sample>(body.as_bytes()).map_or_else(|error| error.to_string(), |_| "read".to_owned());
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn bodies_are_read_or_refused_in_the_services_words() {
        check("", "read");
        check(r#"{"Unknown": {"a": []}}"#, "read");
        check(r#"{"Timeout": null}"#, "read");
        check(r#"{"Timeout": "3"}"#, "STRING_VALUE can not be converted to an Integer");
        check(r#"{"Name": 3}"#, "NUMBER_VALUE can not be converted to a String");
        check(r#"{"Name": true}"#, "TRUE_VALUE can not be converted to a String");
        check(r#"{"Publish": {}}"#, "START_OBJECT can not be converted to a Boolean");
        check(r#"{"List": "x"}"#, "STRING_VALUE can not be converted to a List");
        check("[3]", "START_ARRAY can not be converted to a Structure");
        check("7", "NUMBER_VALUE can not be converted to a Structure");
        assert!(
            json::<Sample>(b"{")
                .unwrap_err()
                .to_string()
                .starts_with("Could not parse")
        );
    }

    #[test]
    fn broken_constraints_are_reported_together() {
        let mut violations = Violations::default();
        violations.require::<String>("role", None);
        violations.require("functionName", Some(&"f"));
        violations.at_least("memorySize", 1, 128);
        let refused = violations.finish().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "2 validation errors detected: Value null at 'role' failed to satisfy constraint: Member must not be \
             null; Value '1' at 'memorySize' failed to satisfy constraint: Member must have value greater than or \
             equal to 128"
        );
    }
}
