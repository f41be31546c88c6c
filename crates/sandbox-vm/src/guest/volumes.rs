//! Volumes in a guest: disks that have come since its machine was saved.
//!
//! The machine was saved with nothing in the places for volumes, and its kernel has looked at them then. So each disk is
//! given up by its driver and taken again, which reads its size and whether it may be written to.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use crate::machine::Access;
use crate::protocol::{Mount, volume_disk};
use crate::sys;

/// The disks of the kernel.
const DISKS: &str = "/sys/block";
/// The driver of virtual disks.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";
/// What a file system that is found broken becomes.
const OPTIONS: &CStr = c"errors=remount-ro";
/// What a file system has when it is made, and no program wants to find.
const LOST_AND_FOUND: &str = "lost+found";

/// Mounts volumes; a text says which one not, and why.
pub fn show(mounts: &[Mount]) -> Result<(), String> {
    let shown = |volume: &Mount| show_one(volume).map_err(|error| format!("volume at `{}`: {error}", volume.target));
    mounts.iter().try_for_each(shown)
}

fn show_one(volume: &Mount) -> io::Result<()> {
    let serial = volume_disk(volume.slot);
    let device = find(Path::new(DISKS), &serial)?.join("device");
    let device = fs::read_link(device)?;
    let device = device.file_name().ok_or(io::ErrorKind::InvalidData)?.as_encoded_bytes();
    fs::write(Path::new(DRIVER).join("unbind"), device)?;
    fs::write(Path::new(DRIVER).join("bind"), device)?;
    let disk = find(Path::new(DISKS), &serial)?;
    let disk = Path::new("/dev").join(disk.file_name().ok_or(io::ErrorKind::InvalidData)?);
    let target = Path::new(&volume.target);
    make_mount_point(target)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, volume.access == Access::Read);
    mount(&disk, target, "ext4", flags, Some(OPTIONS))?;
    if volume.access == Access::Write {
        // It is no longer there, or not empty.
        let _ = fs::remove_dir(target.join(LOST_AND_FOUND));
    }
    Ok(())
}

/// The disk with this serial number.
fn find(disks: &Path, serial: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(disks)? {
        let path = entry?.path();
        if fs::read_to_string(path.join("serial")).is_ok_and(|found| found.trim() == serial) {
            return Ok(path);
        }
    }
    let text = format!("there is no disk `{serial}`");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// A folder at the top is made; further down there must be one.
fn make_mount_point(target: &Path) -> io::Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    if target.parent() == Some(Path::new("/")) {
        return fs::create_dir(target);
    }
    let text = "there is no such folder, and one is made at the top of the file system alone";
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Writes what volumes hold back, and lets nobody write to them any more.
pub fn settle(targets: &[String]) -> Result<(), String> {
    for target in targets {
        let frozen = File::open(target).and_then(|folder| sys::freeze(&folder));
        frozen.map_err(|error| format!("cannot settle the volume at `{target}`: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_their_serial_numbers() {
        let disks = tempfile::tempdir().unwrap();
        for (disk, serial) in [("vda", "volume1"), ("vdb", "root"), ("vdc", "volume10")] {
            fs::create_dir(disks.path().join(disk)).unwrap();
            fs::write(disks.path().join(disk).join("serial"), serial).unwrap();
        }
        fs::create_dir(disks.path().join("loop0")).unwrap();
        assert_eq!(find(disks.path(), "volume1").unwrap(), disks.path().join("vda"));
        assert_eq!(find(disks.path(), "root").unwrap(), disks.path().join("vdb"));
        let missing = find(disks.path(), "volume0").unwrap_err().to_string();
        assert!(missing.contains("`volume0`"), "{missing}");
    }

    #[test]
    fn mount_points_are_made_at_the_top_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(make_mount_point(folder.path()).is_ok(), "one that is there is taken");
        let missing = folder.path().join("missing");
        assert!(
            make_mount_point(&missing)
                .unwrap_err()
                .to_string()
                .contains("at the top")
        );
        assert!(!missing.exists());
    }
}
