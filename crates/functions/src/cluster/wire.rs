//! What nodes say to each other about invocations, as bytes.
//!
//! ```text
//!   asked  = 1 'T'                               tell me what you hold
//!          | 1 'I' errand payload                can you run this?
//!          | 1 'G'                               run it
//!          | 1 'F'                               what can you take up?
//!          | 1 'P' 32 bytes                      a run with the checkpoint of this digest may be offered soon
//!          | 1 'R' offer                         take up this run
//!   told   = 1 'A' advert                        1 'Y' taken        1 'N' refusal
//!          | 1 'B' content type                  1 'P' piece of a streamed answer
//!          | 1 'E' ending                        it has run
//!          | 1 'F' facts                         1 'R' the run goes on here
//!          | 1 'M' misfit                        1 'D' why the run does not go on here
//! ```
//! Numbers are big-endian; texts and byte strings have their length before them as a `u32`.

use bowline_foundation::digest::Digest;
use bowline_foundation::id::{AccountId, RequestId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::name::{FunctionName, Version};
use crate::suspend::{Facts, Misfit, Needs};

const FORMAT: u8 = 1;
/// Most versions that a node says it holds; those beyond are not found by others, which costs cold starts.
pub const WARM_MAX: usize = 4096;

/// What one node asks of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Tell,
    Invoke(Box<Errand>),
    Go,
    Facts,
    Prepare(Digest),
    Offer(Box<Offer>),
}

/// A run that has left its node and looks for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub run: RequestId,
    /// The epoch of its record; whoever takes it raises it.
    pub epoch: u64,
    pub needs: Needs,
    /// Why it goes there, as JSON, for the record.
    pub decision: String,
}

/// An invocation that one node would have another run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub request_id: RequestId,
    /// Whose function it is.
    pub account: AccountId,
    pub function: FunctionName,
    pub version: Version,
    /// What the sender knows the version to be; a node that knows another one refuses.
    pub identity: u64,
    /// The ARN the caller used, qualifier included.
    pub invoked_arn: String,
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    pub wants: Wants,
    pub payload: Bytes,
}

/// What the caller wants beside the answer, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    pub log_tail: bool,
    /// Whether the answer may come in pieces.
    pub pieces: bool,
}

/// What a node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Advert(Advert),
    /// The node will run it at the word.
    Taken,
    /// The node has not run it and will not.
    Refused(Refusal),
    /// A streamed answer of this type begins.
    Begun(String),
    Piece(Bytes),
    Ended(Ending),
    Facts(Facts),
    /// The run goes on here.
    Running,
    /// It does not, because a clause of the test fails.
    Misfit(Misfit),
    /// It does not, for another reason.
    Denied(String),
}

/// Why a node does not run what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Stopping,
    /// It does not know the function, or knows another version of it.
    Unknown,
    /// A concurrency limit, or no room for another sandbox.
    Full,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub result: Outcome,
    pub log_tail: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answer(Bytes),
    /// The function's error.
    Failed {
        error_type: String,
        payload: Bytes,
    },
    /// The platform's, in words for the log.
    Broken(String),
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advert {
    /// It takes nothing any more.
    pub is_stopping: bool,
    /// The kinds of sandboxes it offers, a bit each.
    pub kinds: u8,
    /// Invocations that run on it.
    pub load: u32,
    /// The identities of the versions that it holds warm, with how many sandboxes are idle; at most [`WARM_MAX`].
    pub warm: Vec<(u64, u32)>,
}

/// Bytes that are no message, or one that this build does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("a message of nodes ends too early or holds an impossible value")]
    Malformed,
    #[error("a message of nodes has format `{0}`, this build knows `{FORMAT}`")]
    Format(u8),
}

impl From<bytes::TryGetError> for InvalidMessage {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Malformed
    }
}

type Read<T> = Result<T, InvalidMessage>;

impl Asked {
    /// The message but for the payload, which follows it: it need not be copied.
    pub fn head(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Tell => out.put_u8(b'T'),
            Self::Go => out.put_u8(b'G'),
            Self::Facts => out.put_u8(b'F'),
            Self::Prepare(checkpoint) => {
                out.put_u8(b'P');
                out.put_slice(checkpoint.as_bytes());
            }
            Self::Offer(offer) => {
                out.put_u8(b'R');
                offer.put(&mut out);
            }
            Self::Invoke(errand) => {
                out.put_u8(b'I');
                errand.put_head(&mut out);
            }
        }
        out.freeze()
    }

    /// What follows the head.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Invoke(errand) => &errand.payload,
            Self::Tell | Self::Go | Self::Facts | Self::Prepare(_) | Self::Offer(_) => &[],
        }
    }

    /// Reads head and payload; total.
    ///
    /// # Errors
    /// If the bytes are no such message.
    pub fn decode(mut bytes: Bytes) -> Read<Self> {
        let asked = match kind(&mut bytes)? {
            b'T' => Self::Tell,
            b'G' => Self::Go,
            b'F' => Self::Facts,
            b'P' => Self::Prepare(digest(&mut bytes)?),
            b'R' => Self::Offer(Box::new(Offer::read(&mut bytes)?)),
            b'I' => return Errand::read(bytes).map(Box::new).map(Self::Invoke),
            _ => return Err(InvalidMessage::Malformed),
        };
        at_end(&bytes)?;
        Ok(asked)
    }
}

impl Errand {
    fn put_head(&self, out: &mut BytesMut) {
        put_bytes(self.request_id.as_str().as_bytes(), out);
        put_bytes(self.account.as_str().as_bytes(), out);
        put_bytes(self.function.as_str().as_bytes(), out);
        match self.version {
            Version::Latest => put_optional(None, out),
            Version::Number(number) => put_optional(Some(&number.to_be_bytes()), out),
        }
        out.put_u64(self.identity);
        put_bytes(self.invoked_arn.as_bytes(), out);
        put_optional(self.client_context.as_deref().map(str::as_bytes), out);
        put_optional(self.trace_id.as_deref().map(str::as_bytes), out);
        out.put_u8(u8::from(self.wants.log_tail) | u8::from(self.wants.pieces) << 1);
    }

    fn read(mut bytes: Bytes) -> Read<Self> {
        let from = &mut bytes;
        let errand = Self {
            request_id: parsed(from)?,
            account: parsed(from)?,
            function: parsed(from)?,
            version: match optional(from)? {
                None => Version::Latest,
                Some(mut number) => {
                    let read = number.try_get_u64()?;
                    at_end(&number)?;
                    Version::Number(read)
                }
            },
            identity: from.try_get_u64()?,
            invoked_arn: text(from)?,
            client_context: optional(from)?.map(utf8).transpose()?,
            trace_id: optional(from)?.map(utf8).transpose()?,
            wants: match from.try_get_u8()? {
                flags @ 0..=3 => Wants {
                    log_tail: flags & 1 != 0,
                    pieces: flags & 2 != 0,
                },
                _ => return Err(InvalidMessage::Malformed),
            },
            payload: Bytes::new(),
        };
        Ok(Self {
            payload: bytes,
            ..errand
        })
    }
}

impl Told {
    /// The message but for what follows it.
    pub fn head(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        match self {
            Self::Advert(advert) => {
                out.put_u8(b'A');
                advert.put(&mut out);
            }
            Self::Taken => out.put_u8(b'Y'),
            Self::Refused(refusal) => {
                out.put_u8(b'N');
                out.put_u8(match refusal {
                    Refusal::Stopping => 0,
                    Refusal::Unknown => 1,
                    Refusal::Full => 2,
                });
            }
            Self::Begun(content_type) => {
                out.put_u8(b'B');
                put_bytes(content_type.as_bytes(), &mut out);
            }
            Self::Piece(_) => out.put_u8(b'P'),
            Self::Ended(ending) => {
                out.put_u8(b'E');
                ending.put_head(&mut out);
            }
            Self::Facts(facts) => {
                out.put_u8(b'F');
                put_facts(facts, &mut out);
            }
            Self::Running => out.put_u8(b'R'),
            Self::Misfit(misfit) => {
                out.put_u8(b'M');
                for text in [&misfit.clause, &misfit.needed, &misfit.found] {
                    put_bytes(text.as_bytes(), &mut out);
                }
            }
            Self::Denied(reason) => {
                out.put_u8(b'D');
                put_bytes(reason.as_bytes(), &mut out);
            }
        }
        out.freeze()
    }

    /// What follows the head.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Piece(piece) => piece,
            Self::Ended(ending) => ending.payload(),
            _ => &[],
        }
    }

    /// Reads head and payload; total.
    ///
    /// # Errors
    /// If the bytes are no such message.
    pub fn decode(mut bytes: Bytes) -> Read<Self> {
        let told = match kind(&mut bytes)? {
            b'A' => Self::Advert(Advert::read(&mut bytes)?),
            b'Y' => Self::Taken,
            b'N' => Self::Refused(match bytes.try_get_u8()? {
                0 => Refusal::Stopping,
                1 => Refusal::Unknown,
                2 => Refusal::Full,
                _ => return Err(InvalidMessage::Malformed),
            }),
            b'B' => Self::Begun(text(&mut bytes)?),
            b'P' => return Ok(Self::Piece(bytes)),
            b'E' => return Ending::read(bytes).map(Self::Ended),
            b'F' => Self::Facts(read_facts(&mut bytes)?),
            b'R' => Self::Running,
            b'M' => Self::Misfit(Misfit {
                clause: text(&mut bytes)?,
                needed: text(&mut bytes)?,
                found: text(&mut bytes)?,
            }),
            b'D' => Self::Denied(text(&mut bytes)?),
            _ => return Err(InvalidMessage::Malformed),
        };
        at_end(&bytes)?;
        Ok(told)
    }
}

impl Offer {
    fn put(&self, out: &mut BytesMut) {
        put_bytes(self.run.as_str().as_bytes(), out);
        out.put_u64(self.epoch);
        out.put_u32(self.needs.format_version);
        out.put_u32(self.needs.pass_version);
        out.put_u32(self.needs.memory_mib);
        put_bytes(self.decision.as_bytes(), out);
    }

    fn read(bytes: &mut Bytes) -> Read<Self> {
        Ok(Self {
            run: parsed(bytes)?,
            epoch: bytes.try_get_u64()?,
            needs: Needs {
                format_version: bytes.try_get_u32()?,
                pass_version: bytes.try_get_u32()?,
                memory_mib: bytes.try_get_u32()?,
            },
            decision: text(bytes)?,
        })
    }
}

fn put_facts(facts: &Facts, out: &mut BytesMut) {
    out.put_u8(u8::from(facts.is_stopping));
    out.put_u32(facts.format_version);
    out.put_u32(facts.pass_version);
    out.put_u32(facts.memory_free_mib);
    out.put_u32(facts.load_percent);
    out.put_u32(facts.processors);
    out.put_u32(facts.wanted_percent);
}

fn read_facts(bytes: &mut Bytes) -> Read<Facts> {
    let mut facts = Facts {
        is_stopping: match bytes.try_get_u8()? {
            0 => false,
            1 => true,
            _ => return Err(InvalidMessage::Malformed),
        },
        format_version: bytes.try_get_u32()?,
        pass_version: bytes.try_get_u32()?,
        memory_free_mib: bytes.try_get_u32()?,
        load_percent: bytes.try_get_u32()?,
        ..Facts::default()
    };
    // Nodes that do not know the rules say nothing more.
    if !bytes.is_empty() {
        facts.processors = bytes.try_get_u32()?;
        facts.wanted_percent = bytes.try_get_u32()?;
    }
    Ok(facts)
}

impl Ending {
    fn put_head(&self, out: &mut BytesMut) {
        put_optional(self.log_tail.as_deref(), out);
        match &self.result {
            Outcome::Answer(_) => out.put_u8(0),
            Outcome::Failed { error_type, .. } => {
                out.put_u8(1);
                put_bytes(error_type.as_bytes(), out);
            }
            Outcome::Broken(reason) => {
                out.put_u8(2);
                put_bytes(reason.as_bytes(), out);
            }
        }
    }

    fn payload(&self) -> &[u8] {
        match &self.result {
            Outcome::Answer(payload) | Outcome::Failed { payload, .. } => payload,
            Outcome::Broken(_) => &[],
        }
    }

    fn read(mut bytes: Bytes) -> Read<Self> {
        let log_tail = optional(&mut bytes)?;
        let result = match bytes.try_get_u8()? {
            0 => Outcome::Answer(bytes),
            1 => Outcome::Failed {
                error_type: text(&mut bytes)?,
                payload: bytes,
            },
            2 => {
                let reason = text(&mut bytes)?;
                at_end(&bytes)?;
                Outcome::Broken(reason)
            }
            _ => return Err(InvalidMessage::Malformed),
        };
        Ok(Self { result, log_tail })
    }
}

impl Advert {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.is_stopping));
        out.put_u8(self.kinds);
        out.put_u32(self.load);
        let warm = &self.warm[..self.warm.len().min(WARM_MAX)];
        put_length(warm.len(), out);
        for (identity, idle) in warm {
            out.put_u64(*identity);
            out.put_u32(*idle);
        }
    }

    fn read(bytes: &mut Bytes) -> Read<Self> {
        let is_stopping = match bytes.try_get_u8()? {
            0 => false,
            1 => true,
            _ => return Err(InvalidMessage::Malformed),
        };
        let kinds = bytes.try_get_u8()?;
        let load = bytes.try_get_u32()?;
        let count = bytes.try_get_u32()? as usize;
        if count > WARM_MAX {
            return Err(InvalidMessage::Malformed);
        }
        let mut warm = Vec::with_capacity(count);
        for _ in 0..count {
            warm.push((bytes.try_get_u64()?, bytes.try_get_u32()?));
        }
        Ok(Self {
            is_stopping,
            kinds,
            load,
            warm,
        })
    }
}

/// The letter after the format.
fn kind(bytes: &mut Bytes) -> Read<u8> {
    match bytes.try_get_u8()? {
        FORMAT => Ok(bytes.try_get_u8()?),
        other => Err(InvalidMessage::Format(other)),
    }
}

fn at_end(bytes: &Bytes) -> Read<()> {
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(InvalidMessage::Malformed)
    }
}

fn taken(bytes: &mut Bytes) -> Read<Bytes> {
    let length = bytes.try_get_u32()? as usize;
    if length > bytes.len() {
        return Err(InvalidMessage::Malformed);
    }
    Ok(bytes.split_to(length))
}

fn utf8(bytes: Bytes) -> Read<String> {
    String::from_utf8(bytes.into()).map_err(|_| InvalidMessage::Malformed)
}

fn digest(bytes: &mut Bytes) -> Read<Digest> {
    let mut digest = [0; 32];
    bytes.try_copy_to_slice(&mut digest)?;
    Ok(Digest::from_bytes(digest))
}

fn text(bytes: &mut Bytes) -> Read<String> {
    utf8(taken(bytes)?)
}

fn parsed<T: std::str::FromStr>(bytes: &mut Bytes) -> Read<T> {
    text(bytes)?.parse().map_err(|_| InvalidMessage::Malformed)
}

fn optional(bytes: &mut Bytes) -> Read<Option<Bytes>> {
    match bytes.try_get_u8()? {
        0 => Ok(None),
        1 => taken(bytes).map(Some),
        _ => Err(InvalidMessage::Malformed),
    }
}

fn put_length(length: usize, out: &mut BytesMut) {
    out.put_u32(u32::try_from(length).expect("messages are far smaller than 4 GiB"));
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    put_length(bytes.len(), out);
    out.put_slice(bytes);
}

fn put_optional(bytes: Option<&[u8]>, out: &mut BytesMut) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(bytes, out);
    }
}

#[cfg(test)]
mod tests;
