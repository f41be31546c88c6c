//! What the bodies of frames say.
//!
//! What happens once in a sandbox's life is JSON. What happens for each invocation has a layout of its own:
//!
//! ```text
//!   Invoke  request id: 36 │ wall: u64 us │ budget: u64 us │ sink's bytes_max: u64, MAX without │ asks: u8
//!           │ arn │ client context │ trace id (each a u32 length, MAX for none, and text) │ payload
//!   Report  outcome: u8 │ reusable: u8 │ settled: u8 │ duration, memory, cpu, resident: u64 │ error type │ payload
//! ```

pub mod invoke;
pub mod report;
pub mod spec;

use std::io;
use std::net::SocketAddr;

use bowline_foundation::digest::Digest;
use bowline_sandbox::answer::{STREAM_BUFFER_BYTES, STREAM_PIECE_BYTES};
use bowline_sandbox::{CreateError, FunctionError, PLATFORM_BODY_BYTES_MAX, PrepareError, SandboxKind};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub use spec::SpecMessage;

use crate::wire::WireError;

/// The length that stands for no text.
const NONE: u32 = u32::MAX;

/// The first frame of a control channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Greater than that of any node before, for this instance.
    pub epoch: u64,
    /// Without a word from the node for so long the agent ends itself.
    pub lease_ms: u64,
}

/// What the agent offers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub protocol: u32,
    pub kinds: Vec<SandboxKind>,
}

/// Why the agent will not serve this node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: String,
}

/// Which of [`Backend`](bowline_sandbox::Backend)'s questions is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    Check,
    Prepare,
}

/// A question about a version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judge {
    pub epoch: u64,
    pub question: Question,
    pub spec: SpecMessage,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    Good,
    InvalidCode { text: String },
    MissingRuntime { text: String },
    Backend { text: String },
}

/// A sandbox is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    pub epoch: u64,
    pub spec: SpecMessage,
}

/// It is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    pub resident_bytes: u64,
}

/// It is not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NotCreated {
    Init { error_type: String, payload: String },
    Exhausted { text: String },
    Backend { text: String },
}

/// See [`MadeAhead`](bowline_sandbox::MadeAhead).
#[derive(Debug, Serialize, Deserialize)]
pub struct MadeAheadMessage {
    pub runtime: String,
    pub hits: u64,
    pub misses: u64,
}

/// An invocation that is to part from its channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub run: String,
}

/// Why it does not.
#[derive(Debug, Serialize, Deserialize)]
pub struct NotParted {
    pub reason: String,
}

/// An invocation that gets a channel again.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attach {
    pub epoch: u64,
    pub run: String,
}

/// A folder that sandboxes are to see, whose files the node is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Show {
    pub epoch: u64,
    pub share: String,
}

/// A connection to a service is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connect {
    pub epoch: u64,
    /// As the agent sees them; the first that takes it counts.
    pub to: Vec<SocketAddr>,
}

/// Code that a version needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct OfferCode {
    pub epoch: u64,
    pub digest: Digest,
}

/// The last piece of code is followed by what all of them must hash to.
#[derive(Debug, Serialize, Deserialize)]
pub struct CodeEnd {
    pub archive: Digest,
}

/// The code still in use; the agent forgets what else it has.
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    pub epoch: u64,
    pub digests: Vec<Digest>,
}

impl From<Result<(), PrepareError>> for Verdict {
    fn from(judged: Result<(), PrepareError>) -> Self {
        match judged {
            Ok(()) => Self::Good,
            Err(PrepareError::InvalidCode(text)) => Self::InvalidCode { text },
            Err(PrepareError::MissingRuntime(text)) => Self::MissingRuntime { text },
            Err(PrepareError::Backend(error)) => Self::Backend {
                text: error.to_string(),
            },
        }
    }
}

impl From<Verdict> for Result<(), PrepareError> {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Good => Ok(()),
            Verdict::InvalidCode { text } => Err(PrepareError::InvalidCode(text)),
            Verdict::MissingRuntime { text } => Err(PrepareError::MissingRuntime(text)),
            Verdict::Backend { text } => Err(PrepareError::Backend(io::Error::other(text))),
        }
    }
}

impl From<CreateError> for NotCreated {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Init(error) => Self::Init {
                error_type: error.error_type,
                payload: String::from_utf8_lossy(&error.payload).into_owned(),
            },
            CreateError::Exhausted(full) => Self::Exhausted { text: full.reason },
            error @ CreateError::Away(_) => Self::Backend {
                text: error.to_string(),
            },
            CreateError::Backend(error) => Self::Backend {
                text: error.to_string(),
            },
        }
    }
}

impl From<NotCreated> for CreateError {
    fn from(refused: NotCreated) -> Self {
        match refused {
            NotCreated::Init { error_type, payload } => Self::Init(FunctionError {
                error_type,
                payload: payload.into(),
            }),
            NotCreated::Exhausted { text } => Self::Exhausted(text.into()),
            NotCreated::Backend { text } => Self::Backend(io::Error::other(text)),
        }
    }
}

/// What of a streamed answer may be on its way without the node's word.
pub const ANSWER_WINDOW: u64 = STREAM_PIECE_BYTES as u64;
/// What a piece of it counts beside its bytes, so that many tiny ones are bounded too.
pub const PIECE_OVERHEAD_BYTES: u64 = 128;
/// What may ever be on its way: when a function has ended, its agent sends all that it still holds.
pub const ANSWER_OWED_MAX: u64 = 2 * STREAM_BUFFER_BYTES as u64;
const _: () = assert!(ANSWER_OWED_MAX > STREAM_BUFFER_BYTES as u64 + 2 * ANSWER_WINDOW);

/// Requests of one guest that wait for their answers.
pub const ASKS_MAX: usize = 16;
/// What they may hold together, unless there is only one.
pub const ASKS_BYTES_MAX: usize = PLATFORM_BODY_BYTES_MAX;

/// What a request of a guest takes.
pub fn ask_bytes(first: &str, second: &str, body: &[u8]) -> usize {
    first.len() + second.len() + body.len()
}

/// Whether one more request may wait beside those that do.
pub fn may_ask(waiting: usize, waiting_bytes: usize, bytes: usize) -> bool {
    waiting == 0 || waiting < ASKS_MAX && waiting_bytes.saturating_add(bytes) <= ASKS_BYTES_MAX
}

/// A request of a guest to the platform, or its answer: a number, two texts and a body.
pub fn put_ask(out: &mut BytesMut, number: u32, first: &str, second: &str, body: &[u8]) {
    out.put_u32_le(number);
    put_text(out, Some(first));
    put_text(out, Some(second));
    out.extend_from_slice(body);
}

/// The same, read.
pub fn take_ask(mut body: Bytes) -> Result<(u32, String, String, Bytes), WireError> {
    let wrong = || WireError::Body("a guest's request");
    let number = number(&mut body, "a guest's request")?;
    let first = take_text(&mut body)?.ok_or_else(wrong)?;
    let second = take_text(&mut body)?.ok_or_else(wrong)?;
    Ok((number, first, second, body))
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    match text {
        None => out.put_u32_le(NONE),
        Some(text) => {
            out.put_u32_le(u32::try_from(text.len()).expect("texts are far smaller than a frame"));
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn take_text(body: &mut Bytes) -> Result<Option<String>, WireError> {
    const WHAT: &str = "a text";
    let length = number(body, WHAT)?;
    if length == NONE {
        return Ok(None);
    }
    let length = length as usize;
    if body.len() < length {
        return Err(WireError::Body(WHAT));
    }
    let text = body.split_to(length);
    let text = std::str::from_utf8(&text).map_err(|_| WireError::Body(WHAT))?;
    Ok(Some(text.to_owned()))
}

fn number(body: &mut Bytes, what: &'static str) -> Result<u32, WireError> {
    body.try_get_u32_le().map_err(|_| WireError::Body(what))
}

fn long(body: &mut Bytes, what: &'static str) -> Result<u64, WireError> {
    body.try_get_u64_le().map_err(|_| WireError::Body(what))
}

fn byte(body: &mut Bytes, what: &'static str) -> Result<u8, WireError> {
    body.try_get_u8().map_err(|_| WireError::Body(what))
}
