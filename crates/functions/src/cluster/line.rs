//! A connection between two nodes: frames of a length and a message, in turns.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{Asked, Told};

/// Largest frame: an event or an answer, and what surrounds it.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What follows a head goes out with it up to so many bytes, and in a write of its own beyond.
const TOGETHER_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Line(TcpStream);

impl Line {
    pub fn new(connection: TcpStream) -> Self {
        Self(connection)
    }

    pub async fn ask(&mut self, asked: &Asked) -> io::Result<()> {
        self.write(&asked.head(), asked.payload()).await
    }

    pub async fn tell(&mut self, told: &Told) -> io::Result<()> {
        self.write(&told.head(), told.payload()).await
    }

    /// The next question; nothing if the other side has ended the conversation.
    pub async fn asked(&mut self) -> io::Result<Option<Asked>> {
        let frame = self.read().await?;
        frame.map(Asked::decode).transpose().map_err(invalid)
    }

    /// The next answer, which must come.
    pub async fn told(&mut self) -> io::Result<Told> {
        let frame = self.read().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Told::decode(frame).map_err(invalid)
    }

    /// Whether the other side neither has closed it nor said something that nobody asked for.
    pub fn is_silent(&self) -> bool {
        let read = self.0.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn write(&mut self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(head.len() + payload.len()).map_err(io::Error::other)?;
        let mut first = BytesMut::with_capacity(4 + head.len() + payload.len().min(TOGETHER_BYTES_MAX));
        first.put_u32(length);
        first.put_slice(head);
        let (with_head, after) = payload.split_at(if payload.len() > TOGETHER_BYTES_MAX {
            0
        } else {
            payload.len()
        });
        first.put_slice(with_head);
        self.0.write_all(&first).await?;
        self.0.write_all(after).await
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            outcome => outcome?,
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            let text = format!("a frame of `{length}` bytes, at most `{FRAME_BYTES_MAX}` are taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await?;
        Ok(Some(frame.into()))
    }
}

fn invalid(error: super::wire::InvalidMessage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
