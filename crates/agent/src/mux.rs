//! Many channels over one stream of bytes, for instances that have no other way out: a virtual machine's serial port.
//!
//! ```text
//!   channel: u32 │ what: u8 │ length: u32 │ data          (little endian)
//!   Open ─▶ Data … ─▶ Credit ◀─ … ─▶ Close (each side once; both: the channel is over)
//! ```
//! Each channel has a window of [`WINDOW`] bytes each way: a side sends no more than the other has taken, so that one
//! slow reader holds nobody else up and nothing is kept without bound. Whoever breaks that ends the whole stream. What
//! came is kept as bytes, not as the pieces that it came in: however small these are, it takes no more than the window.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::channel::{Accept, ByteStream, Channel, Dial};

/// Bytes that may be on their way in one direction of a channel.
pub const WINDOW: usize = 256 * 1024;
/// The most data of one piece.
pub const DATA_BYTES_MAX: usize = 32 * 1024;
/// Channels that may be open at once.
pub const CHANNELS_MAX: usize = 4096;

const HEAD_BYTES: usize = 9;
/// The kind of [`Piece::Data`].
const DATA: u8 = 1;
/// The channel that a fresh stream begins with.
const FIRST_CHANNEL: u32 = 1;
/// What waits for the stream before writers of data wait too.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// Data of so few bytes waits beside that, up to so many more: a beat need not stand behind what many others say at length.
const SMALL_BYTES: usize = 1024;
const OUT_SMALL_BYTES: usize = 64 * 1024;
/// What may wait of all pieces: what comes beside data is little if the other side keeps to the windows.
const OUT_LIMIT_BYTES: usize = 2 * OUT_BYTES_MAX;
/// A buffer that grew beyond this is given back.
const KEPT_BYTES: usize = 64 * 1024;
/// What was read of a channel before the other side is told.
const CREDIT_BYTES: usize = WINDOW / 2;
/// Channels that wait to be accepted.
const BACKLOG: usize = 64;

/// What a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Open,
    Data(Bytes),
    Credit(u32),
    Close,
}

/// Bytes that are no piece, or one that no honest side sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    #[error("piece of unknown kind `{0}`")]
    Kind(u8),
    #[error("piece of kind `{kind}` with `{length}` bytes of data")]
    Length { kind: u8, length: usize },
    #[error("channel `{0}` sent more than its window")]
    Window(u32),
    #[error("channel `{0}` was opened twice, or one too many")]
    Open(u32),
    #[error("the other side reads nothing of what it makes this side say")]
    Unread,
}

impl From<MuxError> for io::Error {
    fn from(error: MuxError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Takes the next piece out of what was read, if it is whole.
pub fn take(read: &mut BytesMut) -> Result<Option<(u32, Piece)>, MuxError> {
    if read.len() < HEAD_BYTES {
        return Ok(None);
    }
    let mut head = &read[..HEAD_BYTES];
    let (channel, kind, length) = (head.get_u32_le(), head.get_u8(), head.get_u32_le() as usize);
    let fits = match kind {
        0 | 3 => length == 0,
        DATA => (1..=DATA_BYTES_MAX).contains(&length),
        2 => length == 4,
        _ => return Err(MuxError::Kind(kind)),
    };
    if !fits {
        return Err(MuxError::Length { kind, length });
    }
    if read.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    read.advance(HEAD_BYTES);
    let mut data = read.split_to(length).freeze();
    let piece = match kind {
        0 => Piece::Open,
        DATA => Piece::Data(data),
        2 => Piece::Credit(data.get_u32_le()),
        _ => Piece::Close,
    };
    Ok(Some((channel, piece)))
}

/// Appends a piece.
pub fn put(out: &mut BytesMut, channel: u32, piece: &Piece) {
    let (kind, data): (u8, &[u8]) = match piece {
        Piece::Open => (0, &[]),
        Piece::Data(data) => (DATA, data),
        Piece::Credit(bytes) => (2, &bytes.to_le_bytes()),
        Piece::Close => (3, &[]),
    };
    put_raw(out, channel, kind, data);
}

fn put_raw(out: &mut BytesMut, channel: u32, kind: u8, data: &[u8]) {
    out.put_u32_le(channel);
    out.put_u8(kind);
    out.put_u32_le(u32::try_from(data.len()).expect("a piece is small"));
    out.extend_from_slice(data);
}

/// Opens channels; cheap to clone. The stream ends when the last of them and all channels are gone.
#[derive(Clone)]
pub struct MuxDial {
    shared: Arc<Shared>,
    next: Arc<AtomicU32>,
    user: Arc<User>,
}

/// Takes channels that the other side opens.
pub struct MuxAccept {
    opened: mpsc::Receiver<Channel>,
}

/// The node's side of a stream.
pub fn dialer(stream: impl ByteStream) -> MuxDial {
    dialer_from(stream, FIRST_CHANNEL)
}

/// The node's side of a stream whose other side has seen all channels before this one.
pub fn dialer_from(stream: impl ByteStream, channel: u32) -> MuxDial {
    let user = start(stream, None);
    MuxDial {
        shared: user.0.clone(),
        next: Arc::new(AtomicU32::new(channel)),
        user,
    }
}

impl MuxDial {
    /// Channels that either side has not ended yet.
    pub fn open_channels(&self) -> usize {
        self.shared.state.lock().channels.as_ref().map_or(0, HashMap::len)
    }

    /// Ends this side and all its channels; returns when nothing more is read or written. What was written is whole
    /// pieces. Gives the channel that a next dialer of the same other side begins with.
    pub async fn halt(&self) -> u32 {
        self.shared.end();
        let task = self.shared.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
        self.next.load(Ordering::Relaxed)
    }
}

/// The agent's side of a stream.
pub fn acceptor(stream: impl ByteStream) -> MuxAccept {
    let (sender, opened) = backlog();
    accept_into(stream, sender);
    MuxAccept { opened }
}

/// The agent's side of one more stream; it ends with the other side.
pub(crate) fn accept_into(stream: impl ByteStream, opened: mpsc::Sender<Channel>) {
    start(stream, Some(opened));
}

/// Channels that were opened and wait to be accepted.
pub(crate) fn backlog() -> (mpsc::Sender<Channel>, mpsc::Receiver<Channel>) {
    mpsc::channel(BACKLOG)
}

#[async_trait]
impl Dial for MuxDial {
    async fn dial(&self) -> io::Result<Channel> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let near = self.shared.begin(number, &self.user)?;
        self.shared.say(number, &Piece::Open);
        Ok(Box::new(near))
    }
}

#[async_trait]
impl Accept for MuxAccept {
    async fn accept(&mut self) -> io::Result<Channel> {
        self.opened
            .recv()
            .await
            .ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}

/// Whoever holds one uses the stream.
struct User(Arc<Shared>);

impl Drop for User {
    fn drop(&mut self) {
        self.0.state.lock().is_used = false;
        self.0.wake_writer();
    }
}

struct Shared {
    state: Mutex<State>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    /// None once the stream has ended.
    channels: Option<HashMap<u32, Ends>>,
    /// Whole pieces that wait for the stream.
    out: BytesMut,
    /// The stream's own task, when there was nothing to write.
    writer: Option<Waker>,
    /// Channels that have data for which there was no room, as they came.
    blocked: Vec<u32>,
    is_used: bool,
}

/// One channel of a stream.
struct Ends {
    /// What came and was not yet read.
    inbox: BytesMut,
    /// Whether nothing more comes.
    has_closed: bool,
    /// Who waits for it.
    reader: Option<Waker>,
    /// What may still come before the other side must wait.
    window: usize,
    /// What was read and not yet credited.
    owed: usize,
    /// What may still go.
    credit: usize,
    /// Who waits for more of it, or for room.
    writer: Option<Waker>,
    /// Whether it waits for room.
    is_blocked: bool,
    /// Whether this side has said that nothing more goes.
    is_closed: bool,
    /// Nobody reads it any more.
    is_dropped: bool,
}

impl Ends {
    fn new() -> Self {
        Self {
            inbox: BytesMut::new(),
            has_closed: false,
            reader: None,
            window: WINDOW,
            owed: 0,
            credit: WINDOW,
            writer: None,
            is_blocked: false,
            is_closed: false,
            is_dropped: false,
        }
    }

    /// Counts what was read; what to credit the other side with, if it is time.
    fn has_read(&mut self, bytes: usize) -> Option<Piece> {
        self.owed += bytes;
        if self.owed < CREDIT_BYTES || self.has_closed {
            return None;
        }
        self.window += self.owed;
        let credit = u32::try_from(std::mem::take(&mut self.owed)).expect("no more than a window");
        Some(Piece::Credit(credit))
    }
}

impl State {
    fn ends(&mut self, number: u32) -> Option<&mut Ends> {
        self.channels.as_mut()?.get_mut(&number)
    }

    /// Queues a piece; whoever writes is to be woken.
    fn put(&mut self, number: u32, piece: &Piece) -> Option<Waker> {
        put(&mut self.out, number, piece);
        self.writer.take()
    }

    /// Forgets a channel that both sides have ended.
    fn tidy(&mut self, number: u32) {
        let is_over = |ends: &mut Ends| ends.has_closed && ends.is_closed && ends.is_dropped;
        if self.ends(number).is_some_and(is_over)
            && let Some(open) = &mut self.channels
        {
            open.remove(&number);
        }
    }
}

/// Wakes whoever there is, once no lock is held.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Begins a stream; it ends when nobody uses it. Without a place for channels that the other side opens it may open none.
fn start(stream: impl ByteStream, opened: Option<mpsc::Sender<Channel>>) -> Arc<User> {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            channels: Some(HashMap::new()),
            out: BytesMut::new(),
            writer: None,
            blocked: Vec::new(),
            is_used: true,
        }),
        task: Mutex::default(),
    });
    let user = Arc::new(User(shared.clone()));
    // An acceptor lives as long as the other side.
    let incoming = opened.map(|opened| (opened, user.clone()));
    let (reader, writer) = tokio::io::split(stream);
    let running = shared.clone();
    let task = tokio::spawn(async move {
        let ended = tokio::select! {
            ended = read(&running, reader, incoming) => ended,
            ended = write(&running, writer) => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a stream of channels broke off");
        }
        // All channels end, and nothing is opened any more.
        running.end();
    });
    *shared.task.lock() = Some(task);
    user
}

/// Writes pieces, whole ones, until the stream has ended.
async fn write(shared: &Shared, mut writer: WriteHalf<impl ByteStream>) -> io::Result<()> {
    let mut out = BytesMut::new();
    while std::future::poll_fn(|cx| shared.poll_waiting(cx)).await {
        // Others that are about to say something go with it.
        tokio::task::yield_now().await;
        shared.take_waiting(&mut out);
        writer.write_all_buf(&mut out).await?;
        writer.flush().await?;
        if out.capacity() > KEPT_BYTES {
            out = BytesMut::new();
        }
    }
    Ok(())
}

async fn read(
    shared: &Arc<Shared>,
    mut reader: ReadHalf<impl ByteStream>,
    incoming: Option<(mpsc::Sender<Channel>, Arc<User>)>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some((number, piece)) = take(&mut buffer)? {
            if piece != Piece::Open {
                shared.take(number, piece)?;
                continue;
            }
            let (opened, user) = incoming.as_ref().ok_or(MuxError::Open(number))?;
            let near = shared.begin(number, user)?;
            if opened.send(Box::new(near)).await.is_err() {
                return Ok(());
            }
        }
        buffer.reserve(HEAD_BYTES + DATA_BYTES_MAX);
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Shared {
    /// Ends the stream and all its channels.
    fn end(&self) {
        let mut state = self.state.lock();
        let ended = state.channels.take().unwrap_or_default();
        drop(state);
        let waiting = ended.into_values().flat_map(|ends| [ends.reader, ends.writer]);
        waiting.flatten().for_each(Waker::wake);
        self.wake_writer();
    }

    fn wake_writer(&self) {
        let writer = self.state.lock().writer.take();
        wake(writer);
    }

    /// Ready when something waits to be written, and with `false` when nothing will any more.
    fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.channels.is_none() {
            return Poll::Ready(false);
        }
        if !state.out.is_empty() {
            return Poll::Ready(true);
        }
        if !state.is_used {
            return Poll::Ready(false);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Exchanges what waits for an empty buffer. Who waited longest for room is woken first.
    fn take_waiting(&self, out: &mut BytesMut) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.out, out);
        let blocked = std::mem::take(&mut state.blocked);
        let unblock = |number| {
            let ends = state.ends(number)?;
            ends.is_blocked = false;
            ends.writer.take()
        };
        let blocked: Vec<Waker> = blocked.into_iter().filter_map(unblock).collect();
        drop(state);
        blocked.into_iter().for_each(Waker::wake);
    }

    /// Queues a piece that is no data.
    fn say(&self, number: u32, piece: &Piece) {
        let writer = self.state.lock().put(number, piece);
        wake(writer);
    }

    /// Makes a channel.
    fn begin(self: &Arc<Self>, number: u32, user: &Arc<User>) -> io::Result<MuxChannel> {
        let mut state = self.state.lock();
        let Some(open) = state.channels.as_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if open.len() >= CHANNELS_MAX || open.contains_key(&number) {
            return Err(MuxError::Open(number).into());
        }
        open.insert(number, Ends::new());
        Ok(MuxChannel {
            shared: self.clone(),
            number,
            _user: user.clone(),
        })
    }

    fn take(&self, number: u32, piece: Piece) -> Result<(), MuxError> {
        let mut state = self.state.lock();
        // What is on its way to a channel that has just ended is nobody's.
        let Some(ends) = state.ends(number) else {
            return Ok(());
        };
        let mut credit = None;
        let woken = match piece {
            Piece::Data(data) => {
                ends.window = ends
                    .window
                    .checked_sub(data.len())
                    .filter(|_| !ends.has_closed)
                    .ok_or(MuxError::Window(number))?;
                // If nobody reads, what comes is dropped, but the other side is not held up.
                match ends.is_dropped {
                    true => credit = ends.has_read(data.len()),
                    false => ends.inbox.extend_from_slice(&data),
                }
                ends.reader.take()
            }
            Piece::Credit(bytes) => {
                ends.credit += bytes as usize;
                if ends.credit > WINDOW {
                    return Err(MuxError::Window(number));
                }
                ends.writer.take()
            }
            Piece::Open | Piece::Close => {
                ends.has_closed = true;
                ends.reader.take()
            }
        };
        let writer = credit.and_then(|credit| state.put(number, &credit));
        state.tidy(number);
        let is_unread = state.out.len() > OUT_LIMIT_BYTES;
        drop(state);
        wake(woken);
        wake(writer);
        match is_unread {
            true => Err(MuxError::Unread),
            false => Ok(()),
        }
    }
}

/// One side's end of a channel.
struct MuxChannel {
    shared: Arc<Shared>,
    number: u32,
    _user: Arc<User>,
}

impl AsyncRead for MuxChannel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        // Nothing more comes when the stream has ended.
        let Some(ends) = state.ends(self.number) else {
            return Poll::Ready(Ok(()));
        };
        let length = ends.inbox.len().min(buffer.remaining());
        if length == 0 {
            if ends.has_closed || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ends.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buffer.put_slice(&ends.inbox[..length]);
        ends.inbox.advance(length);
        if ends.inbox.is_empty() && ends.inbox.capacity() > KEPT_BYTES {
            ends.inbox = BytesMut::new();
        }
        let credit = ends.has_read(length);
        let writer = credit.and_then(|credit| state.put(self.number, &credit));
        drop(state);
        wake(writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxChannel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.state.lock();
        let beside = if data.len() > SMALL_BYTES { 0 } else { OUT_SMALL_BYTES };
        let is_full = state.out.len() >= OUT_BYTES_MAX + beside;
        let Some(ends) = state.ends(self.number).filter(|ends| !ends.is_closed) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let length = data.len().min(ends.credit).min(DATA_BYTES_MAX);
        if length == 0 || is_full {
            ends.writer = Some(cx.waker().clone());
            if is_full && !std::mem::replace(&mut ends.is_blocked, true) {
                state.blocked.push(self.number);
            }
            return Poll::Pending;
        }
        ends.credit -= length;
        put_raw(&mut state.out, self.number, DATA, &data[..length]);
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(false);
        Poll::Ready(Ok(()))
    }
}

impl MuxChannel {
    /// Says that nothing more goes, once; and that nobody reads, if so.
    fn close(&self, is_dropped: bool) {
        let mut state = self.shared.state.lock();
        let Some(ends) = state.ends(self.number) else { return };
        let is_new = !std::mem::replace(&mut ends.is_closed, true);
        let mut credit = None;
        if is_dropped {
            ends.is_dropped = true;
            let unread = std::mem::take(&mut ends.inbox);
            credit = ends.has_read(unread.len());
        }
        let mut writer = credit.and_then(|credit| state.put(self.number, &credit));
        if is_new {
            writer = state.put(self.number, &Piece::Close).or(writer);
        }
        state.tidy(self.number);
        drop(state);
        wake(writer);
    }
}

impl Drop for MuxChannel {
    fn drop(&mut self) {
        self.close(true);
    }
}

#[cfg(test)]
mod tests;
