//! Requests of a guest's kernel, carried out in one folder and nowhere else.
//!
//! Each file is found anew, beneath the folder and through no link, and held while something is done to it. It is opened for
//! reading and writing through the hold, so that nobody can put another in its place meanwhile, and only if it is a file of
//! bytes: what else somebody has put there is not touched.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{
    self, AtFlags, CWD, Dir, FallocateFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags,
    Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;

use super::answer::{Answer, Listed};
use super::request::{Change, HandleId, Head, NodeId, Range, Request, Time, parse};
use super::tree::{FOLDER, Identity, TOP, Tree};
use super::{DATA, DATA_BYTES_MAX, FuseError};

/// The permissions that a file may get: none of them has a program run with its owner's rights.
const MODE_MAX: u32 = 0o777;
/// How whatever is named is found.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// What holds a file without opening it.
const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// What a guest may say of how a file is opened.
const OPEN_FLAGS: OFlags = OFlags::ACCMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::EXCL)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC);
/// How it is opened besides: whatever it is, nobody waits for it.
const OPEN_ALSO: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What may be done in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// What one guest may hold of one folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open files and folders.
    pub handles_max: usize,
    /// Files that its kernel knows.
    pub nodes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // As many as a sandbox may have open.
            handles_max: 1024,
            nodes_max: 64 * 1024,
        }
    }
}

/// A folder that a guest has.
pub struct Folder {
    folder: OwnedFd,
    access: Access,
    tree: Mutex<Tree>,
    handles: Mutex<Handles>,
}

/// What is open.
struct Handles {
    open: HashMap<HandleId, Handle>,
    next: u64,
    max: usize,
}

#[derive(Clone)]
struct Handle {
    node: NodeId,
    opened: Opened,
}

#[derive(Clone)]
enum Opened {
    File(Arc<OwnedFd>),
    Folder(Arc<Mutex<Listing>>),
}

/// A folder that is listed.
struct Listing {
    files: Dir,
    /// Where it is; nowhere known after an answer that was full.
    at: Option<i64>,
}

/// A file that is held.
enum Held {
    Place(OwnedFd),
    Open(Arc<OwnedFd>),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Place(held) => held.as_fd(),
            Self::Open(file) => file.as_fd(),
        }
    }
}

impl Folder {
    /// A guest's view of what `folder` is open at, which may be open without any right.
    pub fn new(folder: OwnedFd, access: Access, limits: Limits) -> Self {
        Self {
            folder,
            access,
            tree: Mutex::new(Tree::new(limits.nodes_max)),
            handles: Mutex::new(Handles {
                open: HashMap::new(),
                next: 1,
                max: limits.handles_max,
            }),
        }
    }

    /// Carries a request out; gives what its kernel is told, unless that is nothing. May be called concurrently.
    ///
    /// # Errors
    /// If the bytes are no request. Its kernel is then not told of anything any more.
    pub fn perform(&self, request: &[u8]) -> Result<Option<Vec<u8>>, FuseError> {
        let (head, request) = parse(request)?;
        if let Ok(Request::Forget(forgotten)) = &request {
            let mut tree = self.tree.lock();
            forgotten
                .iter()
                .for_each(|(node, lookups)| tree.forget(*node, *lookups));
            return Ok(None);
        }
        let mut answer = Answer::new();
        let done = request.and_then(|request| match request.is_change() && self.access == Access::Read {
            true => Err(Errno::ROFS),
            false => self.carry_out(head, request, &mut answer),
        });
        Ok(Some(answer.seal(head, done)))
    }

    fn carry_out(&self, head: Head, request: Request<'_>, answer: &mut Answer) -> Result<(), Errno> {
        match request {
            Request::Init { major, readahead_bytes } => match major {
                7.. => answer.put_init(readahead_bytes),
                _ => return Err(Errno::PROTO),
            },
            Request::Lookup { name } => self.look_up(head, name, answer)?,
            Request::Attributes => answer.put_attributes(&self.look_at(head.node)?, head),
            Request::Change(change) => self.change(head, &change, answer)?,
            Request::ReadLink => {
                let target = fs::readlinkat(&self.hold(head.node)?, c"", Vec::new())?;
                answer.put_bytes(target.to_bytes());
            }
            Request::SymLink { name, target } => {
                self.make(head, name, answer, |folder| fs::symlinkat(target, folder, name))?;
            }
            Request::MakeFile { name, mode } => self.make_file(head, (name, mode), answer)?,
            Request::MakeFolder { name, mode } => {
                let mode = permissions(mode);
                self.make(head, name, answer, |folder| fs::mkdirat(folder, name, mode))?;
            }
            Request::Remove { name } => self.remove(head, name, AtFlags::empty())?,
            Request::RemoveFolder { name } => self.remove(head, name, AtFlags::REMOVEDIR)?,
            Request::Rename {
                name,
                to,
                to_name,
                flags,
            } => self.rename((head.node, name), (to, to_name), flags)?,
            Request::Link { from, name } => {
                let from = self.hold(from)?;
                let link = |folder: &Held| fs::linkat(CWD, through(&from), folder, name, AtFlags::SYMLINK_FOLLOW);
                self.make(head, name, answer, link)?;
            }
            Request::Open { flags } => {
                let file = open(&self.hold(head.node)?, flags)?;
                answer.put_open(self.keep(head.node, Opened::File(Arc::new(file)))?);
            }
            Request::Create { name, flags, mode } => self.create(head, name, (flags, mode), answer)?,
            Request::OpenFolder => self.open_folder(head, answer)?,
            Request::Access { mask } => self.may(head.node, mask)?,
            Request::Space => answer.put_space(&fs::fstatvfs(&self.folder)?),
            Request::Lock => return Err(Errno::NOLCK),
            Request::Destroy => {}
            open => self.use_open(open, answer)?,
        }
        Ok(())
    }

    /// The rest of the requests, of what is open.
    fn use_open(&self, request: Request<'_>, answer: &mut Answer) -> Result<(), Errno> {
        match request {
            Request::Read(range) => self.read(range, answer)?,
            Request::Write { handle, offset, data } => {
                let written = rustix::io::pwrite(self.file(handle)?, data, offset)?;
                answer.put_written(written);
            }
            Request::Release { handle } => drop(self.handles.lock().open.remove(&handle)),
            Request::Sync { handle } => self.sync(handle)?,
            Request::ReadFolder(range) => self.list(range, answer)?,
            Request::Allocate {
                handle,
                offset,
                bytes,
                flags,
            } => self.allocate(handle, (offset, bytes), flags)?,
            _ => return Err(Errno::NOSYS),
        }
        Ok(())
    }

    /// Holds the file of a number, if it is still there, or still open.
    fn hold(&self, id: NodeId) -> Result<Held, Errno> {
        if id == TOP {
            return Err(Errno::ACCESS);
        }
        let found = || {
            let (path, identity) = self.tree.lock().path(id)?;
            let held = fs::openat2(&self.folder, path, HOLD, Mode::empty(), BENEATH)?;
            match identity {
                Some(identity) if Identity::from(&look(&held)?) != identity => Err(Errno::STALE),
                _ => Ok(held),
            }
        };
        found().map(Held::Place).or_else(|error| {
            // It may have no name any more, but be open.
            let handles = self.handles.lock();
            let mut open = handles.open.values().filter(|handle| handle.node == id);
            open.find_map(Handle::file).ok_or(error)
        })
    }

    /// What a file is like. The top is like the folder.
    fn look_at(&self, id: NodeId) -> Result<Statx, Errno> {
        match id {
            TOP => look(&self.folder),
            id => look(&self.hold(id)?),
        }
    }

    fn look_up(&self, head: Head, name: &CStr, answer: &mut Answer) -> Result<(), Errno> {
        if head.node == TOP {
            if name != DATA {
                return Err(Errno::NOENT);
            }
            answer.put_entry(FOLDER, &look(&self.folder)?, head);
            return Ok(());
        }
        let folder = self.hold(head.node)?;
        self.put_found(head, (&folder, name), answer)
    }

    fn put_found(&self, head: Head, (folder, name): (&Held, &CStr), answer: &mut Answer) -> Result<(), Errno> {
        let file = look(&fs::openat2(folder, name, HOLD, Mode::empty(), BENEATH)?)?;
        let node = self.tree.lock().found(head.node, name, Identity::from(&file))?;
        answer.put_entry(node, &file, head);
        Ok(())
    }

    /// Makes something in a folder.
    fn make(
        &self,
        head: Head,
        name: &CStr,
        answer: &mut Answer,
        make: impl FnOnce(&Held) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let folder = self.hold(head.node)?;
        make(&folder)?;
        self.put_found(head, (&folder, name), answer)
    }

    fn make_file(&self, head: Head, (name, mode): (&CStr, u32), answer: &mut Answer) -> Result<(), Errno> {
        if FileType::from_raw_mode(mode) != FileType::RegularFile {
            // Pipes, sockets and devices are the guest's own and not for others.
            return Err(Errno::PERM);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OPEN_ALSO;
        self.make(head, name, answer, |folder| {
            fs::openat2(folder, name, flags, permissions(mode), BENEATH).map(drop)
        })
    }

    fn create(&self, head: Head, name: &CStr, (flags, mode): (OFlags, u32), answer: &mut Answer) -> Result<(), Errno> {
        self.handles.lock().has_room()?;
        let folder = self.hold(head.node)?;
        let flags = flags & OPEN_FLAGS | OFlags::CREATE | OFlags::NOFOLLOW | OPEN_ALSO;
        let opened = fs::openat2(&folder, name, flags, permissions(mode), BENEATH)?;
        let file = look(&opened)?;
        is_of_bytes(&file)?;
        let node = self.tree.lock().found(head.node, name, Identity::from(&file))?;
        let handle = self.keep(node, Opened::File(Arc::new(opened)))?;
        answer.put_entry(node, &file, head);
        answer.put_open(handle);
        Ok(())
    }

    fn open_folder(&self, head: Head, answer: &mut Answer) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = fs::openat2(&self.hold(head.node)?, c".", flags, Mode::empty(), BENEATH)?;
        let listing = Listing {
            files: Dir::new(folder)?,
            at: Some(0),
        };
        let opened = Opened::Folder(Arc::new(Mutex::new(listing)));
        answer.put_open(self.keep(head.node, opened)?);
        Ok(())
    }

    /// Whether the owner may do this with a file.
    fn may(&self, node: NodeId, mask: u32) -> Result<(), Errno> {
        let allowed = u32::from(self.look_at(node)?.stx_mode) >> 6;
        match mask & 7 & !allowed {
            0 => Ok(()),
            _ => Err(Errno::ACCESS),
        }
    }

    fn remove(&self, head: Head, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
        fs::unlinkat(&self.hold(head.node)?, name, flags)?;
        self.tree.lock().gone(head.node, name);
        Ok(())
    }

    fn rename(&self, from: (NodeId, &CStr), to: (NodeId, &CStr), flags: u32) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (one, other) = (self.hold(from.0)?, self.hold(to.0)?);
        fs::renameat_with(&one, from.1, &other, to.1, flags)?;
        self.tree.lock().moved(from, to, flags.contains(RenameFlags::EXCHANGE));
        Ok(())
    }

    fn change(&self, head: Head, change: &Change, answer: &mut Answer) -> Result<(), Errno> {
        // Whoever asks is the owner, and no other can be.
        let is_other = |wanted: Option<u32>, own: u32| wanted.is_some_and(|wanted| wanted != own);
        if is_other(change.user, head.user) || is_other(change.group, head.group) {
            return Err(Errno::PERM);
        }
        let held = match change.handle {
            Some(handle) => self.file(handle)?,
            None => self.hold(head.node)?,
        };
        if let Some(mode) = change.mode {
            fs::chmod(through(&held), permissions(mode))?;
        }
        match change.size {
            Some(bytes) if change.handle.is_some() => fs::ftruncate(&held, bytes)?,
            Some(bytes) => fs::ftruncate(open(&held, OFlags::WRONLY)?, bytes)?,
            None => {}
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(change.accessed)?,
                last_modification: timespec(change.modified)?,
            };
            fs::utimensat(CWD, through(&held), &times, AtFlags::empty())?;
        }
        answer.put_attributes(&look(&held)?, head);
        Ok(())
    }

    fn read(&self, range: Range, answer: &mut Answer) -> Result<(), Errno> {
        if range.bytes > DATA_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        let file = self.file(range.handle)?;
        answer.put_read(range.bytes, |space| rustix::io::pread(&file, space, range.offset))
    }

    fn list(&self, range: Range, answer: &mut Answer) -> Result<(), Errno> {
        let Opened::Folder(listing) = self.handle(range.handle)?.opened else {
            return Err(Errno::NOTDIR);
        };
        let from = i64::try_from(range.offset).map_err(|_| Errno::INVAL)?;
        let mut listing = listing.lock();
        if listing.at != Some(from) {
            listing.files.seek(from)?;
        }
        listing.at = Some(from);
        let bytes_max = range.bytes.min(DATA_BYTES_MAX);
        while let Some(file) = listing.files.read() {
            let file = file?;
            let listed = Listed {
                inode: file.ino(),
                next: file.offset(),
                kind: file.file_type().as_raw_mode() >> 12,
                name: file.file_name().to_bytes(),
            };
            if !answer.put_listed(&listed, bytes_max) {
                listing.at = None;
                break;
            }
            listing.at = Some(listed.next);
        }
        Ok(())
    }

    fn sync(&self, handle: HandleId) -> Result<(), Errno> {
        match self.handle(handle)?.opened {
            Opened::File(file) => fs::fsync(file.as_fd()),
            Opened::Folder(listing) => fs::fsync(listing.lock().files.fd()?),
        }
    }

    fn allocate(&self, handle: HandleId, (offset, bytes): (u64, u64), flags: u32) -> Result<(), Errno> {
        let allowed = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let flags = FallocateFlags::from_bits(flags).filter(|flags| allowed.contains(*flags));
        let flags = flags.ok_or(Errno::OPNOTSUPP)?;
        fs::fallocate(&self.file(handle)?, flags, offset, bytes)
    }

    fn keep(&self, node: NodeId, opened: Opened) -> Result<HandleId, Errno> {
        let mut handles = self.handles.lock();
        handles.has_room()?;
        let id = HandleId(handles.next);
        handles.next += 1;
        handles.open.insert(id, Handle { node, opened });
        Ok(id)
    }

    fn handle(&self, id: HandleId) -> Result<Handle, Errno> {
        self.handles.lock().open.get(&id).cloned().ok_or(Errno::BADF)
    }

    fn file(&self, id: HandleId) -> Result<Held, Errno> {
        self.handle(id)?.file().ok_or(Errno::ISDIR)
    }
}

impl Handle {
    fn file(&self) -> Option<Held> {
        match &self.opened {
            Opened::File(file) => Some(Held::Open(file.clone())),
            Opened::Folder(_) => None,
        }
    }
}

impl Handles {
    fn has_room(&self) -> Result<(), Errno> {
        match self.open.len() < self.max {
            true => Ok(()),
            false => Err(Errno::NFILE),
        }
    }
}

fn look(held: impl AsFd) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    fs::statx(held, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Opens a file that is held.
fn open(held: &Held, flags: OFlags) -> Result<OwnedFd, Errno> {
    is_of_bytes(&look(held)?)?;
    let flags = flags & OPEN_FLAGS & !OFlags::EXCL | OPEN_ALSO;
    fs::open(through(held), flags, Mode::empty())
}

fn is_of_bytes(file: &Statx) -> Result<(), Errno> {
    match FileType::from_raw_mode(file.stx_mode.into()) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::PERM),
    }
}

/// The path of what is held, whatever has become of its name.
fn through(held: &Held) -> String {
    format!("/proc/self/fd/{}", held.as_fd().as_raw_fd())
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & MODE_MAX)
}

fn timespec(time: Option<Time>) -> Result<Timespec, Errno> {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(Time::Now) => (0, UTIME_NOW),
        Some(Time::At { seconds, nanoseconds }) => match nanoseconds {
            // Times before 1970 come as very late ones.
            0..1_000_000_000 => (seconds.cast_signed(), i64::from(nanoseconds)),
            _ => return Err(Errno::INVAL),
        },
    };
    Ok(Timespec { tv_sec, tv_nsec })
}

#[cfg(test)]
mod tests;
