//! Descriptors and paths.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno as Os;
use wasmtime::{Caller, Linker, Result};

use super::{Errno, MODULE, VECTORS_MAX, code, errno};
use crate::wasi::files::{Body, Descriptor, Open, PATH_BYTES_MAX, join, rights};
use crate::wasi::view::{Fault, View};
use crate::wasi::{HasWasi, Wasi};

/// The largest part of a file that one buffer of one call is given.
const PIECE_BYTES_MAX: u32 = 1 << 20;
/// File types as preview 1 numbers them.
const TYPE_UNKNOWN: u8 = 0;
const TYPE_FOLDER: u8 = 3;
const TYPE_FILE: u8 = 4;
const TYPE_LINK: u8 = 7;

pub(super) fn define<T: HasWasi>(linker: &mut Linker<T>) -> Result<()> {
    define_files(linker)?;
    define_folders(linker)
}

fn define_files<T: HasWasi>(linker: &mut Linker<T>) -> Result<()> {
    linker.func_wrap(MODULE, "fd_close", |mut caller: Caller<'_, T>, fd: u32| {
        let gone = caller.data_mut().wasi().descriptors.remove(&fd);
        if gone.is_some() { errno::SUCCESS } else { errno::BADF }
    })?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_get",
        |mut caller: Caller<'_, T>, fd: u32, at: u32| with(&mut caller, |view| fdstat(view, fd, at)),
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_rights",
        |mut caller: Caller<'_, T>, fd: u32, base: u64, inheriting: u64| {
            code(set_rights(caller.data_mut().wasi(), fd, (base, inheriting)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_filestat_get",
        |mut caller: Caller<'_, T>, fd: u32, at: u32| with(&mut caller, |view| filestat(view, fd, at)),
    )?;
    linker.func_wrap(
        MODULE,
        "fd_read",
        |mut caller: Caller<'_, T>, fd: u32, list: u32, count: u32, read_at: u32| {
            with(&mut caller, |view| read(view, fd, None, (list, count, read_at)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_pread",
        |mut caller: Caller<'_, T>, fd: u32, list: u32, count: u32, offset: u64, read_at: u32| {
            with(&mut caller, |view| read(view, fd, Some(offset), (list, count, read_at)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, T>, fd: u32, list: u32, count: u32, written_at: u32| {
            with(&mut caller, |view| write(view, fd, (list, count, written_at)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_seek",
        |mut caller: Caller<'_, T>, fd: u32, by: i64, whence: u32, at: u32| {
            with(&mut caller, |view| seek(view, fd, by, (whence, at)))
        },
    )?;
    linker.func_wrap(MODULE, "fd_tell", |mut caller: Caller<'_, T>, fd: u32, at: u32| {
        with(&mut caller, |view| seek(view, fd, 0, (1, at)))
    })?;
    Ok(())
}

fn define_folders<T: HasWasi>(linker: &mut Linker<T>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "fd_prestat_get",
        |mut caller: Caller<'_, T>, fd: u32, at: u32| with(&mut caller, |view| prestat(view, fd, at)),
    )?;
    linker.func_wrap(
        MODULE,
        "fd_prestat_dir_name",
        |mut caller: Caller<'_, T>, fd: u32, at: u32, length: u32| {
            with(&mut caller, |view| prestat_name(view, fd, (at, length)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, T>, from: u32, to: u32| code(renumber(caller.data_mut().wasi(), from, to)),
    )?;
    linker.func_wrap(
        MODULE,
        "fd_readdir",
        |mut caller: Caller<'_, T>, fd: u32, at: u32, length: u32, cookie: u64, used_at: u32| {
            with(&mut caller, |view| read_folder(view, fd, cookie, (at, length, used_at)))
        },
    )?;
    linker.func_wrap(MODULE, "path_open", path_open::<T>)?;
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |mut caller: Caller<'_, T>, fd: u32, flags: u32, path: u32, length: u32, at: u32| {
            with(&mut caller, |view| path_filestat(view, fd, flags, (path, length, at)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_readlink",
        |mut caller: Caller<'_, T>, fd: u32, path: u32, length: u32, at: u32, room: u32, used_at: u32| {
            with(&mut caller, |view| {
                read_link(view, fd, (path, length), (at, room, used_at))
            })
        },
    )?;
    Ok(())
}

fn with<T: HasWasi>(caller: &mut Caller<'_, T>, call: impl FnOnce(&mut View<'_>) -> Result<(), Errno>) -> Result<i32> {
    Ok(code(call(&mut View::of(caller)?)))
}

impl From<Os> for Errno {
    fn from(error: Os) -> Self {
        Self(match error {
            Os::NOENT => errno::NOENT,
            Os::NOTDIR => errno::NOTDIR,
            Os::ISDIR => errno::ISDIR,
            Os::ACCESS => errno::ACCES,
            Os::PERM => errno::PERM,
            Os::LOOP => errno::LOOP,
            Os::NAMETOOLONG => errno::NAMETOOLONG,
            Os::INVAL => errno::INVAL,
            // It leads out of the folder.
            Os::XDEV => errno::NOTCAPABLE,
            _ => errno::IO,
        })
    }
}

impl Wasi {
    /// An open file or folder that is still what it was, with the rights that a call needs.
    fn usable(&mut self, fd: u32, needed: u64) -> Result<&mut Open, Errno> {
        if !self.descriptors.contains_key(&fd) {
            return Err(Errno(errno::BADF));
        }
        let open = self.open_of(fd).ok_or(Errno(errno::NOTSUP))?;
        if matches!(open.body, Body::Stale(_)) {
            return Err(Errno(errno::STALE));
        }
        if open.rights & needed != needed {
            return Err(Errno(errno::NOTCAPABLE));
        }
        Ok(open)
    }

    /// A folder's place among the host's, with a path below it.
    fn place(&mut self, fd: u32, path: &str, needed: u64) -> Result<(usize, String), Errno> {
        let open = self.usable(fd, needed)?;
        if !matches!(open.body, Body::Folder) {
            return Err(Errno(errno::NOTDIR));
        }
        let joined = join(&open.path, path).ok_or(Errno(errno::NOTCAPABLE))?;
        Ok((open.folder as usize, joined))
    }
}

fn path_of(view: &mut View<'_>, at: u32, length: u32) -> Result<String, Errno> {
    if length as usize > PATH_BYTES_MAX {
        return Err(Errno(errno::NAMETOOLONG));
    }
    let bytes = view.range(at, length)?;
    let path = std::str::from_utf8(bytes).map_err(|_| Errno(errno::INVAL))?;
    Ok(path.to_owned())
}

fn fdstat(view: &mut View<'_>, fd: u32, at: u32) -> Result<(), Errno> {
    let stream = |right: u64| (TYPE_UNKNOWN, 0, right | rights::POLL_FD_READWRITE, 0);
    let (kind, flags, base, inheriting) = match view.wasi.descriptors.get(&fd) {
        None => return Err(Errno(errno::BADF)),
        // File type `unknown`, so that the guest's library takes the stream for no terminal and buffers it.
        Some(Descriptor::Stdin) => stream(rights::FD_READ),
        Some(Descriptor::Stdout | Descriptor::Stderr) => stream(rights::FD_WRITE),
        Some(Descriptor::Open(open)) => match open.body {
            Body::Folder => (TYPE_FOLDER, open.flags, open.rights, open.inheriting),
            Body::File { .. } => (TYPE_FILE, open.flags, open.rights, open.inheriting),
            Body::Stale(_) => return Err(Errno(errno::STALE)),
        },
    };
    let mut stat = [0_u8; 24];
    stat[0] = kind;
    stat[2..4].copy_from_slice(&flags.to_le_bytes());
    stat[8..16].copy_from_slice(&base.to_le_bytes());
    stat[16..].copy_from_slice(&inheriting.to_le_bytes());
    Ok(view.put(at, &stat)?)
}

/// Rights can be given up, never got.
fn set_rights(wasi: &mut Wasi, fd: u32, (base, inheriting): (u64, u64)) -> Result<(), Errno> {
    let open = wasi.usable(fd, 0)?;
    if base & !open.rights != 0 || inheriting & !open.inheriting != 0 {
        return Err(Errno(errno::NOTCAPABLE));
    }
    (open.rights, open.inheriting) = (base, inheriting);
    Ok(())
}

fn filestat(view: &mut View<'_>, fd: u32, at: u32) -> Result<(), Errno> {
    if matches!(
        view.wasi.descriptors.get(&fd),
        Some(Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr)
    ) {
        return Ok(view.put(at, &[0; 64])?);
    }
    let open = view.wasi.usable(fd, rights::FD_FILESTAT_GET)?;
    let stat = match &open.body {
        Body::File { file, .. } => rustix::fs::fstat(file)?,
        _ => {
            let (folder, path) = (open.folder as usize, open.path.clone());
            rustix::fs::fstat(view.wasi.folders[folder].look(&path, OFlags::PATH)?)?
        }
    };
    Ok(view.put(at, &stat_bytes(&stat))?)
}

/// A file's `filestat`. Times, device and inode are those of one machine: a guest sees zeros.
fn stat_bytes(stat: &Stat) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[16] = type_of(FileType::from_raw_mode(stat.st_mode));
    bytes[24] = 1;
    bytes[32..40].copy_from_slice(&stat.st_size.cast_unsigned().to_le_bytes());
    bytes
}

fn type_of(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => TYPE_FOLDER,
        FileType::RegularFile => TYPE_FILE,
        FileType::Symlink => TYPE_LINK,
        _ => TYPE_UNKNOWN,
    }
}

fn read(view: &mut View<'_>, fd: u32, at: Option<u64>, (list, count, read_at): (u32, u32, u32)) -> Result<(), Errno> {
    if count > VECTORS_MAX {
        return Err(Errno(errno::INVAL));
    }
    let vectors = view.vectors(list, count)?;
    let mut total = 0_u32;
    let is_input = matches!(view.wasi.descriptors.get(&fd), Some(Descriptor::Stdin));
    if is_input && at.is_some() {
        return Err(Errno(errno::SPIPE));
    }
    for (buffer, length) in vectors {
        let length = length.min(PIECE_BYTES_MAX);
        // Nothing is taken from the stream before the buffer is known to be there.
        view.range(buffer, length)?;
        let piece = if is_input {
            view.wasi.read_input(length as usize).to_vec()
        } else {
            from_file(view.wasi, fd, at.map(|at| at.saturating_add(total.into())), length)?
        };
        view.put(buffer, &piece)?;
        total += piece.len() as u32;
        if piece.len() < length as usize || total >= PIECE_BYTES_MAX {
            break;
        }
    }
    Ok(view.put_u32(read_at, total)?)
}

fn from_file(wasi: &mut Wasi, fd: u32, at: Option<u64>, length: u32) -> Result<Vec<u8>, Errno> {
    let open = wasi.usable(fd, rights::FD_READ)?;
    let Body::File { file, offset } = &mut open.body else {
        return Err(Errno(errno::ISDIR));
    };
    let mut bytes = vec![0; length as usize];
    let read = file.read_at(&mut bytes, at.unwrap_or(*offset));
    bytes.truncate(read.map_err(|_| Errno(errno::IO))?);
    if at.is_none() {
        *offset += bytes.len() as u64;
    }
    Ok(bytes)
}

fn write(view: &mut View<'_>, fd: u32, (list, count, written_at): (u32, u32, u32)) -> Result<(), Errno> {
    if count > VECTORS_MAX {
        return Err(Errno(errno::INVAL));
    }
    let is_output = match view.wasi.descriptors.get(&fd) {
        Some(Descriptor::Stdout) => true,
        Some(Descriptor::Stderr) => false,
        Some(Descriptor::Stdin) | None => return Err(Errno(errno::BADF)),
        Some(Descriptor::Open(_)) => return Err(Errno(errno::ROFS)),
    };
    let vectors = view.vectors(list, count)?;
    // All buffers before the first byte: a list with one bad address writes nothing.
    let mut total = 0_u32;
    for &(buffer, length) in &vectors {
        view.range(buffer, length)?;
        total = total.checked_add(length).ok_or(Fault)?;
    }
    view.put_u32(written_at, total)?;
    for (buffer, length) in vectors {
        let (start, length) = (buffer as usize, length as usize);
        let bytes = &view.bytes[start..start + length];
        match is_output {
            true => view.wasi.write_output(bytes),
            false => view.wasi.write_error(bytes),
        }
    }
    Ok(())
}

fn seek(view: &mut View<'_>, fd: u32, by: i64, (whence, at): (u32, u32)) -> Result<(), Errno> {
    if view.wasi.descriptors.contains_key(&fd) && view.wasi.open_of(fd).is_none() {
        return Err(Errno(errno::SPIPE));
    }
    let needed = if by == 0 && whence == 1 {
        rights::FD_TELL
    } else {
        rights::FD_SEEK
    };
    let open = view.wasi.usable(fd, needed)?;
    let Body::File { file, offset } = &mut open.body else {
        return Err(Errno(errno::BADF));
    };
    let base = match whence {
        0 => 0,
        1 => *offset,
        2 => file.metadata().map_err(|_| Errno(errno::IO))?.len(),
        _ => return Err(Errno(errno::INVAL)),
    };
    let place = base.checked_add_signed(by).ok_or(Errno(errno::INVAL))?;
    *offset = place;
    Ok(view.put_u64(at, place)?)
}

/// The name of a folder that the host gave.
fn given(wasi: &mut Wasi, fd: u32) -> Result<String, Errno> {
    let open = wasi.open_of(fd).filter(|open| open.is_given);
    let folder = open.ok_or(Errno(errno::BADF))?.folder as usize;
    let folder = wasi.folders.get(folder).ok_or(Errno(errno::STALE))?;
    Ok(folder.name().to_owned())
}

fn prestat(view: &mut View<'_>, fd: u32, at: u32) -> Result<(), Errno> {
    let name = given(view.wasi, fd)?;
    view.put_u32(at, 0)?;
    let length = u32::try_from(name.len()).map_err(|_| Fault)?;
    Ok(view.put_u32(at.checked_add(4).ok_or(Fault)?, length)?)
}

fn prestat_name(view: &mut View<'_>, fd: u32, (at, length): (u32, u32)) -> Result<(), Errno> {
    let name = given(view.wasi, fd)?;
    if name.len() > length as usize {
        return Err(Errno(errno::NAMETOOLONG));
    }
    Ok(view.put(at, name.as_bytes())?)
}

fn renumber(wasi: &mut Wasi, from: u32, to: u32) -> Result<(), Errno> {
    if !wasi.descriptors.contains_key(&to) {
        return Err(Errno(errno::BADF));
    }
    let moved = wasi.descriptors.remove(&from).ok_or(Errno(errno::BADF))?;
    wasi.descriptors.insert(to, moved);
    Ok(())
}

/// Names in order of their bytes, so that a cookie means the same on every machine.
fn read_folder(view: &mut View<'_>, fd: u32, cookie: u64, (at, length, used_at): (u32, u32, u32)) -> Result<(), Errno> {
    let (folder, path) = view.wasi.place(fd, "", rights::FD_READDIR)?;
    let path = path.trim_end_matches('/').to_owned();
    let handle = view.wasi.folders[folder].look(&path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::new(handle)? {
        let entry = entry?;
        entries.push((entry.file_name().to_bytes().to_vec(), type_of(entry.file_type())));
    }
    entries.sort_unstable();
    let mut listing = Vec::new();
    let skipped = usize::try_from(cookie).unwrap_or(usize::MAX);
    for (place, (name, kind)) in (1_u64..).zip(&entries).skip(skipped) {
        let mut head = [0_u8; 24];
        head[..8].copy_from_slice(&place.to_le_bytes());
        head[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        head[20] = *kind;
        listing.extend_from_slice(&head);
        listing.extend_from_slice(name);
        if listing.len() >= length as usize {
            break;
        }
    }
    listing.truncate(length as usize);
    view.put(at, &listing)?;
    Ok(view.put_u32(used_at, listing.len() as u32)?)
}

#[expect(clippy::too_many_arguments, reason = "preview 1 has so many")]
fn path_open<T: HasWasi>(
    mut caller: Caller<'_, T>,
    fd: u32,
    look: u32,
    path: u32,
    length: u32,
    how: u32,
    base: u64,
    inheriting: u64,
    flags: u32,
    opened_at: u32,
) -> Result<i32> {
    with(&mut caller, |view| {
        let wanted = Wanted {
            path: path_of(view, path, length)?,
            follows: look & 1 == 1,
            how,
            rights: (base, inheriting),
            flags: flags as u16,
        };
        view.range(opened_at, 4)?;
        let number = open(view.wasi, fd, wanted)?;
        Ok(view.put_u32(opened_at, number)?)
    })
}

/// What is to be opened.
struct Wanted {
    path: String,
    follows: bool,
    how: u32,
    rights: (u64, u64),
    flags: u16,
}

fn open(wasi: &mut Wasi, fd: u32, wanted: Wanted) -> Result<u32, Errno> {
    const CREATE: u32 = 1;
    const FOLDER: u32 = 2;
    const EXCLUSIVE: u32 = 4;
    const TRUNCATE: u32 = 8;
    let (folder, path) = wasi.place(fd, &wanted.path, rights::PATH_OPEN)?;
    if wanted.how & (CREATE | EXCLUSIVE | TRUNCATE) != 0 || wanted.rights.0 & rights::FD_WRITE != 0 {
        return Err(Errno(errno::ROFS));
    }
    let mut flags = OFlags::RDONLY;
    flags.set(OFlags::DIRECTORY, wanted.how & FOLDER != 0);
    flags.set(OFlags::NOFOLLOW, !wanted.follows);
    let file = File::from(wasi.folders[folder].look(&path, flags)?);
    let kind = file.metadata().map_err(|_| Errno(errno::IO))?.file_type();
    let (body, possible) = match () {
        () if kind.is_dir() => (Body::Folder, rights::FOLDER),
        () if kind.is_file() => (Body::File { file, offset: 0 }, rights::FILE),
        () => return Err(Errno(errno::NOTSUP)),
    };
    let number = wasi.free_number().ok_or(Errno(errno::MFILE))?;
    let granted = wasi.usable(fd, 0)?.inheriting;
    wasi.descriptors.insert(
        number,
        Descriptor::Open(Open {
            folder: folder as u32,
            path,
            rights: wanted.rights.0 & granted & possible,
            inheriting: wanted.rights.1 & granted,
            flags: wanted.flags,
            is_given: false,
            body,
        }),
    );
    Ok(number)
}

fn path_filestat(view: &mut View<'_>, fd: u32, look: u32, (path, length, at): (u32, u32, u32)) -> Result<(), Errno> {
    let path = path_of(view, path, length)?;
    let (folder, path) = view.wasi.place(fd, &path, rights::PATH_FILESTAT_GET)?;
    let mut flags = OFlags::PATH;
    flags.set(OFlags::NOFOLLOW, look & 1 == 0);
    let stat = rustix::fs::fstat(view.wasi.folders[folder].look(&path, flags)?)?;
    Ok(view.put(at, &stat_bytes(&stat))?)
}

fn read_link(
    view: &mut View<'_>,
    fd: u32,
    (path, length): (u32, u32),
    (at, room, used_at): (u32, u32, u32),
) -> Result<(), Errno> {
    let path = path_of(view, path, length)?;
    let (folder, path) = view.wasi.place(fd, &path, rights::PATH_READLINK)?;
    let link = view.wasi.folders[folder].look(&path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    let target = &target.as_bytes()[..target.as_bytes().len().min(room as usize)];
    view.put(at, target)?;
    Ok(view.put_u32(used_at, target.len() as u32)?)
}
