//! The bodies of an append: what a client sends, as the records that a stream takes.
//!
//! | content type | what it holds |
//! | --- | --- |
//! | `application/json` | `{"events": [{"id", "key", "body"}, ...]}` |
//! | `application/x-ndjson` | one such event a line |
//! | `application/vnd.bowline.events` | frames: flags u8 (1: identifier, 2: key), identifier 16 bytes, key length u16 and key, body length u32 and body; numbers big-endian |
//! | `application/octet-stream`, `text/plain` | the body of one event |
//!
//! A key or body is text; one that is not has its name with `_base64` instead. Nothing is copied but texts
//! with escapes in them, and what base64 hides: a record refers to the request's bytes.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_stream::{APPEND_EVENTS_MAX, EventId, Record};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

/// Flag of a frame: an identifier follows.
pub const HAS_ID: u8 = 1;
/// Flag of a frame: a key follows.
pub const HAS_KEY: u8 = 2;

/// How the events of an append are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Lines,
    Frames,
    Raw,
}

/// Why a body is no append.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAppend {
    #[error("body is not as expected: {0}")]
    Json(String),
    #[error("line {line} is not as expected: {reason}")]
    Line { line: usize, reason: String },
    #[error("frame {frame} at byte {at} is {reason}")]
    Frame {
        frame: usize,
        at: usize,
        reason: &'static str,
    },
    #[error("append has more than `{APPEND_EVENTS_MAX}` events")]
    TooMany,
    #[error("event {event}: {reason}")]
    Event { event: usize, reason: InvalidEvent },
}

/// Why something is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    #[error("`{0}` and `{0}_base64` are both given")]
    Both(&'static str),
    #[error("`body` is missing; `\"body\": \"\"` is an empty one")]
    NoBody,
    #[error("`{0}_base64` is not base64")]
    Base64(&'static str),
    #[error("identifier `{0}` is not 32 hexadecimal digits, nor a UUID")]
    Id(String),
}

/// A text that is not copied if it needs no unescaping.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An event to be appended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent<'a> {
    /// 32 hexadecimal digits or a UUID, chosen by the client: appended again with the same one, the event
    /// is stored once.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    id: Option<Text<'a>>,
    /// What the event is about.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    key_base64: Option<Text<'a>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    body: Option<Text<'a>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    body_base64: Option<Text<'a>>,
}

/// Events to be appended: all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvents<'a> {
    #[serde(borrow)]
    events: Vec<NewEvent<'a>>,
}

impl Form {
    /// The form that a content type names. None named: raw.
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let media = content_type.unwrap_or("application/octet-stream");
        let media = media.split(';').next().unwrap_or_default().trim();
        match media.to_ascii_lowercase().as_str() {
            "application/json" => Some(Self::Json),
            "application/x-ndjson" | "application/jsonl" => Some(Self::Lines),
            "application/vnd.bowline.events" => Some(Self::Frames),
            "application/octet-stream" | "text/plain" => Some(Self::Raw),
            _ => None,
        }
    }
}

/// The records in a body.
pub fn parse(form: Form, body: &Bytes) -> Result<Vec<Record>, InvalidAppend> {
    match form {
        Form::Json => whole(body),
        Form::Lines => lines(body),
        Form::Frames => frames(body),
        Form::Raw => Ok(vec![Record {
            id: None,
            key: None,
            body: body.clone(),
        }]),
    }
}

/// The identifier of an event from its text form.
pub fn event_id(text: &str) -> Result<EventId, InvalidEvent> {
    let invalid = || InvalidEvent::Id(text.chars().take(64).collect());
    let mut digits = [0; 32];
    let bare = match text.len() {
        32 => Cow::Borrowed(text),
        36 if [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-') => Cow::Owned(text.replace('-', "")),
        _ => return Err(invalid()),
    };
    if bare.len() != digits.len() {
        return Err(invalid());
    }
    digits.copy_from_slice(bare.as_bytes());
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        let value = high.zip(low).ok_or_else(invalid)?;
        *byte = u8::try_from(value.0 << 4 | value.1).expect("two hexadecimal digits are a byte");
    }
    Ok(EventId(id))
}

fn whole(body: &Bytes) -> Result<Vec<Record>, InvalidAppend> {
    let sent: NewEvents<'_> = serde_json::from_slice(body).map_err(|error| InvalidAppend::Json(error.to_string()))?;
    if sent.events.len() > APPEND_EVENTS_MAX {
        return Err(InvalidAppend::TooMany);
    }
    let events = sent.events.into_iter().enumerate();
    let records = events.map(|(event, sent)| {
        let record = sent.into_record(body);
        record.map_err(|reason| InvalidAppend::Event { event, reason })
    });
    records.collect()
}

fn lines(body: &Bytes) -> Result<Vec<Record>, InvalidAppend> {
    let mut records = Vec::new();
    for (at, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if records.len() == APPEND_EVENTS_MAX {
            return Err(InvalidAppend::TooMany);
        }
        let at_line = |reason: String| InvalidAppend::Line { line: at + 1, reason };
        let sent: NewEvent<'_> = serde_json::from_slice(line).map_err(|error| at_line(error.to_string()))?;
        let record = sent.into_record(body);
        records.push(record.map_err(|reason| at_line(reason.to_string()))?);
    }
    Ok(records)
}

fn frames(body: &Bytes) -> Result<Vec<Record>, InvalidAppend> {
    let mut frames = Frames { body, at: 0, frame: 0 };
    let mut records = Vec::new();
    while frames.at < body.len() {
        if records.len() == APPEND_EVENTS_MAX {
            return Err(InvalidAppend::TooMany);
        }
        frames.frame += 1;
        records.push(frames.next()?);
    }
    Ok(records)
}

/// A walk over frames.
struct Frames<'a> {
    body: &'a Bytes,
    at: usize,
    frame: usize,
}

impl Frames<'_> {
    fn next(&mut self) -> Result<Record, InvalidAppend> {
        let [flags] = self.array()?;
        if flags & !(HAS_ID | HAS_KEY) != 0 {
            return Err(self.refuse("one with unknown flags"));
        }
        let id = (flags & HAS_ID != 0).then(|| self.array().map(EventId)).transpose()?;
        let key = if flags & HAS_KEY != 0 {
            let length = u16::from_be_bytes(self.array()?);
            Some(self.take(length.into())?)
        } else {
            None
        };
        let length = u32::from_be_bytes(self.array()?);
        let body = self.take(length as usize)?;
        Ok(Record { id, key, body })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidAppend> {
        let range = self.range(N)?;
        Ok(self.body[range].try_into().expect("a range of this length"))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, InvalidAppend> {
        let range = self.range(length)?;
        Ok(self.body.slice(range))
    }

    fn range(&mut self, length: usize) -> Result<Range<usize>, InvalidAppend> {
        if self.body.len() - self.at < length {
            return Err(self.refuse("cut short"));
        }
        let range = self.at..self.at + length;
        self.at = range.end;
        Ok(range)
    }

    fn refuse(&self, reason: &'static str) -> InvalidAppend {
        InvalidAppend::Frame {
            frame: self.frame,
            at: self.at,
            reason,
        }
    }
}

impl NewEvent<'_> {
    fn into_record(self, whole: &Bytes) -> Result<Record, InvalidEvent> {
        Ok(Record {
            id: self.id.map(|Text(id)| event_id(&id)).transpose()?,
            key: either("key", (self.key, self.key_base64), whole)?,
            body: either("body", (self.body, self.body_base64), whole)?.ok_or(InvalidEvent::NoBody)?,
        })
    }
}

fn either(
    name: &'static str,
    forms: (Option<Text<'_>>, Option<Text<'_>>),
    whole: &Bytes,
) -> Result<Option<Bytes>, InvalidEvent> {
    match forms {
        (Some(_), Some(_)) => Err(InvalidEvent::Both(name)),
        (None, None) => Ok(None),
        (Some(Text(Cow::Borrowed(text))), None) => Ok(Some(whole.slice_ref(text.as_bytes()))),
        (Some(Text(Cow::Owned(text))), None) => Ok(Some(text.into())),
        (None, Some(Text(text))) => {
            let bytes = STANDARD.decode(&*text).map_err(|_| InvalidEvent::Base64(name))?;
            Ok(Some(bytes.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    fn parsed(form: Form, body: &str) -> Vec<Record> {
        parse(form, &Bytes::copy_from_slice(body.as_bytes())).unwrap_or_else(|error| panic!("{body}: {error}"))
    }

    #[track_caller]
    fn refused(form: Form, body: impl AsRef<[u8]>, expected: &str) {
        let error = parse(form, &Bytes::copy_from_slice(body.as_ref())).expect_err("a bad body");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn every_form_says_the_same() {
        let line = format!(r#"{{"id":"{ID}","key":"k","body":"b"}}"#);
        let expected = parsed(Form::Lines, &line);
        assert_eq!(expected[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(expected[0].id.map(|id| id.0[..3].to_vec()), Some(vec![0, 0x11, 0x22]));
        assert_eq!(parsed(Form::Json, &format!(r#"{{"events":[{line}]}}"#)), expected);
        let hidden = r#"{"id":"00112233-4455-6677-8899-aabbccddeeff","key_base64":"aw==","body_base64":"Yg=="}"#;
        assert_eq!(parsed(Form::Lines, &format!("\n{hidden}\r\n\n")), expected);
        let mut frame = vec![HAS_ID | HAS_KEY];
        frame.extend(expected[0].id.expect("an identifier").0);
        frame.extend([0, 1, b'k', 0, 0, 0, 1, b'b']);
        assert_eq!(parse(Form::Frames, &frame.into()), Ok(expected));
    }

    #[test]
    fn a_plain_text_is_not_copied() {
        let body = Bytes::from_static(br#"{"body":"plain"}"#);
        let records = parse(Form::Lines, &body).expect("one line");
        assert!(body.as_ptr_range().contains(&records[0].body.as_ptr()));
        // The control: a text with an escape cannot lie in the request.
        let body = Bytes::from_static(br#"{"body":"es\ncaped"}"#);
        let records = parse(Form::Lines, &body).expect("one line");
        assert!(!body.as_ptr_range().contains(&records[0].body.as_ptr()));
        assert_eq!(records[0].body, "es\ncaped");
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(
            Form::Lines,
            "{\"body\":\"\"}\n{\"boddy\":\"\"}",
            "line 2 is not as expected: unknown field `boddy`",
        );
        refused(Form::Lines, "{}", "`body` is missing");
        refused(Form::Lines, r#"{"body":"","body_base64":""}"#, "both given");
        refused(Form::Lines, r#"{"body_base64":"?"}"#, "not base64");
        refused(Form::Lines, r#"{"body":"","id":"1"}"#, "identifier `1`");
        refused(
            Form::Lines,
            format!(r#"{{"body":"","id":"{}"}}"#, "é".repeat(16)),
            "identifier `é",
        );
        refused(Form::Json, r#"{"body":""}"#, "unknown field `body`");
        refused(Form::Json, r#"{"events":[{}]}"#, "event 0: `body` is missing");
        refused(Form::Frames, [4], "frame 1 at byte 1 is one with unknown flags");
        refused(
            Form::Frames,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 7],
            "frame 2 at byte 10 is cut short",
        );
        refused(
            Form::Lines,
            "{\"body\":\"\"}\n".repeat(APPEND_EVENTS_MAX + 1),
            "more than `10000` events",
        );
        assert_eq!(Form::of(Some("text/PLAIN; charset=utf-8")), Some(Form::Raw));
        assert_eq!(Form::of(Some("application/x-www-form-urlencoded")), None);
    }
}
