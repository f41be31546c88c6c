//! The framing of a chunked body: where its data lies, and what the trailers after it say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_sandbox::FunctionError;
use bytes::BytesMut;

use super::{Reject, text};

/// Longest line of a chunked body: a chunk's size, or a trailer field, which may hold an error's payload.
const LINE_BYTES_MAX: usize = 32 * 1024;
/// Most trailer fields of a chunked body.
const TRAILERS_MAX: usize = 16;

/// What is next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before more bytes arrive.
    Wait,
    /// So many bytes at the buffer's front are data; whoever asked takes them all.
    Data(usize),
    /// The body is over.
    End,
}

/// Where the reading of a chunked body stands.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    /// Bytes of all chunks whose size is known.
    announced: u64,
    trailers: usize,
    error_type: Option<Box<str>>,
    error_body: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A line with a chunk's size is next.
    #[default]
    Size,
    /// So many bytes of a chunk are next.
    Data(u64),
    /// The line's end after a chunk is next.
    DataEnd,
    /// Trailer fields or the empty line that ends the body are next.
    Trailer,
}

impl Chunks {
    /// How many bytes the chunks have that were announced so far.
    pub(super) fn announced(&self) -> u64 {
        self.announced
    }

    /// Goes on in `buffer` to the next data or to the end; takes everything but data out of it.
    pub(super) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Reject> {
        loop {
            if let State::Data(left) = self.state {
                if buffer.is_empty() {
                    return Ok(Step::Wait);
                }
                let bytes = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let left = left - bytes as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                return Ok(Step::Data(bytes));
            }
            let Some(line) = take_line(buffer)? else {
                return Ok(Step::Wait);
            };
            if self.take_line(&line)? {
                return Ok(Step::End);
            }
        }
    }

    /// Takes a line that is not data; whether it ended the body.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, Reject> {
        match self.state {
            State::Size => {
                let size = chunk_size(line)?;
                self.announced = self.announced.checked_add(size).ok_or(Reject::Framing)?;
                self.state = if size == 0 { State::Trailer } else { State::Data(size) };
            }
            State::DataEnd if line.is_empty() => self.state = State::Size,
            State::Trailer if line.is_empty() => return Ok(true),
            State::Trailer if self.trailers < TRAILERS_MAX => self.take_trailer(line),
            State::Trailer => return Err(Reject::HeadTooLarge),
            State::DataEnd | State::Data(_) => return Err(Reject::Framing),
        }
        Ok(false)
    }

    fn take_trailer(&mut self, line: &[u8]) {
        self.trailers += 1;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"lambda-runtime-function-error-type") {
            self.error_type = text(value);
        } else if name.eq_ignore_ascii_case(b"lambda-runtime-function-error-body") {
            self.error_body = text(value);
        }
    }

    /// The error that the trailers tell of, if the function failed after all.
    pub(super) fn late_error(self) -> Option<FunctionError> {
        if self.error_type.is_none() && self.error_body.is_none() {
            return None;
        }
        let error_type = self.error_type.as_deref().unwrap_or("Runtime.Unknown");
        let body = self.error_body.and_then(|body| STANDARD.decode(body.as_bytes()).ok());
        let Some(body) = body else {
            let message = "the function failed while it streamed its answer";
            return Some(FunctionError::new(error_type, message));
        };
        let is_object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body).is_ok();
        Some(if is_object {
            FunctionError {
                error_type: error_type.to_owned(),
                payload: body.into(),
            }
        } else {
            FunctionError::new(error_type, &String::from_utf8_lossy(&body))
        })
    }
}

/// Takes a line without its end out of `buffer`, if it is there whole.
fn take_line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Reject> {
    let window = &buffer[..buffer.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == LINE_BYTES_MAX {
            Err(Reject::Framing)
        } else {
            Ok(None)
        };
    };
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.truncate(end - 1);
    }
    Ok(Some(line))
}

/// The size a chunk's first line gives in hexadecimal; extensions after `;` are passed over.
fn chunk_size(line: &[u8]) -> Result<u64, Reject> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Reject::Framing);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Reject::Framing)?;
    u64::from_str_radix(digits, 16).map_err(|_| Reject::Framing)
}
