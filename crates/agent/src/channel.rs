//! Streams of bytes between a node and an agent, and how they are opened.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::folders::FolderWay;

/// What a channel within one process holds in each direction.
const MEMORY_BYTES: usize = 64 * 1024;
/// Such channels that wait to be accepted.
const MEMORY_BACKLOG: usize = 16;

/// Anything that bytes go through both ways, in order and without loss.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// One stream between a node and an agent.
pub type Channel = Box<dyn ByteStream>;

/// The node's way to an agent. May be called concurrently; each call gives a channel of its own.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Opens a channel. Fails if the agent is not there; never waits for it to come.
    async fn dial(&self) -> io::Result<Channel>;

    /// The machine that the agent is alone in, for whoever made it.
    fn machine(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// How sandboxes there come by folders that the node keeps.
    fn folder_way(&self) -> FolderWay {
        FolderWay::Apart
    }

    /// Hands a folder over to the agent, where that is the way.
    async fn hand_over(&self, _share: &str, _tree: OwnedFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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

/// An agent behind a Unix socket.
#[derive(Clone, Debug)]
pub struct UnixDial(pub PathBuf);

#[async_trait]
impl Dial for UnixDial {
    async fn dial(&self) -> io::Result<Channel> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

/// A Unix socket that an agent listens on.
#[derive(Debug)]
pub struct UnixAccept(pub UnixListener);

#[async_trait]
impl Accept for UnixAccept {
    async fn accept(&mut self) -> io::Result<Channel> {
        let (stream, _) = self.0.accept().await?;
        Ok(Box::new(stream))
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
