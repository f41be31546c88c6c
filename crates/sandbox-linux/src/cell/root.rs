//! The file system that guests see, prepared once for each set of binds, or for one cell with an image.
//!
//! A prepared root is a whole mount namespace whose root is a small read-only tmpfs with the system
//! bound into it, or an unpacked image, read-only as well. A cell is cloned out of that namespace, so the host's root never was in it: nothing
//! has to be unmounted, and there is nothing to climb out to. What differs from cell to cell (`/proc`,
//! `/tmp`, `/var/task`, `/opt`) is mounted by the cell's init.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use bowline_sandbox::image::HOSTS;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sys;
use super::wire::{Failure, Step};

/// Where the code goes.
pub const CODE_DIR: &str = "/var/task";
/// Where the layers go.
pub const LAYERS_DIR: &str = "/opt";
/// The guest's own writable folder.
pub const TMP_DIR: &str = "/tmp";
/// Where folders are that it shares with others.
const MOUNTS_DIR: &str = bowline_sandbox::MOUNTS_DIR;

/// Links or folders at the top that programs expect; on most systems links into `/usr`.
const SYSTEM: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Folders that are made. The dynamic linker of a pre-warmed interpreter never again looks into one of its
/// search path that was missing when it started, so those where libraries may come to lie are there.
const FOLDERS: [&str; 10] = [
    "usr",
    "mnt",
    "tmp",
    "proc",
    "dev",
    "etc",
    "var/task/lib",
    "var/tmp",
    "opt/lib",
    "run",
];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Files of `/etc` that are copied, folders that are bound, where they exist.
const ETC_FILES: [&str; 5] = ["ld.so.cache", "localtime", "nsswitch.conf", "services", "protocols"];
const ETC_FOLDERS: [&str; 5] = ["ssl", "pki", "ca-certificates", "crypto-policies", "alternatives"];
const ETC_WRITTEN: [(&str, &str); 4] = [
    ("passwd", "sandbox:x:1000:1000::/tmp:/bin/sh\n"),
    ("group", "sandbox:x:1000:\n"),
    ("hosts", HOSTS),
    ("resolv.conf", ""),
];

/// The host's mount namespace, as the spawner sees it.
pub struct HostMounts(OwnedFd);

/// A prepared root.
pub struct Root(OwnedFd);

/// What a root is made of.
pub enum Base<'a> {
    /// The host's system with binds (host path, path inside).
    System(&'a [(PathBuf, PathBuf)]),
    /// An unpacked image.
    Image(&'a Path),
}

impl HostMounts {
    /// Stops what the spawner mounts from reaching the host; mounts of the host still arrive.
    pub fn detach() -> Result<Self, Failure> {
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).step("make mounts slaves")?;
        Ok(Self(open_mount_namespace()?))
    }

    /// Goes back to the host's mounts.
    pub fn enter(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount)).step("enter host mounts")
    }

    /// Prepares a root, using the empty folder `scratch`.
    pub fn prepare(&self, scratch: &Path, base: &Base<'_>) -> Result<Root, Failure> {
        sys::unshare(libc::CLONE_NEWNS).step("unshare mounts")?;
        let built = build(scratch, base).and_then(|()| open_mount_namespace());
        self.enter()?;
        built.map(Root)
    }
}

impl Root {
    /// Enters the root's mount namespace; processes cloned now see it.
    pub fn enter(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount)).step("enter root")
    }
}

/// A folder of code or layers as a mount of its own that is attached nowhere yet.
pub fn detached_code(code: &Path) -> Result<OwnedFd, Failure> {
    let tree = detach(code).step("open code")?;
    sys::restrict_mount(&tree).step("make code read-only")?;
    Ok(tree)
}

pub(super) fn detach(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// Attaches a detached mount at `target`.
pub fn attach(tree: impl AsFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches detached mounts in folders of [`MOUNTS_DIR`], which holds nothing else and cannot be written to.
pub fn attach_shares<'a>(shares: impl Iterator<Item = (&'a OwnedFd, &'a Path)>) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", MOUNTS_DIR, "tmpfs", flags, c"size=64k,mode=755").step("mount /mnt")?;
    for (tree, folder) in shares {
        let target = Path::new(MOUNTS_DIR).join(folder);
        fs::create_dir(&target).step("make folder in /mnt")?;
        attach(tree, &target).step("mount shared folder")?;
    }
    rustix::mount::mount_remount(MOUNTS_DIR, flags | MountFlags::RDONLY, c"").step("make /mnt read-only")
}

fn open_mount_namespace() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).step("open mount namespace")
}

/// Builds the tree at `scratch` and makes it this mount namespace's root.
fn build(scratch: &Path, base: &Base<'_>) -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make mounts private")?;
    match base {
        Base::System(binds) => system(scratch, binds)?,
        Base::Image(image) => self::image(scratch, image)?,
    }
    // Not seen by guests, whose own hides it; the kernel allows that one only while this one is there.
    attach(detach(Path::new("/proc")).step("open /proc")?, &scratch.join("proc")).step("bind /proc")?;
    become_root(scratch)?;
    forbid_writing()
}

/// The image itself, with devices of ours in it.
fn image(scratch: &Path, image: &Path) -> Result<(), Failure> {
    let tree = detach(image).step("open image")?;
    sys::restrict_mount(&tree).step("make image read-only")?;
    attach(tree, scratch).step("mount image")?;
    let dev = scratch.join("dev");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", &dev, "tmpfs", flags, c"size=64k,mode=755").step("mount /dev")?;
    furnish_dev(&dev)?;
    rustix::mount::mount_remount(&dev, flags | MountFlags::RDONLY, c"").step("make /dev read-only")
}

/// The host's system, and what is bound beside it.
fn system(scratch: &Path, binds: &[(PathBuf, PathBuf)]) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", scratch, "tmpfs", flags, c"size=16m,mode=755").step("mount root")?;
    for folder in FOLDERS {
        fs::create_dir_all(scratch.join(folder)).step("make folder")?;
    }
    show(Path::new("/usr"), &scratch.join("usr"))?;
    for name in SYSTEM {
        let host = Path::new("/").join(name);
        match fs::read_link(&host) {
            Ok(target) => symlink(target, scratch.join(name)).step("link system folder")?,
            Err(_) if host.is_dir() => show(&host, &scratch.join(name))?,
            Err(_) => {}
        }
    }
    furnish_etc(&scratch.join("etc"))?;
    furnish_dev(&scratch.join("dev"))?;
    for (host, inside) in binds {
        show(host, &inside_path(scratch, inside)?)?;
    }
    Ok(())
}

/// Where `inside` is below `scratch`; refuses to climb.
fn inside_path(scratch: &Path, inside: &Path) -> Result<PathBuf, Failure> {
    let mut path = scratch.to_path_buf();
    for component in inside.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => path.push(name),
            _ => return Err(std::io::Error::from_raw_os_error(libc::EINVAL)).step("resolve bind"),
        }
    }
    Ok(path)
}

/// Binds `host` read-only at `target`, which is made.
fn show(host: &Path, target: &Path) -> Result<(), Failure> {
    let shown = || format!("bind `{}`", host.display());
    if host.is_dir() {
        fs::create_dir_all(target).step(&shown())?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(target)).step(&shown())?;
        fs::File::create(target).step(&shown())?;
    }
    let tree = detach(host).step(&shown())?;
    sys::restrict_mount(&tree).step(&shown())?;
    attach(tree, target).step(&shown())
}

fn furnish_etc(etc: &Path) -> Result<(), Failure> {
    for (name, text) in ETC_WRITTEN {
        fs::write(etc.join(name), text).step("write /etc")?;
    }
    let host = Path::new("/etc");
    for name in ETC_FILES {
        // What a host lacks, guests lack.
        if let Ok(bytes) = fs::read(host.join(name)) {
            fs::write(etc.join(name), bytes).step("copy /etc")?;
        }
    }
    for name in ETC_FOLDERS {
        if host.join(name).is_dir() {
            show(&host.join(name), &etc.join(name))?;
        }
    }
    Ok(())
}

fn furnish_dev(dev: &Path) -> Result<(), Failure> {
    for name in DEVICES {
        fs::File::create(dev.join(name)).step("make device")?;
        attach(
            detach(&Path::new("/dev").join(name)).step("open device")?,
            &dev.join(name),
        )
        .step("bind device")?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), dev.join(name)).step("link device")?;
    }
    Ok(())
}

pub(super) fn become_root(scratch: &Path) -> Result<(), Failure> {
    rustix::process::chdir(scratch).step("enter new root")?;
    rustix::process::pivot_root(".", ".").step("pivot root")?;
    unmount(".", UnmountFlags::DETACH).step("unmount old root")?;
    rustix::process::chdir("/").step("enter new root")
}

/// Makes this mount namespace's root read-only, but not what is mounted in it.
fn forbid_writing() -> Result<(), Failure> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount("/", flags | MountFlags::BIND, c"").step("make root read-only")
}
