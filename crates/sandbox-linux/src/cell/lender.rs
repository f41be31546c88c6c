//! Sockets of a cell's network, for the node: it has no other way in.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use tokio::sync::Mutex;

use super::channel::Channel;
use super::wire::{Order, Reply};

/// Lends sockets that the cell's init makes: a socket belongs to the network it was made in, wherever it
/// is used.
#[derive(Debug)]
pub struct Lender {
    channel: Mutex<Channel>,
}

impl Lender {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel: Mutex::new(channel),
        }
    }

    /// A TCP socket that is not connected yet, non-blocking. Waits while the cell is frozen. When
    /// cancelled, the socket that comes late goes to the next who asks: they are all alike.
    ///
    /// # Errors
    /// If the cell is gone.
    pub async fn socket(&self) -> io::Result<TcpStream> {
        let channel = self.channel.lock().await;
        channel.order(&Order::Socket)?;
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        match channel.next().await {
            Ok((Reply::Socket, mut descriptors)) => {
                let socket: OwnedFd = descriptors.pop().ok_or_else(gone)?;
                Ok(TcpStream::from(socket))
            }
            _ => Err(gone()),
        }
    }
}
