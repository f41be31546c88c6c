//! Why an event came to its dead-letter queue, as the attributes of the message say it.

use bowline_aws::sqs::Attribute;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Longest `ErrorMessage`.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The last thing that went wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trouble {
    /// The status that Invoke would have answered.
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct FunctionError {
    #[serde(rename = "errorMessage")]
    message: Option<String>,
}

impl Trouble {
    /// What is known of an event that has been tried so often, and waits.
    pub fn before(tries: u32) -> Self {
        match tries {
            0 => Self::throttled(),
            tries => Self::new(200, &format!("The function failed; tries: {tries}.")),
        }
    }

    /// There was no place to run the function in.
    pub fn throttled() -> Self {
        Self::new(429, "Rate Exceeded.")
    }

    /// The function ran and answered with an error.
    pub fn of_answer(payload: &[u8]) -> Self {
        let read: Option<FunctionError> = serde_json::from_slice(payload).ok();
        let message = read.and_then(|error| error.message);
        Self::new(
            200,
            &message.unwrap_or_else(|| String::from_utf8_lossy(payload).into_owned()),
        )
    }

    /// The function could not be invoked.
    pub fn of_error(error: &Error) -> Self {
        let code = match error {
            Error::Throttled(_) | Error::MountBusy(_) => 429,
            Error::MountFailed(_) => 403,
            Error::Away(_) => 503,
            Error::NotFound(_) => 404,
            Error::RequestTooLarge(_) => 413,
            Error::InvalidRequestContent(_) => 400,
            Error::InvalidRuntime(_) | Error::InvalidZip(_) => 502,
            _ => 500,
        };
        Self::new(code, &error.to_string())
    }

    fn new(code: u16, message: &str) -> Self {
        let mut text = String::new();
        for character in message.chars().map(sendable) {
            if text.len() + character.len_utf8() > MESSAGE_BYTES_MAX {
                break;
            }
            text.push(character);
        }
        if text.is_empty() {
            // An attribute has a value.
            text.push_str("Unhandled");
        }
        Self { code, message: text }
    }

    pub fn attributes(&self, request_id: &str) -> Vec<(&'static str, Attribute)> {
        let attribute = |data_type: &str, value: String| Attribute {
            data_type: data_type.to_owned(),
            string_value: Some(value),
            binary_value: None,
        };
        vec![
            ("RequestID", attribute("String", request_id.to_owned())),
            ("ErrorCode", attribute("Number", self.code.to_string())),
            ("ErrorMessage", attribute("String", self.message.clone())),
        ]
    }
}

/// Queues refuse what XML cannot hold, the colours of a terminal say.
fn sendable(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' => character,
        '\0'..' ' | '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        character => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Throttle;

    fn said(trouble: &Trouble) -> (u16, &str) {
        (trouble.code, &trouble.message)
    }

    #[test]
    fn a_functions_error_says_its_message() {
        let failed = Trouble::of_answer(br#"{"errorMessage": "no \u001b[31mgood", "errorType": "E"}"#);
        assert_eq!(said(&failed), (200, "no \u{fffd}[31mgood"));
        let other = Trouble::of_answer(b"[1]");
        assert_eq!(said(&other), (200, "[1]"));
        assert_eq!(said(&Trouble::of_answer(b"")), (200, "Unhandled"));
    }

    #[test]
    fn a_message_has_a_kibibyte_at_most_and_no_half_a_character() {
        let long = format!("{{\"errorMessage\": \"x{}\"}}", "\u{e9}".repeat(600));
        let failed = Trouble::of_answer(long.as_bytes());
        assert_eq!(failed.message.len(), MESSAGE_BYTES_MAX - 1);
        let fits = format!("{{\"errorMessage\": \"{}\"}}", "\u{e9}".repeat(512));
        assert_eq!(Trouble::of_answer(fits.as_bytes()).message.len(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn what_kept_a_function_from_running_has_a_status() {
        let throttled = Trouble::of_error(&Error::Throttled(Throttle::AccountConcurrency));
        assert_eq!(said(&throttled), (429, "Rate Exceeded."));
        assert_eq!(Trouble::of_error(&Error::NotFound("f".to_owned())).code, 404);
        assert_eq!(Trouble::before(0), throttled);
        assert_eq!(Trouble::before(2).code, 200);
    }
}
