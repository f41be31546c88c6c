//! The query parameters of a request: each known, given once, and within its bounds.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{Code, Problem};
use crate::route::Query;

/// Parameters that stand in every query without meaning anything here: those of presigned links.
const FOREIGN: &str = "X-Amz-";

/// What stood after the question mark.
pub struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// Refuses parameters that are not `known`, and such as come twice.
    pub fn read(query: Query<'a>, known: &[&str]) -> Result<Self, Problem> {
        let mut found: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for (name, value) in query.pairs().filter(|(name, _)| !name.starts_with(FOREIGN)) {
            if !known.contains(&&*name) {
                let known = match known {
                    [] => "this operation has none".to_owned(),
                    known => format!("known are `{}`", known.join("`, `")),
                };
                let detail = format!("parameter `{name}` is unknown: {known}");
                return Err(Problem::new(Code::UnknownParameter, detail));
            }
            if found.iter().any(|(other, _)| *other == name) {
                return Err(invalid(&name, &value, "given once"));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// The value of a parameter, if it is given and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| &**value)
    }

    /// A parameter that must be given.
    pub fn needed(&self, name: &str) -> Result<&str, Problem> {
        let missing = || Problem::new(Code::InvalidParameter, format!("parameter `{name}` is missing"));
        self.text(name).ok_or_else(missing)
    }

    /// A parameter as a whole number within bounds.
    pub fn number(&self, name: &str, default: usize, bounds: RangeInclusive<usize>) -> Result<usize, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        let wanted = || format!("a whole number from {} to {}", bounds.start(), bounds.end());
        number.ok_or_else(|| invalid(name, text, &wanted()))
    }

    /// A parameter in milliseconds, at most `max`.
    pub fn millis(&self, name: &str, max: Duration) -> Result<Duration, Problem> {
        let max = usize::try_from(max.as_millis()).unwrap_or(usize::MAX);
        let millis = self.number(name, 0, 0..=max)?;
        Ok(Duration::from_millis(millis as u64))
    }

    /// A parameter as whatever `read` makes of it.
    pub fn parsed<T>(&self, name: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| invalid(name, text, wanted))
    }
}

/// `invalid_parameter`.
pub fn invalid(name: &str, text: &str, wanted: &str) -> Problem {
    let shown: String = text.chars().take(80).collect();
    Problem::new(
        Code::InvalidParameter,
        format!("parameter `{name}` is `{shown}`, expected {wanted}"),
    )
}

/// A JSON body with exactly the fields that its type has; no body is the empty object.
pub fn json<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::InvalidBody, format!("body is not as expected: {error}")))
}
