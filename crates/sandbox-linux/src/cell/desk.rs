//! A desk: where an agent on this machine is handed folders that the node's spawner keeps, for the cells of its own.
//!
//! ```text
//!   node: Spawner::lend ─ a mount that is attached nowhere ─▶ Desk ─ socket ─▶ attend ─▶ the agent's spawner ─ reply ─▶ node
//! ```
//! What the agent's spawner has of a folder goes with it, or when it is taken back.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use super::channel::Channel;
use super::wire::{self, Reply, Request, Text};
use super::{CellError, Spawner, failed, refusal};

/// Callers that wait at a desk.
const BACKLOG: i32 = 16;
/// How long one who came may take to say what for.
const WORD_MAX: Duration = Duration::from_secs(5);
/// The longest message at a desk.
const WORD_BYTES_MAX: usize = 4096;

/// The node's way to an agent's desk.
#[derive(Clone, Debug)]
pub struct Desk(pub PathBuf);

impl Desk {
    /// Hands a folder over that [`Spawner::lend`] gave.
    ///
    /// # Errors
    /// If nobody is there, or the agent's spawner cannot attach it.
    pub async fn hand_over(&self, share: &str, tree: OwnedFd) -> Result<(), CellError> {
        let name = Text(share.into());
        self.ask(&Request::Borrow { name }, &[tree.as_fd()]).await
    }

    /// Takes a folder back; cells that have it keep it until they are gone.
    ///
    /// # Errors
    /// If nobody is there, or it cannot be unmounted.
    pub async fn take_back(&self, share: &str) -> Result<(), CellError> {
        let name = Text(share.into());
        self.ask(&Request::Unshare { name }, &[]).await
    }

    async fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), CellError> {
        let asked = || {
            let socket = socket()?;
            connect(&socket, &SocketAddrUnix::new(self.0.as_path())?)?;
            wire::send(&socket, request, descriptors)?;
            Channel::new(socket)
        };
        let channel = asked().map_err(failed("reach the agent's desk"))?;
        match channel.next().await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(refusal(other)),
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Opens a desk at a path.
///
/// # Errors
/// If the path is taken by something else, or too long.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    // One that an agent before this one left.
    let _ = fs::remove_file(path);
    let desk = socket()?;
    bind(&desk, &SocketAddrUnix::new(path)?)?;
    listen(&desk, BACKLOG)?;
    Ok(desk)
}

/// Attends a desk by a thread of its own for as long as the process lives: what comes is for the spawner, which answers
/// itself.
///
/// # Errors
/// If there can be no thread.
pub fn attend(desk: OwnedFd, spawner: Spawner) -> io::Result<()> {
    let attending = move || {
        while let Ok(caller) = accept_with(&desk, SocketFlags::CLOEXEC) {
            if let Err(error) = pass_on(caller, &spawner) {
                tracing::warn!(%error, "a folder that was to be handed over is not taken");
            }
        }
    };
    std::thread::Builder::new().name("desk".to_owned()).spawn(attending)?;
    Ok(())
}

fn pass_on(caller: OwnedFd, spawner: &Spawner) -> io::Result<()> {
    set_socket_timeout(&caller, Timeout::Recv, Some(WORD_MAX))?;
    let Some((request, descriptors)) = wire::receive(&caller, &mut [0; WORD_BYTES_MAX], RecvFlags::empty())? else {
        return Ok(());
    };
    match request {
        Request::Borrow { .. } | Request::Unshare { .. } => {
            let with_reply = std::iter::once(caller).chain(descriptors).collect();
            spawner.link.send(&request, with_reply)
        }
        _ => Err(io::Error::other("nothing else is asked at a desk")),
    }
}
