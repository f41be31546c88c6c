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
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::channel::{Accept, ByteStream, Channel, Dial};

/// Bytes that may be on their way in one direction of a channel.
pub const WINDOW: usize = 256 * 1024;
/// The most data of one piece.
pub const DATA_BYTES_MAX: usize = 32 * 1024;
/// Channels that may be open at once.
pub const CHANNELS_MAX: usize = 4096;

const HEAD_BYTES: usize = 9;
/// The channel that a fresh stream begins with.
const FIRST_CHANNEL: u32 = 1;
/// Pieces that wait for the stream.
const PIECES_MAX: usize = 64;
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
        1 => (1..=DATA_BYTES_MAX).contains(&length),
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
        1 => Piece::Data(data),
        2 => Piece::Credit(data.get_u32_le()),
        _ => Piece::Close,
    };
    Ok(Some((channel, piece)))
}

/// Appends a piece.
pub fn put(out: &mut BytesMut, channel: u32, piece: &Piece) {
    let (kind, data): (u8, &[u8]) = match piece {
        Piece::Open => (0, &[]),
        Piece::Data(data) => (1, data),
        Piece::Credit(bytes) => (2, &bytes.to_le_bytes()),
        Piece::Close => (3, &[]),
    };
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
    let (shared, _) = start(stream);
    MuxDial {
        shared,
        next: Arc::new(AtomicU32::new(channel)),
    }
}

impl MuxDial {
    /// Ends this side and all its channels; returns when nothing more is read or written. What was written is whole
    /// pieces. Gives the channel that a next dialer of the same other side begins with.
    pub async fn halt(&self) -> u32 {
        self.shared.channels.lock().take();
        self.shared.halting.notify_one();
        let tasks = self.shared.tasks.lock().take();
        if let Some((reading, writing)) = tasks {
            reading.abort();
            let _ = reading.await;
            let _ = writing.await;
        }
        self.next.load(Ordering::Relaxed)
    }
}

/// The agent's side of a stream.
pub fn acceptor(stream: impl ByteStream) -> MuxAccept {
    MuxAccept {
        opened: start(stream).1,
    }
}

#[async_trait]
impl Dial for MuxDial {
    async fn dial(&self) -> io::Result<Channel> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let near = self.shared.begin(number)?;
        self.shared.send(number, Piece::Open).await?;
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

struct Shared {
    channels: Mutex<Option<HashMap<u32, Ends>>>,
    out: mpsc::Sender<(u32, Piece)>,
    /// Told when nothing more is to be written.
    halting: Notify,
    /// What reads, and what writes.
    tasks: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
}

/// What the reader of the stream needs of a channel.
struct Ends {
    /// Data for the channel; gone once the other side has closed.
    data: Option<Feed>,
    /// What may still come before the other side must wait.
    window: Arc<Semaphore>,
    /// What may still go.
    credit: Arc<Semaphore>,
}

/// What came for a channel and is not yet in it.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    bytes: BytesMut,
    ended: bool,
}

impl Inbox {
    /// What came next, at most a piece of it; `None` after the last.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.bytes.is_empty() {
                    let length = waiting.bytes.len().min(DATA_BYTES_MAX);
                    return Some(waiting.bytes.split_to(length).freeze());
                }
                if waiting.ended {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }
}

/// The stream's end of an [`Inbox`]: nothing more comes when it is dropped.
struct Feed(Arc<Inbox>);

impl Feed {
    fn put(&self, data: &[u8]) {
        self.0.waiting.lock().bytes.extend_from_slice(data);
        self.0.news.notify_one();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.waiting.lock().ended = true;
        self.0.news.notify_one();
    }
}

fn start(stream: impl ByteStream) -> (Arc<Shared>, mpsc::Receiver<Channel>) {
    let (reader, writer) = tokio::io::split(stream);
    let (out, pieces) = mpsc::channel(PIECES_MAX);
    let (opened, channels) = mpsc::channel(BACKLOG);
    let shared = Arc::new(Shared {
        channels: Mutex::new(Some(HashMap::new())),
        out,
        halting: Notify::new(),
        tasks: Mutex::default(),
    });
    let ended = Arc::new(Notify::new());
    let (writes, has_ended) = (shared.clone(), ended.clone());
    let writing = tokio::spawn(async move {
        tokio::select! {
            _ = write(writer, pieces, &writes.halting) => {}
            () = has_ended.notified() => {}
        }
    });
    let reading = shared.clone();
    let reading = tokio::spawn(async move {
        if let Err(error) = read(&reading, reader, opened).await {
            tracing::warn!(%error, "a stream of channels broke off");
        }
        // All channels end, and nothing is opened any more.
        reading.channels.lock().take();
        ended.notify_one();
    });
    *shared.tasks.lock() = Some((reading, writing));
    (shared, channels)
}

/// Writes pieces, one whole one after the other, until it is told to halt.
async fn write(
    mut writer: WriteHalf<impl ByteStream>,
    mut pieces: mpsc::Receiver<(u32, Piece)>,
    halting: &Notify,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    loop {
        let next = tokio::select! {
            biased;
            () = halting.notified() => return Ok(()),
            next = pieces.recv() => next,
        };
        let Some((channel, piece)) = next else { return Ok(()) };
        put(&mut out, channel, &piece);
        while out.len() < DATA_BYTES_MAX
            && let Ok((channel, piece)) = pieces.try_recv()
        {
            put(&mut out, channel, &piece);
        }
        writer.write_all_buf(&mut out).await?;
        writer.flush().await?;
    }
}

async fn read(
    shared: &Arc<Shared>,
    mut reader: ReadHalf<impl ByteStream>,
    opened: mpsc::Sender<Channel>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some((number, piece)) = take(&mut buffer)? {
            if piece == Piece::Open {
                let near = shared.begin(number)?;
                if opened.send(Box::new(near)).await.is_err() {
                    return Ok(());
                }
            } else {
                shared.take(number, piece)?;
            }
        }
        buffer.reserve(HEAD_BYTES + DATA_BYTES_MAX);
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Shared {
    async fn send(&self, number: u32, piece: Piece) -> io::Result<()> {
        let sent = self.out.send((number, piece)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Makes a channel; the near end of it is the caller's.
    fn begin(self: &Arc<Self>, number: u32) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(DATA_BYTES_MAX);
        let (far_reader, far_writer) = tokio::io::split(far);
        let inbox = Arc::new(Inbox::default());
        let (window, credit) = (Arc::new(Semaphore::new(WINDOW)), Arc::new(Semaphore::new(WINDOW)));
        let ends = Ends {
            data: Some(Feed(inbox.clone())),
            window: window.clone(),
            credit: credit.clone(),
        };
        let mut channels = self.channels.lock();
        let Some(open) = channels.as_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if open.len() >= CHANNELS_MAX || open.contains_key(&number) {
            return Err(MuxError::Open(number).into());
        }
        open.insert(number, ends);
        drop(channels);
        let shared = self.clone();
        tokio::spawn(async move {
            let inward = shared.bring_in(number, &inbox, far_writer, window);
            let outward = shared.bring_out(number, far_reader, credit);
            let _ = tokio::join!(inward, outward);
            if let Some(open) = shared.channels.lock().as_mut() {
                open.remove(&number);
            }
        });
        Ok(near)
    }

    fn take(&self, number: u32, piece: Piece) -> Result<(), MuxError> {
        let mut channels = self.channels.lock();
        // What is on its way to a channel that has just ended is nobody's.
        let Some(ends) = channels.as_mut().and_then(|open| open.get_mut(&number)) else {
            return Ok(());
        };
        match piece {
            Piece::Data(data) => {
                let length = u32::try_from(data.len()).expect("a piece is small");
                let room = ends
                    .window
                    .try_acquire_many(length)
                    .map_err(|_| MuxError::Window(number))?;
                room.forget();
                if let Some(feed) = &ends.data {
                    feed.put(&data);
                }
            }
            Piece::Credit(bytes) => {
                let bytes = bytes as usize;
                if bytes > WINDOW || ends.credit.available_permits() + bytes > WINDOW {
                    return Err(MuxError::Window(number));
                }
                ends.credit.add_permits(bytes);
            }
            Piece::Open | Piece::Close => ends.data = None,
        }
        Ok(())
    }

    /// Moves what the other side sent into the channel.
    async fn bring_in(
        &self,
        number: u32,
        inbox: &Inbox,
        mut writer: WriteHalf<DuplexStream>,
        window: Arc<Semaphore>,
    ) -> io::Result<()> {
        while let Some(data) = inbox.next().await {
            // If nobody reads, what comes is dropped, but the other side is not held up.
            let _ = writer.write_all(&data).await;
            window.add_permits(data.len());
            let credit = Piece::Credit(u32::try_from(data.len()).expect("a piece is small"));
            self.send(number, credit).await?;
        }
        writer.shutdown().await
    }

    /// Moves what is written to the channel to the other side.
    async fn bring_out(
        &self,
        number: u32,
        mut reader: ReadHalf<DuplexStream>,
        credit: Arc<Semaphore>,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(DATA_BYTES_MAX);
            let read = (&mut reader).take(DATA_BYTES_MAX as u64).read_buf(&mut buffer).await?;
            if read == 0 {
                return self.send(number, Piece::Close).await;
            }
            let permits = credit
                .acquire_many(u32::try_from(read).expect("a piece is small"))
                .await;
            permits.map_err(|_| io::ErrorKind::BrokenPipe)?.forget();
            self.send(number, Piece::Data(buffer.split_to(read).freeze())).await?;
        }
    }
}

#[cfg(test)]
mod tests;
