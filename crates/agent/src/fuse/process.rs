//! The process that has one folder for one guest: the node's own program again, with the rights of the folder's owner.
//!
//! Its standard input is the socket by which requests come, its standard output the folder. It ends when the socket does, and
//! when it is killed nothing that was asked of it is done any more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread;

use bytes::BytesMut;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit, umask};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::folder::{Access, Folder, Limits};
use super::{DATA, REQUEST_BYTES_MAX, REQUEST_HEAD_BYTES, length};
use crate::channel::Channel;

/// The argument that tells the node's binary to serve a folder; see [`folder_main`].
pub const FOLDER_ARGUMENT: &str = "__folder";
/// Requests that are carried out at once; the next ones wait in the guest.
const WORKERS: usize = 4;
/// Descriptors that are held beside the guest's open files.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Serves the folder that is standard output to whoever is at the other end of standard input.
pub fn folder_main() -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("a folder of a virtual machine is not served any more: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_main() -> io::Result<()> {
    let access = match std::env::args().nth(2).as_deref() {
        Some("read") => Access::Read,
        Some("write") => Access::Write,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the node alone starts this",
            ));
        }
    };
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let folder = io::stdout().as_fd().try_clone_to_owned()?;
    be_owner_of(&folder)?;
    serve(socket, &Folder::new(folder, access, Limits::default()))
}

/// Gives up all rights but those of the folder's owner. Threads have rights of their own, and there is none yet but this.
fn be_owner_of(folder: &OwnedFd) -> io::Result<()> {
    let owner = fstat(folder)?;
    let (user, group) = (
        rustix::process::Uid::from_raw(owner.st_uid),
        rustix::process::Gid::from_raw(owner.st_gid),
    );
    if geteuid().is_root() {
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    set_no_new_privs(true)?;
    // The guest's kernel has applied its program's own.
    umask(Mode::empty());
    let wanted = Limits::default().handles_max as u64 + DESCRIPTORS_BESIDE;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(wanted, |maximum| wanted.min(maximum)));
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Carries out what comes until the other end is gone, or says what no kernel says.
pub fn serve(socket: UnixStream, folder: &Folder) -> io::Result<()> {
    let line = Line {
        reader: Mutex::new(socket.try_clone()?),
        writer: Mutex::new(socket),
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| line.work(folder))).collect();
        let ended = workers.into_iter().map(|worker| {
            let panicked = |_| Err(io::Error::other("a worker panicked"));
            worker.join().unwrap_or_else(panicked)
        });
        ended.collect()
    })
}

/// The two ends of a socket, each for one worker at a time.
struct Line {
    reader: Mutex<UnixStream>,
    writer: Mutex<UnixStream>,
}

impl Line {
    fn work(&self, folder: &Folder) -> io::Result<()> {
        let worked = self.try_work(folder);
        // Whatever the end is, it is that of the other workers too.
        let _ = self.writer.lock().shutdown(std::net::Shutdown::Both);
        worked
    }

    fn try_work(&self, folder: &Folder) -> io::Result<()> {
        let mut request = Vec::new();
        while read(&mut *self.reader.lock(), &mut request)? {
            if let Some(answer) = folder.perform(&request)? {
                self.writer.lock().write_all(&answer)?;
            }
        }
        Ok(())
    }
}

/// Reads the next request, unless there is none any more.
fn read(reader: &mut impl Read, request: &mut Vec<u8>) -> io::Result<bool> {
    let mut first = [0; 4];
    if reader.read(&mut first[..1])? == 0 {
        return Ok(false);
    }
    reader.read_exact(&mut first[1..])?;
    let bytes = length(first, (REQUEST_HEAD_BYTES, REQUEST_BYTES_MAX))?;
    request.clear();
    request.extend(first);
    request.resize(bytes, 0);
    reader.read_exact(&mut request[first.len()..])?;
    Ok(true)
}

/// A process that serves a folder to a guest, with what goes between the two. It is killed when this is dropped.
pub struct Served {
    child: Child,
    carried: JoinHandle<()>,
}

impl Served {
    /// Has `program` serve the folder in `tree`, as it was lent, to the guest at the other end of `channel`, of which `read`
    /// was read already. Must be called within a runtime.
    ///
    /// # Errors
    /// If the folder is not there, or the program cannot be started.
    pub fn start(
        program: &Path,
        (tree, access): (OwnedFd, Access),
        (channel, read): (Channel, BytesMut),
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(tree, DATA, flags, Mode::empty(), beneath)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(ours)?;
        let child = Command::new(program)
            .arg(FOLDER_ARGUMENT)
            .arg(match access {
                Access::Read => "read",
                Access::Write => "write",
            })
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(File::from(folder)))
            .kill_on_drop(true)
            .spawn()?;
        let carried = tokio::spawn(carry(channel, read, socket));
        Ok(Self { child, carried })
    }

    /// Whether it still serves.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it: when this returns, nothing is done in the folder any more.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Returns once the guest has said its last word about the folder too.
    pub async fn ended(mut self) {
        // It is not cancelled, and does not panic.
        let _ = (&mut self.carried).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.carried.abort();
    }
}

/// Carries bytes both ways, until both sides have ended.
async fn carry(mut channel: Channel, mut read: BytesMut, mut socket: tokio::net::UnixStream) {
    let carrying = async {
        socket.write_all_buf(&mut read).await?;
        copy_bidirectional(&mut channel, &mut socket).await
    };
    if let Err(error) = carrying.await {
        tracing::debug!(%error, "what goes between a guest and its folder broke off");
    }
    drop(socket);
    // The guest ends its side when nothing of the folder is mounted there any more.
    let _ = channel.shutdown().await;
    let mut rest = [0; 1024];
    while let Ok(1..) = channel.read(&mut rest).await {}
}

#[cfg(test)]
mod tests;
