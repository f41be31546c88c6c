//! The messages between the node, the spawner and a cell's init, and how they travel.
//!
//! Every message is one `SOCK_SEQPACKET` datagram: JSON of at most [`MESSAGE_BYTES_MAX`] bytes, with at
//! most [`DESCRIPTORS_MAX`] file descriptors beside it. Each cell has a channel of its own, a socket
//! pair with a *node end* and an *init end*. The spawner keeps a copy of both: it speaks to the node
//! through the init end and to the cell's init through the node end.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use bowline_sandbox::{Content, MOUNTS_MAX, Mount, MountAccess, Share};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CellPlan, Command, Furnishing, ReadOnlyBind, Start};

/// The longest message.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Where programs lie that are started with the guest.
pub const COMPANIONS_DIR: &str = "/opt/extensions";
/// The most of them that are reported; what has more is refused.
pub const COMPANIONS_MAX: usize = 11;
/// The most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 2 + MOUNTS_MAX;

/// The node's first message to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The node's private folder, absolute.
    pub state_dir: Text,
}

/// The spawner's only message to the node on their own socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum Welcome {
    /// It is ready.
    Ready,
    /// It cannot work here.
    Failed(Failure),
}

/// From the node to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Makes a cell. Descriptors: node end, init end, output (write end), control (guest's end).
    Create {
        cell: u64,
        binds: Vec<(Text, Text)>,
        image: Option<Text>,
        program: Option<Program>,
    },
    /// Sets the limits and hands the code, the layers and what is shared to the cell's init.
    Furnish {
        cell: u64,
        code: Option<Text>,
        layers: Option<Text>,
        mounts: Vec<MountMessage>,
        limits: Limits,
    },
    /// Begins to keep a folder that cells share. Descriptor: where the reply goes.
    Share(ShareMessage),
    /// Ends it. Descriptor: where the reply goes.
    Unshare { name: Text },
    /// Gives a folder that is kept to another spawner. Descriptor: where the reply goes.
    Lend { name: Text },
    /// Takes one from another spawner, and keeps it as its own. Descriptors: where the reply goes, the mount.
    Borrow { name: Text },
    /// Kills the cell and forgets it.
    Destroy { cell: u64 },
}

/// From the node or the spawner to a cell's init.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Mounts the code and the layers (the descriptors, detached mounts in this order; the layers may be
    /// missing, or both), then what is shared (further descriptors) in these folders of `/mnt`, and resizes `/tmp`.
    Furnish {
        limits: Limits,
        enforce: bool,
        mounts: Vec<Text>,
    },
    /// Executes the program.
    Exec(Program),
    /// Executes a companion of the guest. Descriptor: its output (write end).
    Accompany(Program),
    /// Sends a signal to the process group of the guest, or of a companion.
    Signal { companion: Option<usize>, signal: i32 },
    /// Takes a channel on which sockets of the cell's network are asked for. Descriptor: its init end.
    Lend,
    /// Makes a TCP socket; comes on the lending channel only.
    Socket,
    /// Stops every process, where no cgroup can.
    Stop,
    /// Continues them.
    Continue,
}

/// From the spawner or a cell's init to the node, on the cell's channel.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The init process lives. Descriptors: its pidfd, then one for each gauge.
    Spawned { gauges: Vec<Gauge> },
    /// The namespaces are ready. Descriptor: the listener.
    Ready,
    /// The code is mounted, the limits hold; the programs that lie in [`COMPANIONS_DIR`].
    Furnished { companions: Vec<Text> },
    /// The program was executed.
    Running,
    /// A companion, counted from zero in the order of starting, ended.
    CompanionEnded {
        number: usize,
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// A socket that is not connected yet. Descriptor: the socket. On the lending channel only.
    Socket,
    /// A step failed.
    Failed(Failure),
    /// The guest's main process ended, or the init process did (then the spawner says so).
    Ended { code: Option<i32>, signal: Option<i32> },
    /// The cell was destroyed and nothing is left of it.
    Gone,
    /// What was asked about a share is done.
    Done,
    /// A folder that is kept. Descriptor: a mount of it that is attached nowhere.
    Lent,
}

/// What an open cgroup file tells or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gauge {
    /// `cpu.stat` of cgroup v2.
    CpuStat,
    /// `cpuacct.usage`, nanoseconds.
    CpuNanoseconds,
    /// The peak of memory, bytes.
    MemoryMax,
    /// The memory in use, bytes.
    MemoryNow,
    /// A file with a line `oom_kill N`.
    OutOfMemory,
    /// `cgroup.freeze` of cgroup v2.
    Freeze,
    /// `freezer.state` of cgroup v1.
    FreezerState,
    /// `cpu.shares` of cgroup v1.
    CpuShares,
    /// `cpu.weight` of cgroup v2.
    CpuWeight,
}

/// A [`Share`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShareMessage {
    pub name: Text,
    pub bytes: u64,
    /// Where a volume lies; shared memory has none.
    pub file: Option<Text>,
    /// Whether the file system in the file is empty.
    pub is_new: bool,
}

impl From<&Share> for ShareMessage {
    fn from(share: &Share) -> Self {
        let (file, is_new) = match &share.content {
            Content::Memory => (None, true),
            Content::NewVolume(file) => (Some(file), true),
            Content::Volume(file) => (Some(file), false),
        };
        Self {
            name: Text(share.name.clone().into()),
            bytes: share.bytes,
            file: file.map(|file| file.clone().into()),
            is_new,
        }
    }
}

/// A [`Mount`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountMessage {
    pub share: Text,
    /// The folder's name in `/mnt`.
    pub folder: Text,
    pub is_read_only: bool,
}

impl From<Mount> for MountMessage {
    fn from(mount: Mount) -> Self {
        let folder = std::path::Path::new(&mount.at).file_name().unwrap_or_default();
        Self {
            folder: folder.into(),
            share: Text(mount.share.into()),
            is_read_only: mount.access == MountAccess::Read,
        }
    }
}

/// The part of a [`Furnishing`] that is numbers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    pub tmp_bytes: u64,
    pub memory_bytes: u64,
    /// The quota.
    pub cpu_millis: u32,
    pub share_millis: u32,
    pub pids: u32,
}

impl From<&Furnishing> for Limits {
    fn from(furnishing: &Furnishing) -> Self {
        Self {
            tmp_bytes: furnishing.tmp.bytes(),
            memory_bytes: furnishing.memory.bytes(),
            cpu_millis: furnishing.processors.quota_millis,
            share_millis: furnishing.processors.share_millis,
            pids: furnishing.pids,
        }
    }
}

/// A [`Command`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    pub argv: Vec<Text>,
    /// `NAME=value` each.
    pub env: Vec<Text>,
    pub cwd: Text,
}

impl From<Command> for Program {
    fn from(command: Command) -> Self {
        let variable = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            Text(name)
        };
        Self {
            argv: command.argv.into_iter().map(Text).collect(),
            env: command.env.into_iter().map(variable).collect(),
            cwd: Text(command.cwd.into_os_string()),
        }
    }
}

impl Request {
    /// The request that makes a cell of `plan`.
    pub fn create(cell: u64, plan: CellPlan) -> Self {
        let pair = |bind: ReadOnlyBind| (bind.host.into(), bind.inside.into());
        Self::Create {
            cell,
            binds: plan.binds.into_iter().map(pair).collect(),
            image: plan.image.map(Into::into),
            program: match plan.start {
                Start::Now(command) => Some(command.into()),
                Start::Later => None,
            },
        }
    }
}

/// A step that failed, with the system's error number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub step: String,
    pub errno: i32,
}

/// Names the step that an I/O error happened in.
pub trait Step<T> {
    /// The same, with the error as a [`Failure`] of `step`.
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step: step.to_owned(),
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// A text of the operating system: any bytes. Travels as a JSON string, `=` first if it is UTF-8 and
/// `#` with two hexadecimal digits a byte if not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text(pub OsString);

impl Text {
    /// The text as a path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<PathBuf> for Text {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string())
    }
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        Self(text.to_owned())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.collect_str(&format_args!("={text}")),
            None => {
                let digits: String = self.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                serializer.collect_str(&format_args!("#{digits}"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let malformed = || serde::de::Error::custom("not a text of the operating system");
        if let Some(plain) = text.strip_prefix('=') {
            return Ok(Self(plain.into()));
        }
        let digits = text.strip_prefix('#').ok_or_else(malformed)?;
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
        Ok(Self(OsString::from_vec(bytes.ok_or_else(malformed)?)))
    }
}

/// A connected pair of message sockets, both close-on-exec and blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&pair.0, &pair.1] {
        rustix::net::sockopt::set_socket_send_buffer_size(end, 2 * MESSAGE_BYTES_MAX)?;
    }
    Ok(pair)
}

/// A message as bytes; fails if it is too long.
pub fn encode<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// Sends `bytes` with `descriptors`. With `flags` of `DONTWAIT` it may say `WouldBlock`.
pub fn send_bytes(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Sends one message without waiting for room.
pub fn send<M: Serialize>(socket: impl AsFd, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_bytes(socket, &encode(message)?, descriptors, SendFlags::DONTWAIT)
}

/// Receives one message; `None` at the end of the channel. With `flags` of `DONTWAIT` it may say
/// `WouldBlock`.
pub fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags))?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..received.bytes])?;
    Ok(Some((message, descriptors)))
}
