//! Frames on a channel: a length, a kind, a body.
//!
//! ```text
//!   length: u32, little endian, of what follows │ kind: u8 │ body
//! ```
//! Both sides judge a frame before they believe it: the bytes of an agent come from where hostile guests run. A frame
//! is at most [`FRAME_BYTES_MAX`] long; the reader keeps no more than one of them and what came with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::channel::Channel;

/// The version of the protocol. Either side refuses another one.
pub const PROTOCOL: u32 = 1;
/// The longest frame, its kind included: a guest's request to the platform, the largest thing that is sent whole.
pub const FRAME_BYTES_MAX: usize = 2 * SYNC_PAYLOAD_BYTES_MAX + 256 * 1024;
/// The largest body that holds JSON.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;

/// What the length takes.
const HEAD_BYTES: usize = 4;
/// What is read at once, at least.
const READ_BYTES: usize = 8 * 1024;
/// A buffer that grew beyond this for one frame is given back.
const KEPT_BYTES: usize = 64 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is. Numbers never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl TryFrom<u8> for Kind {
            type Error = WireError;

            fn try_from(number: u8) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(WireError::Kind(number)),
                }
            }
        }
    };
}

kinds! {
    /// Node: this channel is for control. JSON.
    Hello = 1,
    /// Agent: what it offers. JSON.
    Welcome = 2,
    /// Agent: it will not. JSON.
    Refused = 3,
    /// Both: still there; the node's number comes back.
    Beat = 4,
    /// Node: start these services. JSON.
    Serve = 5,
    /// Agent: how a service is. JSON.
    ServiceNews = 6,
    /// Node: start one service again. JSON.
    Restart = 7,
    /// Node: end everything.
    Stop = 8,
    /// Node: leave this invocation's channel, and wait without a node: the machine is to be saved. JSON.
    Part = 9,
    /// Agent: done; by the invocation's channel first, then by the channel of control.
    Parted = 10,
    /// Agent: it goes on as it was. JSON.
    NotParted = 11,
    /// Agent: how often what was made ahead was there when it was wanted, since it told so last. JSON.
    MadeAhead = 12,
    /// Node: a question about a version. JSON.
    Judge = 16,
    /// Agent: the answer. JSON.
    Verdict = 17,
    /// Node: do you have this code? JSON.
    OfferCode = 18,
    /// Agent: it has.
    HaveCode = 19,
    /// Agent: it has not.
    WantCode = 20,
    /// Node: the next piece of code; empty after the last.
    CodePiece = 21,
    /// Node: the code still in use. JSON.
    Keep = 22,
    /// Node: this channel is for a sandbox of this version. JSON.
    Create = 32,
    /// Agent: it is initialised. JSON.
    Created = 33,
    /// Agent: it is not. JSON.
    NotCreated = 34,
    /// Node: an event.
    Invoke = 35,
    /// Agent: how an invocation ended.
    Report = 36,
    /// Agent: output of the guest.
    Log = 37,
    /// Agent: a streamed answer begins; its content type.
    Begin = 38,
    /// Agent: a piece of it.
    Piece = 39,
    /// Node: so many more bytes of the answer may come.
    Credit = 40,
    /// Agent: the guest asks the platform.
    Ask = 41,
    /// Node: what the platform says.
    Answer = 42,
    /// Node: wait until the last invocation is over for everybody.
    Settle = 43,
    /// Agent: it is.
    Settled = 44,
    /// Node: it will be idle. With [`IDLE_TOLD`] the agent says `Settled` once it stands still.
    Idle = 45,
    /// Node: this channel is for an invocation that parted from another one. JSON.
    Attach = 46,
    /// Agent: nothing is left of a sandbox that has folders in common with others; its last word.
    Gone = 47,
    /// Node: this channel is for a connection to a service; no frames follow, but its pieces. JSON.
    Connect = 48,
    /// Node: this channel is for a folder, whose requests and answers follow, bare, once it is there. JSON.
    Show = 64,
    /// Agent: it is there.
    Shown = 65,
    /// Agent: it cannot be. JSON.
    NotShown = 66,
}

/// The body of a word of idling that is to be answered.
pub const IDLE_TOLD: &[u8] = b"!";

/// Bytes that are no frame, or a body that is not what its kind says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("frame of `{actual}` bytes; at least 1 and at most `{FRAME_BYTES_MAX}` are possible")]
    Length { actual: usize },
    #[error("frame of unknown kind `{0}`")]
    Kind(u8),
    #[error("frame `{kind:?}` came where `{wanted}` was expected")]
    Unexpected { kind: Kind, wanted: &'static str },
    #[error("body of `{0}` is not what it should be")]
    Body(&'static str),
    #[error("the other side ended in the middle of `{0}`")]
    Ended(&'static str),
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        let kind = match error {
            WireError::Ended(_) => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub body: Bytes,
}

impl Frame {
    /// The body, if the frame is of this kind.
    pub fn expect(self, kind: Kind, wanted: &'static str) -> Result<Bytes, WireError> {
        if self.kind == kind {
            return Ok(self.body);
        }
        Err(WireError::Unexpected {
            kind: self.kind,
            wanted,
        })
    }
}

/// Takes the next frame out of what was read, if it is whole.
pub fn take(read: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    let Some(head) = read.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let actual = u32::from_le_bytes(*head) as usize;
    if actual == 0 || actual > FRAME_BYTES_MAX {
        return Err(WireError::Length { actual });
    }
    if read.len() < HEAD_BYTES + actual {
        read.reserve(HEAD_BYTES + actual - read.len());
        return Ok(None);
    }
    read.advance(HEAD_BYTES);
    let kind = Kind::try_from(read[0])?;
    let mut body = read.split_to(actual);
    body.advance(1);
    Ok(Some(Frame {
        kind,
        body: body.freeze(),
    }))
}

/// Appends a frame whose body `fill` writes.
pub fn put(out: &mut BytesMut, kind: Kind, fill: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out.extend_from_slice(&[kind as u8]);
    fill(out);
    let bytes = out.len() - at - HEAD_BYTES;
    debug_assert!(bytes <= FRAME_BYTES_MAX, "{kind:?} of {bytes} bytes");
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    out[at..at + HEAD_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

/// A channel with its frames. What is queued goes out with [`Self::poll_flush`]; what was read and not yet taken stays.
pub struct Framed {
    channel: Channel,
    read: BytesMut,
    pub(crate) out: BytesMut,
    ended: bool,
}

impl Framed {
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            read: BytesMut::new(),
            out: BytesMut::new(),
            ended: false,
        }
    }

    /// What was read and not yet taken, and the channel, for whoever goes on without frames. All that was queued has gone.
    pub fn into_parts(self) -> (BytesMut, Channel) {
        (self.read, self.channel)
    }

    /// Queues a frame.
    pub fn put(&mut self, kind: Kind, body: &[u8]) {
        put(&mut self.out, kind, |out| out.extend_from_slice(body));
    }

    /// Queues a frame that holds JSON.
    pub fn put_json(&mut self, kind: Kind, body: &impl serde::Serialize) {
        let body = serde_json::to_vec(body).expect("messages hold text keys and finite numbers only");
        self.put(kind, &body);
    }

    /// Whether frames wait to go out.
    pub fn has_queued(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes what is queued, as far as the channel takes it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.channel).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        if self.out.capacity() > KEPT_BYTES {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// The next frame; `None` once the other side has ended between two frames. Cancelling loses nothing.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame>>> {
        loop {
            if let Some(frame) = take(&mut self.read)? {
                if frame.body.len() > KEPT_BYTES {
                    // A small frame that is kept must not keep the buffer of a large one.
                    self.read = BytesMut::from(&self.read[..]);
                }
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.ended {
                return Poll::Ready(match self.read.is_empty() {
                    true => Ok(None),
                    false => Err(WireError::Ended("a frame").into()),
                });
            }
            let read = ready!(self.poll_read(cx))?;
            self.ended = read == 0;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ_BYTES);
        // The future holds nothing of its own, so that dropping it between two polls loses nothing.
        std::pin::pin!(self.channel.read_buf(&mut self.read)).poll(cx)
    }

    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next frame, which must come.
    pub async fn must_next(&mut self, wanted: &'static str) -> io::Result<Frame> {
        Ok(self.next().await?.ok_or(WireError::Ended(wanted))?)
    }

    /// The channel, with what was read of it and is no frame.
    pub fn into_inner(self) -> (Channel, BytesMut) {
        (self.channel, self.read)
    }

    /// Says that nothing more is coming. Best effort, at once where the channel can.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}

/// A body that holds JSON.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    if body.len() > JSON_BYTES_MAX {
        return Err(WireError::Body(what));
    }
    serde_json::from_slice(body).map_err(|_| WireError::Body(what))
}

#[cfg(test)]
mod tests;
