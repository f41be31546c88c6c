//! The node's connection to the spawner process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::wire::{self, Hello, Request, Welcome};
use super::{SPAWNER_ARGUMENT, SpawnerOptions};

/// A message that waits for room in the socket.
type Packet = (Vec<u8>, Vec<OwnedFd>);

/// The socket and the process behind it.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    backlog: Mutex<Backlog>,
    process: Mutex<Child>,
    next_cell: AtomicU64,
}

#[derive(Debug, Default)]
struct Backlog {
    packets: VecDeque<Packet>,
    /// A thread is sending them.
    draining: bool,
}

impl Link {
    /// Starts the spawner and waits until it is ready.
    pub fn start(options: &SpawnerOptions) -> io::Result<Self> {
        std::fs::create_dir_all(&options.state_dir)?;
        let state_dir = options.state_dir.canonicalize()?;
        let (socket, theirs) = wire::pair()?;
        let program = options
            .program
            .clone()
            .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        // Out of the node's process group: a terminal's interrupt is the node's to handle.
        let process = Command::new(program)
            .arg(SPAWNER_ARGUMENT)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let hello = Hello {
            state_dir: state_dir.into(),
        };
        wire::send(&socket, &hello, &[])?;
        match wire::receive(&socket, &mut vec![0; wire::MESSAGE_BYTES_MAX], RecvFlags::empty())? {
            Some((Welcome::Ready, _)) => {}
            Some((Welcome::Failed(failure), _)) => {
                let source = io::Error::from_raw_os_error(failure.errno);
                return Err(io::Error::new(
                    source.kind(),
                    format!("`{}` failed: {source}", failure.step),
                ));
            }
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
        Ok(Self {
            socket,
            backlog: Mutex::default(),
            process: Mutex::new(process),
            next_cell: AtomicU64::new(1),
        })
    }

    /// A number that no other cell of this spawner has.
    pub fn next_cell(&self) -> u64 {
        self.next_cell.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request; never waits. If the socket is full a thread sends it later, in order. Fails if
    /// the request is too long or the spawner is gone.
    pub fn send(self: &Arc<Self>, request: &Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = wire::encode(request)?;
        let mut backlog = self.backlog.lock();
        if backlog.packets.is_empty() && !backlog.draining {
            match self.transmit(&bytes, &descriptors, SendFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        backlog.packets.push_back((bytes, descriptors));
        if !backlog.draining {
            backlog.draining = true;
            let link = self.clone();
            std::thread::Builder::new()
                .name("cell-requests".to_owned())
                .spawn(move || link.drain())?;
        }
        Ok(())
    }

    fn drain(&self) {
        loop {
            let packet = {
                let mut backlog = self.backlog.lock();
                let packet = backlog.packets.pop_front();
                backlog.draining = packet.is_some();
                packet
            };
            let Some((bytes, descriptors)) = packet else { return };
            // A spawner that is gone shows at the end of every cell's channel.
            let _ = self.transmit(&bytes, &descriptors, SendFlags::empty());
        }
    }

    fn transmit(&self, bytes: &[u8], descriptors: &[OwnedFd], flags: SendFlags) -> io::Result<()> {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        wire::send_bytes(&self.socket, bytes, &borrowed, flags)
    }

    /// Ends the spawner and waits for it; blocks while it kills what lives.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let _ = self.process.lock().wait();
    }
}
