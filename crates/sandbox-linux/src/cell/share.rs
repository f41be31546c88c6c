//! Folders that cells share, as the spawner keeps them: each is a file system of its own in the spawner's mount namespace,
//! which nobody else sees.
//!
//! ```text
//!   Request::Share ─▶ tmpfs, or ext4 on a loop device over a file ─▶ SHARES/NAME ─ a copy of its `data` for each cell ─▶ /mnt/…
//! ```
//! A share may be lent to the spawner of an instance's agent, which keeps a mount of it in the same way. The spawner of one in a
//! virtual machine keeps mounts for whose files the node is asked.
//!
//! Mounts and loop devices go with the last who has them: with the spawner and its cells nothing is left of them on the
//! host, however they end. A file that still lies under a loop device is mounted a second time nowhere: one who comes
//! waits until the device is gone.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Pid;

use super::identity::GUEST_ID;
use super::root::{attach, detach};
use super::sys::{self, MountChange};
use super::wire::{self, ShareMessage};
use super::wire::{Failure, Reply, Step};

/// The folder of a share that cells see. Where nothing is mounted it is missing, so that nobody sees an empty one.
const DATA: &str = "data";
/// How long a file is waited for that an earlier spawner still has mounted.
const STILL_MOUNTED_TRIES: u32 = 300;
const STILL_MOUNTED_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// A free loop device may be taken by another before it is ours.
const LOOP_TRIES: u32 = 16;
/// Files that a share in memory may have: one for so many bytes, but at least as many as [`INODES_MIN`].
const BYTES_PER_INODE: u64 = 16 * 1024;
const INODES_MIN: u64 = 1024;

/// The shares of a spawner.
pub struct Shares {
    folder: PathBuf,
    /// Whether files belong to the guest's user as it is inside cells, whose host users differ.
    is_mapped: bool,
    is_open: bool,
}

impl Shares {
    pub fn new(state_dir: &Path, is_mapped: bool) -> Self {
        Self {
            folder: state_dir.join("shares"),
            is_mapped,
            is_open: false,
        }
    }

    /// Mounts a share and says so to `reply`. A volume is mounted by a process of its own: that may take a while.
    pub fn share(&mut self, message: &ShareMessage, reply: &OwnedFd) {
        let mounted = self.open().and_then(|()| {
            let target = self.folder.join(message.name.path());
            if target.join(DATA).is_dir() {
                return Ok(true);
            }
            fs::create_dir_all(&target).step("make mount point")?;
            match &message.file {
                None => self.mount_memory(&target, message.bytes).map(|()| true),
                Some(file) => {
                    let file = file.path();
                    let mount = || self.mount_volume(&file, message.is_new, &target);
                    let told = || tell(reply, mount());
                    sys::clone_process(0, None, told).step("clone3")?;
                    Ok(false)
                }
            }
        });
        match mounted {
            Ok(false) => {}
            done => tell(reply, done.map(drop)),
        }
    }

    /// Unmounts a share, and says so once it is written to its disk.
    pub fn unshare(&self, name: &Path, reply: &OwnedFd) {
        let target = self.folder.join(name);
        let told = || tell(reply, end(&target));
        if let Err(error) = sys::clone_process(0, None, told) {
            tell(reply, Err(error).step("clone3"));
        }
    }

    /// Gives a share to another spawner, whose cells are to have it too.
    pub fn lend(&self, name: &Path, reply: &OwnedFd) {
        match self.detached(name) {
            Ok(tree) => {
                // A node that does not listen any more needs no answer.
                let _ = wire::send(reply, &Reply::Lent, &[tree.as_fd()]);
            }
            Err(failure) => tell(reply, Err(failure)),
        }
    }

    fn detached(&self, name: &Path) -> Result<OwnedFd, Failure> {
        let target = self.folder.join(name);
        if !target.join(DATA).is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT)).step("find shared folder");
        }
        detach(&target).step("open shared folder")
    }

    /// Keeps a share of another spawner as one of its own, and says so.
    pub fn borrow(&mut self, name: &Path, tree: &OwnedFd, reply: &OwnedFd) {
        let borrowed = self.open().and_then(|()| {
            let target = self.folder.join(name);
            if target.join(DATA).is_dir() {
                return Ok(());
            }
            fs::create_dir_all(&target).step("make mount point")?;
            attach(tree, &target).step("attach shared folder")
        });
        tell(reply, borrowed);
    }

    /// Unmounts all; no cell lives any more.
    pub fn end(&self) {
        if !self.is_open {
            return;
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            // The namespace's end does it otherwise.
            let _ = end(&entry.path());
        }
    }

    /// A share as a mount of its own that is attached nowhere yet, for the cell of `init`.
    pub fn tree(&self, name: &Path, is_read_only: bool, init: Pid) -> Result<OwnedFd, Failure> {
        let tree = detach(&self.folder.join(name).join(DATA)).step("find shared folder")?;
        // Where a program is asked for each file, all belong to whoever asks.
        let is_asked = rustix::fs::fstatfs(&tree).step("look at shared folder")?.f_type == libc::FUSE_SUPER_MAGIC;
        let users = (self.is_mapped && !is_asked).then(|| {
            let path = format!("/proc/{}/ns/user", init.as_raw_nonzero());
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        });
        let users = users.transpose().step("open users of the cell")?;
        let change = MountChange {
            is_read_only,
            users: users.as_ref().map(AsFd::as_fd),
        };
        sys::change_mount(&tree, &change).step("map users of the shared folder")?;
        Ok(tree)
    }

    /// Makes the folder of mount points, which lies in memory.
    fn open(&mut self) -> Result<(), Failure> {
        if self.is_open {
            return Ok(());
        }
        fs::create_dir_all(&self.folder).step("make folder of shares")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tmpfs", &self.folder, "tmpfs", flags, c"size=1m,mode=700").step("mount folder of shares")?;
        self.is_open = true;
        Ok(())
    }

    fn mount_memory(&self, target: &Path, bytes: u64) -> Result<(), Failure> {
        let inodes = INODES_MIN.max(bytes / BYTES_PER_INODE);
        let options = format!("size={bytes},nr_inodes={inodes},mode=700");
        let options = CString::new(options).step("size shared memory")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", target, "tmpfs", flags, options.as_c_str()).step("mount shared memory")?;
        self.make_data(target)
    }

    fn mount_volume(&self, file: &Path, is_new: bool, target: &Path) -> Result<(), Failure> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(file)
            .step("open the volume's file")?;
        wait_until_unused(&file)?;
        let device = lay_under(&file)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(&device.path, target, "ext4", flags, c"errors=remount-ro").step("mount volume")?;
        if is_new {
            self.make_data(target)?;
        }
        if !target.join(DATA).is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT)).step("find the volume's files");
        }
        Ok(())
    }

    fn make_data(&self, target: &Path) -> Result<(), Failure> {
        let data = target.join(DATA);
        fs::create_dir(&data).step("make shared folder")?;
        if self.is_mapped {
            chown(&data, Some(GUEST_ID), Some(GUEST_ID)).step("give shared folder away")?;
        }
        Ok(())
    }
}

fn tell(reply: &OwnedFd, done: Result<(), Failure>) {
    let reply_message = match done {
        Ok(()) => Reply::Done,
        Err(failure) => Reply::Failed(failure),
    };
    // A node that does not listen any more needs no answer.
    let _ = wire::send(reply, &reply_message, &[]);
}

/// Unmounts what is at `target`; what cells still have of it stays until they are gone.
fn end(target: &Path) -> Result<(), Failure> {
    let ended = match unmount(target, UnmountFlags::empty()) {
        Err(rustix::io::Errno::BUSY) => unmount(target, UnmountFlags::DETACH),
        ended => ended,
    };
    match ended {
        // Nothing is mounted there, or there is no such folder.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error).step("unmount shared folder"),
    }
    let _ = fs::remove_dir(target);
    Ok(())
}

/// A loop device that goes when nobody has it open or mounted any more.
struct Loop {
    path: PathBuf,
    _open: File,
}

/// Lays a loop device over a file.
fn lay_under(file: &File) -> Result<Loop, Failure> {
    let open = |path: &Path| File::options().read(true).write(true).open(path);
    let control = open(Path::new("/dev/loop-control")).step("open /dev/loop-control")?;
    for _ in 0..LOOP_TRIES {
        let number = sys::free_loop(&control).step("find a free loop device")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path).step("open loop device")?;
        match sys::configure_loop(&device, file.as_fd()) {
            Ok(()) => return Ok(Loop { path, _open: device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error).step("configure loop device"),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY)).step("find a free loop device")
}

/// Waits until no loop device lies over the file.
fn wait_until_unused(file: &File) -> Result<(), Failure> {
    let metadata = file.metadata().step("look at the volume's file")?;
    let identity = (metadata.dev(), metadata.ino());
    for _ in 0..STILL_MOUNTED_TRIES {
        if !is_used(identity).step("look for loop devices")? {
            return Ok(());
        }
        let _ = poll(&mut [], Some(&STILL_MOUNTED_PAUSE));
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY)).step("wait until the volume is mounted nowhere else")
}

/// Whether a loop device lies over the file with this device and inode.
fn is_used(identity: (u64, u64)) -> io::Result<bool> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let is_bound = entry.path().join("loop").is_dir();
        let name = entry.file_name();
        if !is_bound {
            continue;
        }
        // It may be gone by now.
        let Ok(device) = File::open(Path::new("/dev").join(name)) else {
            continue;
        };
        if sys::loop_file(device).is_ok_and(|file| file == identity) {
            return Ok(true);
        }
    }
    Ok(false)
}
