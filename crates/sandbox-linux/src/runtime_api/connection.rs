//! One connection of a guest: bytes in, bytes out, nothing of their meaning.
#![allow(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::http::{Part, Reject, RequestReader, Streamed, Taken};
use super::platform::{self, Pending};

/// What is read at once, unless a large body is known to come.
const READ_BYTES: usize = 8 * 1024;
/// What a large body grows the buffer by.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Bodies up to this size are written together with their head.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// An output buffer that grew beyond this is given back.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A connection with what was read and not understood yet, and what is to be written.
pub(crate) struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    reader: RequestReader,
    outbox: Vec<u8>,
    written: usize,
    /// A large body that follows the outbox.
    tail: Bytes,
    /// Waits for an event.
    pub(crate) parked: bool,
    /// The number of the extension that waits, or was given its event; `None`: the runtime.
    pub(crate) waiter: Option<usize>,
    /// An event was put into the outbox, and nothing was heard since.
    pub(crate) carries_event: bool,
    /// Is closed once everything is written.
    pub(crate) closing: bool,
    /// The streamed answer on it is the invocation's.
    pub(crate) carries_answer: bool,
    /// Is closed after the streamed answer on it.
    pub(crate) closes_after_stream: bool,
    /// Waits for the platform.
    pub(crate) pending: Option<Pending>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            inbox: BytesMut::with_capacity(READ_BYTES),
            reader: RequestReader::default(),
            outbox: Vec::with_capacity(1024),
            written: 0,
            tail: Bytes::new(),
            parked: false,
            waiter: None,
            carries_event: false,
            closing: false,
            carries_answer: false,
            closes_after_stream: false,
            pending: None,
        })
    }

    /// The next request among the bytes that were read, if it is there whole, or the head of a streamed
    /// answer.
    pub(crate) fn take_request(&mut self, streamed: Streamed) -> Result<Option<Taken>, Reject> {
        if self.inbox.is_empty() {
            return Ok(None);
        }
        let taken = self.reader.take(&mut self.inbox, streamed)?;
        let expects = match &taken {
            Some(Taken::Request(_)) => false,
            Some(Taken::Stream(head)) => head.expects_continue,
            None => self.reader.take_expectation(),
        };
        if expects {
            self.outbox.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Ok(taken)
    }

    /// Whether parts of a streamed answer are next.
    pub(crate) fn is_in_stream(&self) -> bool {
        self.reader.is_in_stream()
    }

    /// The next part of a streamed answer, if it has arrived.
    pub(crate) fn take_part(&mut self) -> Result<Option<Part>, Reject> {
        let part = self.reader.take_part(&mut self.inbox)?;
        if matches!(part, Some(Part::End(_))) && self.inbox.is_empty() {
            // The buffer has grown to the size of pieces.
            self.inbox = BytesMut::with_capacity(READ_BYTES);
        }
        Ok(part)
    }

    /// Whether requests wait until an earlier one is answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.parked || self.pending.is_some()
    }

    /// Takes the platform's answer over, if it is there; whether it was.
    pub(crate) fn poll_platform(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let Poll::Ready(response) = pending.poll(cx) else {
            return false;
        };
        self.pending = None;
        platform::write(&mut self.outbox, &response);
        true
    }

    /// How many bytes were read and not understood yet.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.inbox.len()
    }

    /// Reads what is there; the number of bytes, zero at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = self.reader.bytes_missing(self.inbox.len());
        self.inbox.reserve(missing.clamp(READ_BYTES / 2, READ_BYTES_MAX));
        let length = self.inbox.len();
        let mut space = ReadBuf::uninit(self.inbox.spare_capacity_mut());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        let bytes = space.filled().len();
        // SAFETY: the buffer's spare capacity begins right after its `length` bytes, and `poll_read` has
        // initialised the first `bytes` of it. Zeroing the space first would do without, at the price of
        // writing every byte twice.
        unsafe { self.inbox.set_len(length + bytes) };
        Poll::Ready(Ok(bytes))
    }

    /// The buffer to which responses are appended.
    pub(crate) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Appends a body after the head that was just put into the outbox.
    pub(crate) fn push_body(&mut self, body: &Bytes) {
        if body.len() <= JOINED_BYTES_MAX {
            self.outbox.extend_from_slice(body);
        } else {
            self.tail = body.clone();
        }
    }

    /// Whether something is still to be written.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written < self.outbox.len() || !self.tail.is_empty()
    }

    /// Whether the other side did not take all that was sent.
    pub(crate) fn has_failed(&mut self) -> bool {
        self.has_unwritten() || !matches!(self.stream.take_error(), Ok(None))
    }

    /// Writes what is to be written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let stream = stream.get_mut();
        while self.written < self.outbox.len() {
            let bytes = ready!(Pin::new(&mut *stream).poll_write(cx, &self.outbox[self.written..]))?;
            self.written += bytes;
        }
        while !self.tail.is_empty() {
            let bytes = ready!(Pin::new(&mut *stream).poll_write(cx, &self.tail))?;
            self.tail.advance(bytes);
        }
        self.outbox.clear();
        self.outbox.shrink_to(KEPT_BYTES_MAX);
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
