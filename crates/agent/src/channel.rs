//! Streams of bytes between a node and an agent, and how they are opened.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;

use crate::mux::{self, MuxDial};

use crate::folders::{FolderWay, Lent};

/// What a channel within one process holds in each direction.
const MEMORY_BYTES: usize = 64 * 1024;
/// Such channels that wait to be accepted.
const MEMORY_BACKLOG: usize = 16;

/// Anything that bytes go through both ways, in order and without loss.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// One stream between a node and an agent.
pub type Channel = Box<dyn ByteStream>;

/// What an instance uses, as far as its meters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The memory that it has now, without what is given back as soon as anybody needs it.
    pub memory_bytes: Option<u64>,
    /// The processor time that it has had since it began.
    pub cpu: Option<Duration>,
}

/// The node's way to an agent. May be called concurrently; each call gives a channel of its own.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Opens a channel. Fails if the agent is not there; never waits for it to come.
    async fn dial(&self) -> io::Result<Channel>;

    /// The machine that the agent is alone in, for whoever made it.
    fn machine(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Reads the meters of the agent's instance, outside it.
    fn read_meters(&self) -> Reading {
        Reading::default()
    }

    /// How sandboxes there come by folders that the node keeps.
    fn folder_way(&self) -> FolderWay {
        FolderWay::HandedOver
    }

    /// Hands a folder over to the agent, where that is the way.
    async fn hand_over(&self, _share: &str, _tree: OwnedFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Serves the agent a folder by a channel, where that is the way.
    async fn serve(&self, _share: &str, _lent: Lent, _channel: (Channel, BytesMut)) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether what was handed over, or is served, still is.
    fn keeps(&self, _share: &str) -> bool {
        true
    }

    /// Takes it back.
    async fn take_back(&self, _share: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Where an agent is reached.
#[async_trait]
pub trait Accept: Send + 'static {
    /// The next channel that the node opens; an error when there can be none any more.
    async fn accept(&mut self) -> io::Result<Channel>;
}

/// An agent behind a Unix socket. All channels share one connection, so that what many of them say at once takes one
/// system call on either side.
pub struct UnixDial {
    path: PathBuf,
    mux: OnceCell<MuxDial>,
}

impl UnixDial {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            mux: OnceCell::new(),
        }
    }

    /// Channels that either side has not ended yet.
    pub fn open_channels(&self) -> usize {
        self.mux.get().map_or(0, MuxDial::open_channels)
    }
}

#[async_trait]
impl Dial for UnixDial {
    async fn dial(&self) -> io::Result<Channel> {
        let connect = async || Ok::<_, io::Error>(mux::dialer(UnixStream::connect(&self.path).await?));
        self.mux.get_or_try_init(connect).await?.dial().await
    }
}

/// A Unix socket that an agent listens on.
#[derive(Debug)]
pub struct UnixAccept {
    opened: mpsc::Receiver<Channel>,
    listening: JoinHandle<io::Error>,
}

impl UnixAccept {
    pub fn new(listener: UnixListener) -> Self {
        let (sender, opened) = mux::backlog();
        let listening = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => mux::accept_into(stream, sender.clone()),
                    Err(error) => return error,
                }
            }
        });
        Self { opened, listening }
    }
}

impl Drop for UnixAccept {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[async_trait]
impl Accept for UnixAccept {
    async fn accept(&mut self) -> io::Result<Channel> {
        tokio::select! {
            Some(channel) = self.opened.recv() => Ok(channel),
            ended = &mut self.listening => Err(ended.unwrap_or_else(io::Error::other)),
        }
    }
}

/// The way to an agent in the same process.
#[derive(Clone)]
pub struct MemoryDial(mpsc::Sender<Channel>);

/// Where an agent in the same process is reached.
pub struct MemoryAccept(mpsc::Receiver<Channel>);

/// A way to an agent in the same process, and its end.
pub fn memory() -> (MemoryDial, MemoryAccept) {
    let (sender, receiver) = mpsc::channel(MEMORY_BACKLOG);
    (MemoryDial(sender), MemoryAccept(receiver))
}

#[async_trait]
impl Dial for MemoryDial {
    async fn dial(&self) -> io::Result<Channel> {
        let (near, far) = tokio::io::duplex(MEMORY_BYTES);
        let sent = self.0.send(Box::new(far)).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(Box::new(near))
    }

    fn folder_way(&self) -> FolderWay {
        FolderWay::Same
    }
}

#[async_trait]
impl Accept for MemoryAccept {
    async fn accept(&mut self) -> io::Result<Channel> {
        self.0
            .recv()
            .await
            .ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn channels_to_a_socket_share_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let dial = UnixDial::new(path.clone());
        assert!(dial.dial().await.is_err(), "nobody listens yet");
        let listener = UnixListener::bind(&path).unwrap();
        let mut accept = UnixAccept::new(listener);
        let (mut one, mut two) = (dial.dial().await.unwrap(), dial.dial().await.unwrap());
        // Nobody who comes later finds the socket.
        std::fs::remove_file(&path).unwrap();
        assert!(UnixStream::connect(&path).await.is_err(), "the control");
        let mut three = dial.dial().await.unwrap();
        for near in [&mut one, &mut two, &mut three] {
            near.write_all(b"ahoy").await.unwrap();
            let mut far = accept.accept().await.unwrap();
            let mut read = [0; 4];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"ahoy");
        }
    }
}
