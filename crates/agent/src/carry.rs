//! Connections to services that no network leads to: the node's end of one, a channel, and the agent's own to the service.
//!
//! ```text
//!   client ─ TCP ─▶ node ═ Connect, then pieces both ways ═ agent ─ TCP ─▶ service
//!   piece: length: u32, little endian │ so many bytes          (of length 0: nothing more comes this way)
//! ```
//! A channel that ends before that last piece was cut off, and the connection behind it is reset: nobody takes a half of
//! something for the whole. What is kept is one buffer each way and what the channel's window allows, whatever lengths the
//! other side names.

use std::io;
use std::net::SocketAddr;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::link::Link;
use crate::message::Connect;
use crate::mux::DATA_BYTES_MAX;
use crate::wire::{Framed, Kind};

const HEAD_BYTES: usize = 4;
/// A piece with its head is one of the multiplexer's.
const PIECE_BYTES_MAX: usize = DATA_BYTES_MAX - HEAD_BYTES;

impl Link {
    /// Carries a connection to the first of these places, as the agent sees them, that takes it. Returns when both sides
    /// have said all; before that, however it ends, the connection is reset.
    pub async fn carry(&self, stream: TcpStream, to: &[SocketAddr]) -> io::Result<()> {
        make_abrupt(&stream)?;
        let mut framed = self.inner.open().await?;
        let connect = Connect {
            epoch: self.inner.epoch,
            to: to.to_vec(),
        };
        framed.put_json(Kind::Connect, &connect);
        framed.flush().await?;
        between(framed, stream).await
    }
}

/// The agent's end.
pub(crate) async fn serve(framed: Framed, connect: &Connect) -> io::Result<()> {
    let stream = TcpStream::connect(&connect.to[..]).await?;
    make_abrupt(&stream)?;
    between(framed, stream).await
}

/// From now on a connection that is dropped is reset.
fn make_abrupt(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_zero_linger()
}

async fn between(framed: Framed, mut stream: TcpStream) -> io::Result<()> {
    let (read, channel) = framed.into_parts();
    let (from_channel, to_channel) = tokio::io::split(channel);
    let (from_peer, to_peer) = stream.split();
    tokio::try_join!(
        pack(from_peer, to_channel),
        unpack((&read[..]).chain(from_channel), to_peer)
    )?;
    Ok(set_socket_linger(&stream, None)?)
}

/// Writes what comes as pieces, with the last one at its end.
pub async fn pack(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut piece = vec![0; HEAD_BYTES + PIECE_BYTES_MAX];
    loop {
        let length = from.read(&mut piece[HEAD_BYTES..]).await?;
        let head = u32::try_from(length).expect("a piece is small");
        piece[..HEAD_BYTES].copy_from_slice(&head.to_le_bytes());
        to.write_all(&piece[..HEAD_BYTES + length]).await?;
        to.flush().await?;
        if length == 0 {
            return Ok(());
        }
        // One connection after the other: what shares the stream with them has its turn soon.
        tokio::task::yield_now().await;
    }
}

/// Writes what the pieces hold, and ends what it writes to after the last one. An end before that is an error.
pub async fn unpack(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    loop {
        let mut left = from.read_u32_le().await? as usize;
        if left == 0 {
            return to.shutdown().await;
        }
        while left > 0 {
            let most = left.min(buffer.len());
            let read = from.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&buffer[..read]).await?;
            left -= read;
        }
    }
}

#[cfg(test)]
mod tests;
