//! Events as they are sent, and the places from which they are read.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::clock::Timestamp;
use bowline_stream::{Event, Position, Stamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::time;

/// An event of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView<'a> {
    /// Its place in the order, 56 hexadecimal digits; they sort as the events do.
    position: String,
    /// When it was appended.
    time: String,
    /// What tells it from every other event, 32 hexadecimal digits.
    id: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The key, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The body, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Where a reader or a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Oldest,
    Latest,
    Time(Timestamp),
    /// Right after this position; read backward: right before it.
    Position(Position),
}

/// What a text that says where to begin looks like.
pub const FROM_WANTED: &str = "`oldest`, `latest`, a time as in `2026-11-20T23:24:39Z`, or a position";

impl Place {
    /// Reads the text form.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "oldest" => Some(Self::Oldest),
            "latest" => Some(Self::Latest),
            text => {
                let position = text.parse().ok().map(Self::Position);
                position.or_else(|| time::read(text).map(Self::Time))
            }
        }
    }

    /// The bound before the first event of this moment or a later one.
    pub fn at(moment: Timestamp) -> Position {
        Position::before(Stamp::of(moment))
    }
}

impl<'a> EventView<'a> {
    pub fn of(event: &'a Event) -> Self {
        let (key, key_base64) = event.key.as_deref().map_or((None, None), shown);
        let (body, body_base64) = shown(&event.body);
        Self {
            position: position_text(event.position),
            time: time::text(event.position.stamp.moment()),
            id: hex(&event.id.0),
            key,
            key_base64,
            body,
            body_base64,
        }
    }
}

/// Bytes as text, or as base64 if they are none.
pub fn shown(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// A position's text form, made faster than by formatting its bytes one by one.
pub fn position_text(position: Position) -> String {
    hex(&position.to_bytes())
}

/// The bytes that a text or base64 stands for; `Err` names what is wrong.
pub fn bytes_of(text: Option<Cow<'_, str>>, base64: Option<&str>, name: &str) -> Result<Option<bytes::Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("`{name}` and `{name}_base64` are both given")),
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_owned().into())),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64);
            bytes
                .map(|bytes| Some(bytes.into()))
                .map_err(|_| format!("`{name}_base64` is not base64"))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| char::from(DIGITS[usize::from(half)]));
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_look_as_the_stream_shows_them() {
        let position = Position::from_bytes(&std::array::from_fn(|at| at as u8 * 9));
        assert_eq!(position_text(position), position.to_string());
    }

    #[test]
    fn beginnings_are_told_apart() {
        assert_eq!(Place::read("oldest"), Some(Place::Oldest));
        assert_eq!(Place::read(&"0".repeat(56)), Some(Place::Position(Position::START)));
        let moment = Timestamp::from_micros(1_000_000);
        assert_eq!(Place::read("1970-01-01T00:00:01Z"), Some(Place::Time(moment)));
        assert_eq!(Place::read("newest"), None);
    }

    #[test]
    fn bytes_that_are_no_text_are_hidden_in_base64() {
        assert_eq!(shown(b"text"), (Some("text"), None));
        assert_eq!(shown(&[0xff]), (None, Some("/w==".to_owned())));
        assert_eq!(
            bytes_of(None, Some("/w=="), "key"),
            Ok(Some(bytes::Bytes::from_static(&[0xff])))
        );
        assert!(bytes_of(Some("a".into()), Some("/w=="), "key").is_err());
    }
}
