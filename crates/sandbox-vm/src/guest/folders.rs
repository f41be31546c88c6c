//! Folders in a guest whose files the host is asked for: the kernel's file system of programs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::port::Port;

/// The most data that the kernel reads at once.
const READ_BYTES_MAX: u32 = 128 * 1024;

/// Mounts a folder nowhere yet. Whoever has the port is asked for all that is done in it: each reading is one request, each
/// writing one answer. Must be called within a runtime.
///
/// Who may do what is the answers' to say; the kernel lets all of its users ask.
pub fn mount() -> io::Result<(Port, OwnedFd)> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let kernel = options.open("/dev/fuse")?;
    let system = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let (descriptor, most) = (kernel.as_raw_fd().to_string(), READ_BYTES_MAX.to_string());
    for (key, value) in [
        ("source", "node"),
        ("fd", &descriptor),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        ("max_read", &most),
    ] {
        fsconfig_set_string(&system, key, value)?;
    }
    fsconfig_set_flag(&system, "allow_other")?;
    fsconfig_create(&system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tree = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok((Port::over(kernel)?, tree))
}
