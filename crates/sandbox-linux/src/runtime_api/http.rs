//! Reads Runtime API requests out of bytes that a guest sent; pure and hostile-proof.
//!
//! A request is read in two steps, because its body may be far larger than one read: the head gives the
//! route and how the body is framed; the body is then taken as it arrives. What is larger than an answer
//! may be is counted and thrown away, so that the guest can be told in an orderly way. An answer in the
//! streaming mode can be handed out in parts while it arrives.

mod chunks;
mod stream;

use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::answer::STREAM_PIECE_BYTES;
use bowline_sandbox::{FunctionError, PLATFORM_BODY_BYTES_MAX};
use bytes::{Buf, Bytes, BytesMut};

use super::extension::request::{self, Call};
use chunks::{Chunks, Step};
pub use stream::Part;
use stream::StreamReader;

/// Largest head of a request.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a request.
const HEADERS_MAX: usize = 64;
/// Largest body that is read to its end only to be refused; beyond it the connection is closed.
const DISCARDED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bodies up to this size are copied, so that the buffer they came in can be used again.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// Longest request id in a path: a UUID has 36 characters.
const ID_BYTES_MAX: usize = 64;

/// Where paths begin that are answered by the platform: durable executions, shared state.
const PLATFORM_PREFIXES: [&str; 2] = ["/2025-12-01/", "/v1/state/"];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET invocation/next`.
    Next,
    /// `POST invocation/{id}/response`.
    Response(Box<str>),
    /// `POST invocation/{id}/error`.
    Error(Box<str>),
    /// `POST init/error`.
    InitError,
    /// About extensions or telemetry.
    Extension(Box<Call>),
    /// `GET /2018-06-01/ping`.
    Ping,
    /// A request to the platform.
    Platform(Box<Asked>),
    /// Anything else.
    Unknown,
}

/// The request line of a request to the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: Box<str>,
    /// The path and the query.
    pub target: Box<str>,
}

/// The head of a request: what matters of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the request is for.
    pub route: Route,
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
    /// Whether the guest waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// `Lambda-Runtime-Function-Error-Type`.
    pub error_type: Option<Box<str>>,
    /// Whether `Lambda-Runtime-Function-Response-Mode` is neither absent nor `streaming`.
    pub invalid_mode: bool,
    /// Whether it is `streaming`.
    pub streaming: bool,
    /// `Content-Type`, of an answer in the streaming mode only.
    pub content_type: Option<Box<str>>,
}

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// It was larger than an answer may be, and was thrown away; its size in bytes.
    TooLarge(u64),
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The head.
    pub head: Head,
    /// The body.
    pub body: Body,
}

/// What [`parse_request`] made of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The request is not complete yet.
    Partial,
    /// A request, and how many bytes it took.
    Complete(Box<Request>, usize),
}

/// Bytes that are no request this server reads; the connection is closed after it was told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The head is not HTTP/1.
    #[error("request is not valid HTTP/1.1")]
    Malformed,
    /// The head is larger than [`HEAD_BYTES_MAX`], or has too many fields.
    #[error("request head is larger than {HEAD_BYTES_MAX} bytes or has more than {HEADERS_MAX} fields")]
    HeadTooLarge,
    /// The body's length is ambiguous or not a number.
    #[error("body length is missing, ambiguous or not a number")]
    Framing,
    /// The body is so large that not even its end is waited for.
    #[error("body is larger than {DISCARDED_BYTES_MAX} bytes")]
    BodyTooLarge,
}

/// What can be taken of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it.
    Request(Request),
    /// The head of a streamed answer, whose parts follow.
    Stream(Head),
}

/// Reads the first request in `bytes`.
///
/// # Errors
/// If the bytes can never become a request, whatever follows them.
pub fn parse_request(bytes: &[u8]) -> Result<Parsed, Reject> {
    let mut buffer = BytesMut::from(bytes);
    let mut reader = RequestReader::default();
    Ok(match reader.take(&mut buffer, Streamed::Collected)? {
        Some(Taken::Request(request)) => Parsed::Complete(Box::new(request), bytes.len() - buffer.len()),
        _ => Parsed::Partial,
    })
}

/// Whether a streamed answer is handed out as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streamed {
    /// It is.
    InParts,
    /// It is collected like any other.
    Collected,
}

/// Reads requests one after another out of a buffer that grows as bytes arrive.
#[derive(Debug, Default)]
pub struct RequestReader {
    current: Option<(Head, BodyReader)>,
    stream: Option<StreamReader>,
}

impl RequestReader {
    /// Takes the next request out of `buffer`, or what can be taken of it so far. Of a streamed answer that
    /// is to come in parts it takes the head; [`Self::take_part`] takes the rest.
    ///
    /// # Errors
    /// If the bytes can never become a request; the reader is of no use then.
    pub fn take(&mut self, buffer: &mut BytesMut, streamed: Streamed) -> Result<Option<Taken>, Reject> {
        if self.current.is_none() {
            self.current = read_head(buffer)?;
            if streamed == Streamed::InParts
                && let Some((head, body)) = self.current.take_if(|(head, _)| head.is_streamed_answer())
            {
                self.stream = Some(StreamReader::new(body));
                return Ok(Some(Taken::Stream(head)));
            }
        }
        let Some((_, body)) = &mut self.current else {
            return Ok(None);
        };
        if !body.advance(buffer)? {
            return Ok(None);
        }
        let (mut head, body) = self.current.take().expect("a head was just there");
        let body = body.finish(buffer, &mut head);
        Ok(Some(Taken::Request(Request { head, body })))
    }

    /// Whether parts of a streamed answer are next.
    pub fn is_in_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes the next part of a streamed answer, if it has arrived.
    ///
    /// # Errors
    /// If the bytes can never become a request; the reader is of no use then.
    pub fn take_part(&mut self, buffer: &mut BytesMut) -> Result<Option<Part>, Reject> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let part = stream.take(buffer)?;
        if matches!(part, Some(Part::End(_))) {
            self.stream = None;
        }
        Ok(part)
    }

    /// Whether the guest waits to be told that it may send the body; says so once.
    pub fn take_expectation(&mut self) -> bool {
        self.current
            .as_mut()
            .is_some_and(|(head, _)| std::mem::take(&mut head.expects_continue))
    }

    /// How many more bytes the present body is known to need.
    pub fn bytes_missing(&self, buffered: usize) -> usize {
        match &self.current {
            _ if self.stream.is_some() => STREAM_PIECE_BYTES,
            Some((_, BodyReader::Length(length))) => length.saturating_sub(buffered),
            _ => 0,
        }
    }
}

impl Head {
    fn is_streamed_answer(&self) -> bool {
        self.streaming && matches!(self.route, Route::Response(_))
    }
}

fn read_head(buffer: &mut BytesMut) -> Result<Option<(Head, BodyReader)>, Reject> {
    // A client may send an empty line or two between requests.
    while buffer.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        buffer.advance(1);
    }
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let window = &buffer[..buffer.len().min(HEAD_BYTES_MAX)];
    match request.parse(window) {
        Ok(httparse::Status::Complete(bytes)) => {
            let head = interpret(&request)?;
            buffer.advance(bytes);
            Ok(Some(head))
        }
        Ok(httparse::Status::Partial) if buffer.len() >= HEAD_BYTES_MAX => Err(Reject::HeadTooLarge),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Reject::HeadTooLarge),
        Err(_) => Err(Reject::Malformed),
    }
}

fn interpret(request: &httparse::Request<'_, '_>) -> Result<(Head, BodyReader), Reject> {
    let mut head = Head {
        route: route(request.method.unwrap_or_default(), request.path.unwrap_or_default()),
        keep_alive: request.version == Some(1),
        expects_continue: false,
        error_type: None,
        invalid_mode: false,
        streaming: false,
        content_type: None,
    };
    let mut length = None;
    let mut chunked = false;
    for field in request.headers.iter() {
        let value = field.value;
        // The length of a name tells most of them apart without comparing text.
        match field.name.len() {
            14 if is(field, "content-length") => {
                let this = parse_length(value)?;
                if length.is_some_and(|length| length != this) {
                    return Err(Reject::Framing);
                }
                length = Some(this);
            }
            17 if is(field, "transfer-encoding") => {
                if chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reject::Framing);
                }
                chunked = true;
            }
            10 if is(field, "connection") => head.keep_alive = keeps_alive(value, head.keep_alive),
            6 if is(field, "expect") => head.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
            34 if is(field, "lambda-runtime-function-error-type") => head.error_type = text(value),
            37 if is(field, "lambda-runtime-function-response-mode") => {
                head.streaming = value.eq_ignore_ascii_case(b"streaming");
                head.invalid_mode = !head.streaming;
            }
            _ => {}
        }
    }
    if let Route::Extension(call) = &mut head.route {
        call.read_fields(request.headers);
    }
    if head.streaming {
        let content_type = request.headers.iter().find(|field| is(field, "content-type"));
        head.content_type = content_type.and_then(|field| text(field.value));
    }
    let body = match (length, chunked) {
        (Some(_), true) => return Err(Reject::Framing),
        (None, true) => BodyReader::Chunked(Collected::default()),
        (length, false) => BodyReader::of_length(length.unwrap_or(0), body_bytes_max(&head.route))?,
    };
    Ok((head, body))
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

fn keeps_alive(value: &[u8], default: bool) -> bool {
    let value = value.trim_ascii();
    if value.eq_ignore_ascii_case(b"close") {
        false
    } else {
        default || value.eq_ignore_ascii_case(b"keep-alive")
    }
}

fn text(value: &[u8]) -> Option<Box<str>> {
    let value = std::str::from_utf8(value).ok()?.trim();
    (!value.is_empty()).then(|| value.into())
}

fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::Framing);
    }
    let value = std::str::from_utf8(value).map_err(|_| Reject::Framing)?;
    value.parse().map_err(|_| Reject::Framing)
}

fn body_bytes_max(route: &Route) -> usize {
    match route {
        Route::Platform(_) => PLATFORM_BODY_BYTES_MAX,
        _ => SYNC_PAYLOAD_BYTES_MAX,
    }
}

fn route(method: &str, path: &str) -> Route {
    if PLATFORM_PREFIXES.iter().any(|prefix| path.starts_with(prefix)) {
        return Route::Platform(Box::new(Asked {
            method: method.into(),
            target: path.into(),
        }));
    }
    let Some(path) = path.strip_prefix("/2018-06-01/runtime/") else {
        return request::route(method, path);
    };
    match (method, path) {
        ("GET", "invocation/next") => Route::Next,
        ("POST", "init/error") => Route::InitError,
        ("POST", _) => answer_route(path).unwrap_or(Route::Unknown),
        _ => Route::Unknown,
    }
}

fn answer_route(path: &str) -> Option<Route> {
    let (id, kind) = path.strip_prefix("invocation/")?.split_once('/')?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return None;
    }
    match kind {
        "response" => Some(Route::Response(id.into())),
        "error" => Some(Route::Error(id.into())),
        _ => None,
    }
}

/// Where the reading of a body stands.
#[derive(Debug)]
enum BodyReader {
    /// So many bytes are wanted, all at once.
    Length(usize),
    /// So many bytes are still to be thrown away, of so many.
    Discard { left: u64, total: u64 },
    /// The body comes in chunks.
    Chunked(Collected),
}

impl BodyReader {
    fn of_length(length: u64, bytes_max: usize) -> Result<Self, Reject> {
        match usize::try_from(length) {
            Ok(length) if length <= bytes_max => Ok(Self::Length(length)),
            _ if length > DISCARDED_BYTES_MAX => Err(Reject::BodyTooLarge),
            _ => Ok(Self::Discard {
                left: length,
                total: length,
            }),
        }
    }

    /// Takes what has arrived; whether the body is complete.
    fn advance(&mut self, buffer: &mut BytesMut) -> Result<bool, Reject> {
        match self {
            Self::Length(length) => Ok(buffer.len() >= *length),
            Self::Discard { left, .. } => {
                let bytes = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                buffer.advance(bytes);
                *left -= bytes as u64;
                Ok(*left == 0)
            }
            Self::Chunked(collected) => collected.advance(buffer),
        }
    }

    /// The body, once [`advance`](Self::advance) said that it is complete.
    fn finish(self, buffer: &mut BytesMut, head: &mut Head) -> Body {
        match self {
            Self::Length(length) if length <= COPIED_BYTES_MAX => {
                let body = Bytes::copy_from_slice(&buffer[..length]);
                buffer.advance(length);
                Body::Whole(body)
            }
            Self::Length(length) => Body::Whole(buffer.split_to(length).freeze()),
            Self::Discard { total, .. } => Body::TooLarge(total),
            Self::Chunked(collected) => collected.finish(head),
        }
    }
}

/// A chunked body on its way.
#[derive(Debug, Default)]
struct Collected {
    chunks: Chunks,
    body: BytesMut,
}

impl Collected {
    fn advance(&mut self, buffer: &mut BytesMut) -> Result<bool, Reject> {
        loop {
            let step = self.chunks.step(buffer)?;
            if self.chunks.announced() > DISCARDED_BYTES_MAX {
                return Err(Reject::BodyTooLarge);
            }
            match step {
                Step::Wait => return Ok(false),
                Step::End => return Ok(true),
                Step::Data(bytes) => {
                    if self.chunks.announced() <= SYNC_PAYLOAD_BYTES_MAX as u64 {
                        self.body.extend_from_slice(&buffer[..bytes]);
                    }
                    buffer.advance(bytes);
                }
            }
        }
    }

    fn finish(self, head: &mut Head) -> Body {
        let bytes = self.chunks.announced();
        if let Some(error) = self.chunks.late_error() {
            return fail_late(head, error);
        }
        if bytes > SYNC_PAYLOAD_BYTES_MAX as u64 {
            return Body::TooLarge(bytes);
        }
        Body::Whole(self.body.freeze())
    }
}

/// Makes an error of an answer that ended with trailers saying that the function failed after all.
fn fail_late(head: &mut Head, error: FunctionError) -> Body {
    if let Route::Response(id) = &mut head.route {
        head.route = Route::Error(std::mem::take(id));
    }
    head.error_type = Some(error.error_type.into());
    Body::Whole(error.payload)
}

#[cfg(test)]
mod tests;
