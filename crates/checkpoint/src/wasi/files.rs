//! Descriptors: the three streams, folders, and files that are opened again after a move.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bowline_foundation::digest::{Digest, Hasher};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::state::{DescriptorState, FileState, HostStateError, Kind};
use super::{FILE_BYTES_MAX, Wasi};

/// The longest path of a descriptor.
pub(super) const PATH_BYTES_MAX: usize = 4096;

/// What a descriptor may be used for, as preview 1 numbers it.
pub(super) mod rights {
    pub const FD_READ: u64 = 1 << 1;
    pub const FD_SEEK: u64 = 1 << 2;
    pub const FD_TELL: u64 = 1 << 5;
    pub const FD_WRITE: u64 = 1 << 6;
    pub const PATH_OPEN: u64 = 1 << 13;
    pub const FD_READDIR: u64 = 1 << 14;
    pub const PATH_READLINK: u64 = 1 << 15;
    pub const PATH_FILESTAT_GET: u64 = 1 << 18;
    pub const FD_FILESTAT_GET: u64 = 1 << 21;
    pub const POLL_FD_READWRITE: u64 = 1 << 27;
    /// Of a file that is read.
    pub const FILE: u64 = FD_READ | FD_SEEK | FD_TELL | FD_FILESTAT_GET | POLL_FD_READWRITE;
    /// Of a folder.
    pub const FOLDER: u64 = PATH_OPEN | FD_READDIR | PATH_READLINK | PATH_FILESTAT_GET | FD_FILESTAT_GET;
}

/// A folder of the host that a guest may read.
#[derive(Clone)]
pub struct Folder {
    /// How the guest calls it, `/var/task` say.
    name: String,
    handle: Arc<OwnedFd>,
}

impl Folder {
    /// Opens a folder of the host.
    pub fn open(name: &str, path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            name: name.to_owned(),
            handle: Arc::new(handle),
        })
    }

    /// How the guest calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a path below the folder: nothing that leads out of it is followed.
    pub(super) fn look(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        // What only names a file takes no flags of an open one.
        let own = match flags.contains(OFlags::PATH) {
            true => OFlags::CLOEXEC,
            false => OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
        };
        let flags = flags | own;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&*self.handle, path, flags, Mode::empty(), resolve)
    }
}

/// What a number of a guest's stands for.
pub(super) enum Descriptor {
    Stdin,
    Stdout,
    Stderr,
    Open(Open),
}

/// An open file or folder.
pub(super) struct Open {
    /// Which of the host's folders it lies in.
    pub folder: u32,
    /// Below that folder; empty for the folder itself.
    pub path: String,
    pub rights: u64,
    /// What those opened through it may have.
    pub inheriting: u64,
    pub flags: u16,
    /// Whether the guest was given it and has not opened it itself.
    pub is_given: bool,
    pub body: Body,
}

/// What there is behind an open descriptor.
pub(super) enum Body {
    Folder,
    File {
        file: File,
        offset: u64,
    },
    /// It was open when the guest stopped; where the guest is now it is another one, or none.
    Stale(DescriptorState),
}

impl Descriptor {
    pub(super) const STREAMS: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];

    /// A folder that the host gives.
    pub(super) fn folder(index: usize) -> Self {
        Self::Open(Open {
            folder: u32::try_from(index).expect("a host gives few folders"),
            path: String::new(),
            rights: rights::FOLDER,
            inheriting: rights::FOLDER | rights::FILE,
            flags: 0,
            is_given: true,
            body: Body::Folder,
        })
    }

    /// What stands for it in a checkpoint.
    pub(super) fn save(&mut self, number: u32) -> Result<DescriptorState, HostStateError> {
        let kind = match self {
            Self::Stdin => Kind::Stdin,
            Self::Stdout => Kind::Stdout,
            Self::Stderr => Kind::Stderr,
            Self::Open(open) => return open.save(number),
        };
        Ok(DescriptorState { number, kind })
    }

    /// Opens again what was open. What is not as it was is there, but stale.
    pub(super) fn restore(state: DescriptorState, folders: &[Folder]) -> Self {
        let file = match &state.kind {
            Kind::Stdin => return Self::Stdin,
            Kind::Stdout => return Self::Stdout,
            Kind::Stderr => return Self::Stderr,
            Kind::Open(file) => file.clone(),
        };
        let body = reopen(&file, folders).unwrap_or(Body::Stale(state));
        Self::Open(Open {
            folder: file.folder,
            path: file.path,
            rights: file.rights,
            inheriting: file.inheriting,
            flags: file.flags,
            is_given: file.is_given,
            body,
        })
    }
}

impl Open {
    fn save(&mut self, number: u32) -> Result<DescriptorState, HostStateError> {
        let (is_folder, offset, content) = match &mut self.body {
            // It stays what it was: another host may have the right one.
            Body::Stale(state) => {
                return Ok(DescriptorState {
                    number,
                    ..state.clone()
                });
            }
            Body::Folder => (true, 0, None),
            Body::File { file, offset } => {
                let content = content(file).map_err(|error| HostStateError::File {
                    path: self.path.clone(),
                    reason: error.to_string(),
                })?;
                (false, *offset, Some(content))
            }
        };
        Ok(DescriptorState {
            number,
            kind: Kind::Open(FileState {
                folder: self.folder,
                path: self.path.clone(),
                is_folder,
                is_given: self.is_given,
                offset,
                rights: self.rights,
                inheriting: self.inheriting,
                flags: self.flags,
                content,
            }),
        })
    }
}

/// `None`: it is not what it was.
fn reopen(state: &FileState, folders: &[Folder]) -> Option<Body> {
    let folder = folders.get(state.folder as usize)?;
    if state.is_folder {
        folder.look(&state.path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
        return Some(Body::Folder);
    }
    let file = File::from(folder.look(&state.path, OFlags::RDONLY).ok()?);
    let found = content(&file).ok()?;
    (Some(found) == state.content).then_some(Body::File {
        file,
        offset: state.offset,
    })
}

/// The digest of a file; its own offset is left alone.
fn content(file: &File) -> io::Result<Digest> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.len() > FILE_BYTES_MAX {
        let bytes = meta.len();
        return Err(io::Error::other(format!(
            "it has {bytes} bytes, at most {FILE_BYTES_MAX} can be compared"
        )));
    }
    let mut hash = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(hash.finish());
        }
        hash.update(&buffer[..read]);
        at += read as u64;
        if at > FILE_BYTES_MAX {
            return Err(io::Error::other("it grows while it is read"));
        }
    }
}

/// Joins the path of a folder's descriptor and one that a guest gives.
pub(super) fn join(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.as_bytes().contains(&0) {
        return None;
    }
    let joined = match folder {
        "" => path.to_owned(),
        folder => format!("{folder}/{path}"),
    };
    (joined.len() <= PATH_BYTES_MAX).then_some(joined)
}

impl Wasi {
    /// The open file or folder of a number.
    pub(super) fn open_of(&mut self, number: u32) -> Option<&mut Open> {
        match self.descriptors.get_mut(&number)? {
            Descriptor::Open(open) => Some(open),
            _ => None,
        }
    }
}
