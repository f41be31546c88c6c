//! Errors that a handler returns to its caller.

use std::fmt::{self, Write as _};

/// An error for the caller: HTTP 200 with `X-Amz-Function-Error` and this as the payload.
///
/// Any [`std::error::Error`] becomes one by `?`; its causes become the stack trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: String,
    message: String,
    trace: Vec<String>,
}

impl Error {
    /// An error of a type that callers can tell apart, `OutOfStock` say.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            trace: Vec::new(),
        }
    }

    /// The same with one more line of its stack trace.
    #[must_use]
    pub fn at(mut self, frame: impl Into<String>) -> Self {
        self.trace.push(frame.into());
        self
    }

    /// The payload that the caller gets.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = String::with_capacity(96 + self.message.len());
        text.push_str("{\"errorType\":");
        push_quoted(&mut text, &self.kind);
        text.push_str(",\"errorMessage\":");
        push_quoted(&mut text, &self.message);
        text.push_str(",\"stackTrace\":[");
        for (index, frame) in self.trace.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            push_quoted(&mut text, frame);
        }
        text.push_str("]}");
        text.into_bytes()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut converted = Self::new(type_name::<E>(), error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            converted = converted.at(error.to_string());
            cause = error.source();
        }
        converted
    }
}

/// The type's own name, without its path and its parameters.
fn type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    let plain = full.split('<').next().unwrap_or(full);
    plain.rsplit("::").next().unwrap_or(plain)
}

fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control < ' ' => {
                // Writing to a text never fails.
                let _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &Error, expected: &str) {
        assert_eq!(String::from_utf8(error.to_json()).unwrap(), expected);
    }

    #[test]
    fn payloads_are_json() {
        check(
            &Error::new("Knot", "it \"slipped\"\n\u{1}\\").at("rope.rs:7"),
            r#"{"errorType":"Knot","errorMessage":"it \"slipped\"\n\u0001\\","stackTrace":["rope.rs:7"]}"#,
        );
    }

    #[test]
    fn other_errors_keep_their_type_and_text() {
        let error = Error::from("x".parse::<u8>().unwrap_err());
        check(
            &error,
            r#"{"errorType":"ParseIntError","errorMessage":"invalid digit found in string","stackTrace":[]}"#,
        );
    }
}
