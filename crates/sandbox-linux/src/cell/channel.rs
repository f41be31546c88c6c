//! The node's end of one cell's channel, and the cell's open cgroup files.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::cgroup::weight;
use super::wire::{self, Gauge, Order, Reply};
use super::{CellError, CellUsage};

/// Where the replies of a cell's init and of the spawner arrive.
#[derive(Debug)]
pub struct Channel {
    /// A socket of messages, not of a stream: only ever used through [`UnixStream::async_io`].
    socket: UnixStream,
}

/// Replies are short: the longest has the names of a few files.
const REPLY_BYTES_MAX: usize = 8192;

impl Channel {
    /// Needs a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
        })
    }

    /// The next reply. Loses nothing when cancelled.
    pub async fn next(&self) -> Result<(Reply, Vec<OwnedFd>), CellError> {
        let received = self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await;
        received.ok().flatten().ok_or(CellError::SpawnerGone)
    }

    /// The next reply if there is one; `None` also at the end.
    pub fn try_next(&self) -> Option<(Reply, Vec<OwnedFd>)> {
        receive(&self.socket).ok().flatten()
    }

    /// The next reply; `None` at the end of the channel.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(None);
            }
            match self.socket.try_io(Interest::READABLE, || receive(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received.ok().flatten().map(|(reply, _)| reply)),
            }
        }
    }

    /// Sends an order to the cell's init.
    pub fn order(&self, order: &Order) -> io::Result<()> {
        self.order_with(order, &[])
    }

    /// Sends an order with descriptors.
    pub fn order_with(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(&self.socket, order, descriptors)
    }
}

fn receive(socket: &UnixStream) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
    wire::receive(socket, &mut [0; REPLY_BYTES_MAX], RecvFlags::DONTWAIT)
}

/// The meters and brakes of a cell.
#[derive(Debug, Default)]
pub struct Gauges(Vec<(Gauge, OwnedFd)>);

impl Gauges {
    /// The files that came with their meanings.
    pub fn new(meanings: Vec<Gauge>, files: Vec<OwnedFd>) -> Self {
        Self(meanings.into_iter().zip(files).collect())
    }

    /// What the cell used.
    pub fn usage(&self) -> CellUsage {
        let mut usage = CellUsage::default();
        for (gauge, file) in &self.0 {
            match gauge {
                Gauge::CpuStat => usage.cpu = Duration::from_micros(labelled(file, "usage_usec ")),
                Gauge::CpuNanoseconds => usage.cpu = Duration::from_nanos(labelled(file, "")),
                Gauge::MemoryMax => usage.memory_bytes_max = labelled(file, ""),
                Gauge::MemoryNow => usage.memory_bytes_now = labelled(file, ""),
                Gauge::OutOfMemory | Gauge::Freeze | Gauge::FreezerState | Gauge::CpuShares | Gauge::CpuWeight => {}
            }
        }
        usage
    }

    /// Whether the memory limit killed something.
    pub fn ran_out_of_memory(&self) -> bool {
        let mut files = self.0.iter().filter(|(gauge, _)| *gauge == Gauge::OutOfMemory);
        files.any(|(_, file)| labelled(file, "oom_kill ") > 0)
    }

    /// Freezes or thaws; `None` if no cgroup can.
    pub fn brake(&self, frozen: bool) -> Option<io::Result<()>> {
        self.0.iter().find_map(|(gauge, file)| match gauge {
            Gauge::Freeze => Some(write(file, if frozen { b"1" } else { b"0" })),
            Gauge::FreezerState => Some(write(file, if frozen { b"FROZEN" } else { b"THAWED" })),
            _ => None,
        })
    }

    /// Sets the share of the processors, where 1024 is that of a plain process; nothing happens if no
    /// cgroup can.
    pub fn share(&self, shares: u64) {
        for (gauge, file) in &self.0 {
            let number = match gauge {
                Gauge::CpuShares => shares,
                Gauge::CpuWeight => weight(shares),
                _ => continue,
            };
            if let Err(error) = write(file, number.to_string().as_bytes()) {
                tracing::debug!(%error, "a cell keeps its share of the processors");
            }
        }
    }
}

fn write(file: &OwnedFd, text: &[u8]) -> io::Result<()> {
    Ok(rustix::io::pwrite(file, text, 0).map(|_| ())?)
}

/// The number after `label` at the start of a line; zero if there is none.
fn labelled(file: &OwnedFd, label: &str) -> u64 {
    let mut buffer = [0; 1024];
    let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    let text = str::from_utf8(&buffer[..length]).unwrap_or("");
    let number = |line: &str| line.strip_prefix(label)?.trim().parse().ok();
    text.lines().find_map(number).unwrap_or(0)
}
