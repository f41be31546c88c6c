//! Hosts of one cluster over TCP: each listens, and keeps connections to those it asks.
//!
//! A connection begins with the cluster's secret; then questions and answers take turns, each a frame of a
//! length and a [message](super::wire). Whoever does not know the secret is cut off without a word. A connection
//! that begins with a secret derived from it is about something else, and is handed on as it is.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::digest::Digest;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{Answer, Question};
use super::{Forward, PeerError, PeerHost, Peers, PromiseRequest};
use crate::host::Handle;
use crate::{Position, Stamp};

/// Largest frame: an append's bytes and what surrounds them.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Connections that a host serves at once.
const CONNECTIONS_MAX: usize = 256;
/// Connections that are kept to one host while nobody uses them.
const IDLE_MAX: usize = 8;
/// What a frame begins with.
const LENGTH_BYTES: usize = 4;
/// Room for what is read at once: most frames come whole.
const READ_BYTES_MIN: usize = 4 * 1024;
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a new connection may take to tell the secret.
const GREETING_MAX: Duration = Duration::from_secs(5);

/// What the hosts of a cluster know and nobody else.
#[derive(Clone)]
pub struct Secret([u8; Self::BYTES]);

impl Secret {
    pub const BYTES: usize = 32;

    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret of another protocol between the same hosts; who knows this one knows that, but not the other
    /// way round.
    pub fn derived(&self, purpose: &str) -> Self {
        Self(*Digest::of(&[&self.0[..], purpose.as_bytes()].concat()).as_bytes())
    }

    /// Compares digests, so that the time it takes tells nothing of the secret.
    fn is(&self, told: &[u8]) -> bool {
        Digest::of(told) == Digest::of(&self.0)
    }
}

/// Whoever takes the connections of another protocol.
#[derive(Clone)]
pub struct Others {
    /// What these connections begin with.
    pub secret: Secret,
    pub connections: mpsc::Sender<TcpStream>,
}

/// Connects to a host and tells the secret.
///
/// # Errors
/// If the host cannot be reached within a second.
pub async fn connect(address: &str, secret: &Secret) -> io::Result<TcpStream> {
    let mut connection = timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
    connection.set_nodelay(true)?;
    connection.write_all(&secret.0).await?;
    Ok(connection)
}

/// The way to other hosts over TCP.
pub struct TcpPeers {
    secret: Secret,
    idle: Mutex<HashMap<String, Vec<Frames>>>,
}

impl TcpPeers {
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            idle: Mutex::default(),
        }
    }

    async fn ask(&self, to: &PeerHost, question: &Question) -> Result<Answer, PeerError> {
        let unreachable = |error: io::Error| PeerError::Unreachable(error.to_string());
        let mut connection = match self.kept(&to.address) {
            Some(connection) => connection,
            None => Frames::over(connect(&to.address, &self.secret).await.map_err(unreachable)?),
        };
        let asked = async {
            connection.write(&question.encode()).await?;
            connection.read().await
        };
        let answer = asked.await.map_err(|error| PeerError::Unknown(error.to_string()))?;
        let answer = answer.ok_or_else(|| PeerError::Unknown("the connection ended".to_owned()))?;
        let answer = Answer::decode(&answer).map_err(|error| PeerError::Unknown(error.to_string()))?;
        self.keep(&to.address, connection);
        Ok(answer)
    }

    /// A kept connection that the other side has not closed meanwhile.
    fn kept(&self, address: &str) -> Option<Frames> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(address)?;
        while let Some(connection) = kept.pop() {
            // Nothing may be there to read: neither an end nor a belated answer.
            if connection.is_silent() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, address: &str, connection: Frames) {
        let mut idle = self.idle.lock();
        let kept = idle.entry(address.to_owned()).or_default();
        if kept.len() < IDLE_MAX {
            kept.push(connection);
        }
    }
}

#[async_trait]
impl Peers for TcpPeers {
    async fn forward(&self, to: &PeerHost, forward: Forward) -> Result<Vec<Position>, PeerError> {
        match self.ask(to, &Question::Forward(forward)).await? {
            Answer::Stored(positions) => Ok(positions),
            other => Err(failure(other)),
        }
    }

    async fn promise(&self, to: &PeerHost, request: PromiseRequest) -> Result<Stamp, PeerError> {
        match self.ask(to, &Question::Promise(request)).await? {
            Answer::Promised(stamp) => Ok(stamp),
            other => Err(failure(other)),
        }
    }
}

fn failure(answer: Answer) -> PeerError {
    match answer {
        Answer::Refused(reason) => PeerError::Refused(reason),
        Answer::Unknown(reason) => PeerError::Unknown(reason),
        Answer::Stored(_) | Answer::Promised(_) => PeerError::Unknown("it answered something else".to_owned()),
    }
}

/// Answers other hosts on `listener`, and hands on what is for `others`; never returns. Dropping it ends all
/// connections but those that were handed on.
pub async fn serve(listener: TcpListener, secret: Secret, host: Handle, others: Option<Others>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = room.clone().acquire_owned().await.expect("nobody closes it");
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!(%error, "another host cannot connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (secret, host, others) = (secret.clone(), host.clone(), others.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(connection, &secret, &host, others.as_ref()).await {
                tracing::debug!(%error, "a conversation with another host ended");
            }
        });
    }
}

async fn converse(
    mut connection: TcpStream,
    secret: &Secret,
    host: &Handle,
    others: Option<&Others>,
) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut told = [0; Secret::BYTES];
    timeout(GREETING_MAX, connection.read_exact(&mut told)).await??;
    if let Some(others) = others.filter(|others| others.secret.is(&told)) {
        // Without room there it is closed, which tells the other side to go elsewhere.
        let _ = others.connections.try_send(connection);
        return Ok(());
    }
    if !secret.is(&told) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it does not know the secret",
        ));
    }
    let mut connection = Frames::over(connection);
    while let Some(frame) = connection.read().await? {
        let answer = match Question::decode(&frame) {
            Ok(Question::Forward(forward)) => Answer::from(host.accept(forward).await),
            Ok(Question::Promise(request)) => Answer::from(host.promise(request).await),
            Err(error) => Answer::Refused(error.to_string()),
        };
        connection.write(&answer.encode()).await?;
    }
    Ok(())
}

/// A connection of frames; what comes with one read is kept until it is asked for.
struct Frames {
    connection: TcpStream,
    read: BytesMut,
}

impl Frames {
    fn over(connection: TcpStream) -> Self {
        let read = BytesMut::new();
        Self { connection, read }
    }

    /// Whether nothing has come that nobody asked for, and the other side has not ended the conversation.
    fn is_silent(&self) -> bool {
        let silent = self.connection.try_read(&mut [0]);
        self.read.is_empty() && silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn write(&mut self, message: &Bytes) -> io::Result<()> {
        let length = u32::try_from(message.len()).expect("messages are far smaller than 4 GiB");
        let frame = [&length.to_be_bytes()[..], message].concat();
        self.connection.write_all(&frame).await
    }

    /// The next frame; nothing if the other side has ended the conversation.
    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        if !self.fill(LENGTH_BYTES).await? {
            return Ok(None);
        }
        let length = self.read.get_u32() as usize;
        if length > FRAME_BYTES_MAX {
            let text = format!("a frame of `{length}` bytes, at most `{FRAME_BYTES_MAX}` are taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if !self.fill(length).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let frame = self.read.split_to(length).freeze();
        if self.read.is_empty() {
            // What a large frame took is not kept.
            self.read = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Reads until so many bytes are there; says no if the conversation ends before.
    async fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.read.len() < bytes {
            self.read.reserve((bytes - self.read.len()).max(READ_BYTES_MIN));
            if self.connection.read_buf(&mut self.read).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
