//! The folder that an image is unpacked into, changed only from the inside.
//!
//! Folders are opened by `openat2` with `RESOLVE_IN_ROOT`: the kernel takes the folder for `/`, whatever links lie
//! on the way. What is then made or removed is a last name in an opened folder, and never followed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, chmodat, fchmod, fstat, futimens,
    linkat, mkdirat, openat, openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::ImageError;
use crate::image::Layer;

/// How deep folders may lie, links resolved: removing them takes a descriptor for each.
const DEPTH_MAX: usize = 256;
const LINK_BYTES_MAX: usize = 4095;
const COPY_BYTES: usize = 256 * 1024;

/// Why an entry is not laid out.
#[derive(Debug)]
pub(super) enum Refused {
    /// What is wrong with it.
    Entry(&'static str),
    /// There are too many.
    TooMany {
        max: u64,
    },
    /// The archive breaks off in it.
    Content(io::Error),
    Disk(io::Error),
}

impl Refused {
    pub fn of(self, layer: &Layer, path: &[u8]) -> ImageError {
        match self {
            Self::Entry(reason) => ImageError::Entry {
                layer: layer.digest,
                path: String::from_utf8_lossy(path).chars().take(200).collect(),
                reason,
            },
            Self::TooMany { max } => too_many(max),
            Self::Content(source) => ImageError::Layer {
                layer: layer.digest,
                source,
            },
            Self::Disk(error) => ImageError::Io(error),
        }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NAMETOOLONG => Self::Entry("has a name that is too long"),
            Errno::LOOP => Self::Entry("lies behind links that lead in a circle"),
            Errno::NOTDIR => Self::Entry("lies below something that is no folder"),
            Errno::MLINK => Self::Entry("has too many links to it"),
            other => Self::Disk(other.into()),
        }
    }
}

pub(super) struct Root {
    folder: OwnedFd,
    /// How deep the folder itself lies.
    depth: usize,
    /// The folder of the last entry: the next one often lies there too.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Inodes that the layer at hand has made or named.
    of_layer: HashSet<u64>,
    entries: u64,
    entries_max: u64,
}

/// A folder's path, and a name in it.
type Split<'a> = (Vec<u8>, &'a [u8]);

/// A path as its folder and its last name, nothing for the root itself. Never climbs.
pub(super) fn split(path: &[u8]) -> Result<Option<Split<'_>>, Refused> {
    if path.contains(&0) {
        return Err(Refused::Entry("has a zero byte in its name"));
    }
    let mut parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(Refused::Entry("would lie outside the image"));
    }
    let Some(name) = parts.pop() else { return Ok(None) };
    Ok(Some((parts.join(&b'/'), name)))
}

impl Root {
    /// Makes the folder, for at most so many entries.
    pub fn make(path: &Path, entries_max: u64) -> io::Result<Self> {
        mkdirat(CWD, path, Mode::from(0o755))?;
        chmodat(CWD, path, Mode::from(0o755), AtFlags::empty())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            depth: depth_of(&folder)?,
            folder,
            last: None,
            of_layer: HashSet::new(),
            entries: 0,
            entries_max,
        })
    }

    /// How many entries have been counted.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Counts an entry of an archive, or a folder that one implies.
    pub fn count(&mut self) -> Result<(), Refused> {
        if self.entries == self.entries_max {
            return Err(Refused::TooMany { max: self.entries_max });
        }
        self.entries += 1;
        Ok(())
    }

    /// From here on another layer is laid.
    pub fn begin_layer(&mut self) {
        self.of_layer.clear();
    }

    /// Opens a folder for what is to lie in it; makes it and those above where they are missing.
    fn open(&mut self, path: &[u8]) -> Result<OwnedFd, Refused> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return folder.try_clone().map_err(Refused::Disk);
        }
        let folder = match self.resolve(path) {
            Err(Errno::NOENT) => self.open_or_make(path)?,
            found => found?,
        };
        self.last = Some((path.to_vec(), folder.try_clone().map_err(Refused::Disk)?));
        Ok(folder)
    }

    fn open_or_make(&mut self, path: &[u8]) -> Result<OwnedFd, Refused> {
        let mut above = self.resolve(b"")?;
        for (end, name) in names(path) {
            above = match self.resolve(&path[..end]) {
                Err(Errno::NOENT) => {
                    self.count()?;
                    self.make_folder(&above, name, 0o755)?;
                    self.resolve(&path[..end])?
                }
                found => found?,
            };
        }
        Ok(above)
    }

    fn resolve(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.folder, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
                // A rename somewhere on the machine, while a `..` of a link was resolved.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn make_folder(&mut self, above: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Refused> {
        if depth_of(above)? >= self.depth + DEPTH_MAX {
            return Err(Refused::Entry("lies too deep"));
        }
        let name = OsStr::from_bytes(name);
        match mkdirat(above, name, Mode::from(0o755)) {
            // A link that leads nowhere is in the way.
            Err(Errno::EXIST) => return Err(Refused::Entry("lies below a link that leads nowhere")),
            made => made?,
        }
        self.set_mode(above, name, mode)?;
        self.note(above, name)
    }

    /// Whatever the image says, this user may go on in its folders, and remove them.
    fn set_mode(&self, above: &OwnedFd, name: &OsStr, mode: u32) -> Result<(), Refused> {
        Ok(chmodat(above, name, Mode::from(mode | 0o700), AtFlags::empty())?)
    }

    fn note(&mut self, above: &OwnedFd, name: &OsStr) -> Result<(), Refused> {
        let found = statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.of_layer.insert(found.st_ino);
        Ok(())
    }

    /// A folder; one that is there keeps what lies in it.
    pub fn folder(&mut self, folder: &[u8], name: &[u8], mode: u32) -> Result<(), Refused> {
        let above = self.open(folder)?;
        let last = OsStr::from_bytes(name);
        match kind_of(&above, last)? {
            Some(FileType::Directory) => {
                self.set_mode(&above, last, mode)?;
                self.note(&above, last)
            }
            _ => {
                self.remove(&above, name)?;
                self.make_folder(&above, name, mode)
            }
        }
    }

    pub fn file(
        &mut self,
        folder: &[u8],
        name: &[u8],
        (mode, time): (u32, i64),
        content: &mut impl Read,
    ) -> Result<(), Refused> {
        let above = self.open(folder)?;
        self.remove(&above, name)?;
        // A new file: what is written never reaches one that another name leads to as well.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&above, OsStr::from_bytes(name), flags, Mode::from(0o600))?);
        copy(content, &mut file)?;
        fchmod(&file, Mode::from((mode & 0o777) | 0o400))?;
        let time = Timespec {
            tv_sec: time,
            tv_nsec: 0,
        };
        futimens(
            &file,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )?;
        self.of_layer.insert(fstat(&file)?.st_ino);
        Ok(())
    }

    /// A link to anything: it is a guest who follows it, in a root of its own.
    pub fn symbolic_link(&mut self, folder: &[u8], name: &[u8], target: &[u8]) -> Result<(), Refused> {
        if target.len() > LINK_BYTES_MAX || target.contains(&0) {
            return Err(Refused::Entry("links to what is no path"));
        }
        let above = self.open(folder)?;
        self.remove(&above, name)?;
        let last = OsStr::from_bytes(name);
        symlinkat(OsStr::from_bytes(target), &above, last)?;
        self.note(&above, last)
    }

    /// Another name of a file that is there.
    pub fn hard_link(&mut self, folder: &[u8], name: &[u8], target: &[u8]) -> Result<(), Refused> {
        const NOWHERE: Refused = Refused::Entry("links to a file that is not there");
        let (target_folder, target) = split(target)?.ok_or(NOWHERE)?;
        let from = match self.resolve(&target_folder) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(NOWHERE),
            found => found?,
        };
        let target = OsStr::from_bytes(target);
        let above = self.open(folder)?;
        let last = OsStr::from_bytes(name);
        match kind_of(&from, target)? {
            None => return Err(NOWHERE),
            Some(FileType::Directory) => return Err(Refused::Entry("is a second name of a folder")),
            Some(_) if is_same(&from, target, &above, last)? => return Ok(()),
            Some(_) => {}
        }
        self.remove(&above, name)?;
        linkat(&from, target, &above, last, AtFlags::empty())?;
        self.note(&above, last)
    }

    /// Removes what a lower layer has.
    pub fn white_out(&mut self, folder: &[u8], name: &[u8]) -> Result<(), Refused> {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Refused::Entry("removes what has no name"));
        }
        match self.resolve(folder) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            found => self.remove(&found?, name),
        }
    }

    /// Removes from a folder all that lower layers have in it.
    pub fn make_opaque(&mut self, folder: &[u8]) -> Result<(), Refused> {
        match self.resolve(folder) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            found => {
                self.last = None;
                prune(&found?, ".", &self.of_layer)?;
                Ok(())
            }
        }
    }

    /// An empty folder at the top, whatever was there.
    pub fn empty_folder(&mut self, name: &str) -> Result<(), ImageError> {
        let made = self.resolve(b"").map_err(Refused::from).and_then(|top| {
            self.remove(&top, name.as_bytes())?;
            self.make_folder(&top, name.as_bytes(), 0o755)
        });
        made.map_err(fitting)
    }

    /// A file with this content, whatever was there.
    pub fn fixed_file(&mut self, path: &str, text: &str) -> Result<(), ImageError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut text = text.as_bytes();
        let made = self.file(folder.as_bytes(), name.as_bytes(), (0o644, 0), &mut text);
        made.map_err(fitting)
    }

    fn remove(&mut self, above: &OwnedFd, name: &[u8]) -> Result<(), Refused> {
        let name = OsStr::from_bytes(name);
        let found = kind_of(above, name)?;
        if found.is_some() {
            // It may have been on the way to that folder.
            self.last = None;
        }
        match found {
            None => Ok(()),
            Some(FileType::Directory) => {
                prune(above, name, &HashSet::new())?;
                Ok(unlinkat(above, name, AtFlags::REMOVEDIR)?)
            }
            Some(_) => Ok(unlinkat(above, name, AtFlags::empty())?),
        }
    }
}

fn too_many(max: u64) -> ImageError {
    ImageError::TooMuch {
        what: "the number of its entries",
        max,
    }
}

fn fitting(refused: Refused) -> ImageError {
    match refused {
        Refused::Entry(reason) => ImageError::Malformed {
            what: "root",
            reason: reason.to_owned(),
        },
        Refused::TooMany { max } => too_many(max),
        Refused::Content(error) | Refused::Disk(error) => ImageError::Io(error),
    }
}

/// The names of a path, each with where it ends.
fn names(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    path.split(|byte| *byte == b'/').map(move |name| {
        let end = at + name.len();
        at = end + 1;
        (end, name)
    })
}

/// What lies there itself, if anything does.
fn kind_of(above: &OwnedFd, name: &OsStr) -> Result<Option<FileType>, Refused> {
    match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_same(from: &OwnedFd, target: &OsStr, above: &OwnedFd, name: &OsStr) -> Result<bool, Refused> {
    let there = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        found => found?,
    };
    Ok(statat(from, target, AtFlags::SYMLINK_NOFOLLOW)?.st_ino == there.st_ino)
}

/// Removes all that lies in a folder, but what is to be kept and the folders above that.
fn prune(above: impl AsFd, name: impl rustix::path::Arg, kept: &HashSet<u64>) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(above, name, flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push(entry.file_name().to_owned());
        }
    }
    for name in found {
        let there = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
            if !kept.contains(&there.st_ino) {
                unlinkat(&folder, &name, AtFlags::empty())?;
            }
            continue;
        }
        prune(&folder, &name, kept)?;
        if !kept.contains(&there.st_ino) {
            match unlinkat(&folder, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How many folders lie above an opened one.
fn depth_of(folder: &OwnedFd) -> rustix::io::Result<usize> {
    let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let path = readlinkat(CWD, link, Vec::new())?;
    Ok(path.to_bytes().iter().filter(|byte| **byte == b'/').count())
}

fn copy(content: &mut impl Read, file: &mut File) -> Result<(), Refused> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match content.read(&mut buffer).map_err(Refused::Content)? {
            0 => return Ok(()),
            read => file.write_all(&buffer[..read]).map_err(Refused::Disk)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_only_implied_count_as_entries() {
        let folder = tempfile::tempdir().unwrap();
        let mut root = Root::make(&folder.path().join("root"), 3).unwrap();
        let file = |root: &mut Root, folder: &[u8]| root.file(folder, b"f", (0o644, 0), &mut &b""[..]);
        file(&mut root, b"a/b").unwrap();
        file(&mut root, b"a/c").unwrap();
        assert_eq!(
            root.entries(),
            3,
            "the folders that were there already are not counted again"
        );
        let refused = file(&mut root, b"a/b/d").unwrap_err();
        assert!(matches!(refused, Refused::TooMany { max: 3 }), "{refused:?}");
    }
}
