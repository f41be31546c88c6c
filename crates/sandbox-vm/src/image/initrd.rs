//! The initial file system: modules, and the few steps to the root.
//!
//! Its form is the `newc` form of cpio; see `Documentation/driver-api/early-userspace/buffer-format.rst` of the
//! kernel.

use std::fmt::Write as _;

/// What the kernel runs first. Modules are in the order in which they need each other.
///
/// The root's top lies in memory, with the folders of the read-only file system below, so that volumes can be mounted at
/// the top where there is no folder yet. Which disk is the root is told by its serial number.
const FIRST: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t sysfs sys /sys
for disk in /sys/block/vd*; do
    [ \"$($b cat $disk/serial)\" = root ] && root=/dev/${disk##*/}
done
$b umount /sys
$b mount -t erofs -o ro $root /system || { echo 'there is no root'; exit 1; }
$b mount -t tmpfs -o size=1m,mode=0755 root /root
for entry in /system/*; do
    name=${entry##*/}
    if [ -L $entry ]; then
        $b cp -d $entry /root/$name
    else
        $b mkdir /root/$name && $b mount --bind $entry /root/$name
    fi
done
exec $b switch_root /root /usr/bin/bowline __vm-guest
";

/// Writes the file system.
pub fn write(busybox: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "root", "sys", "system"] {
        archive.put(folder, 0o040_755, (0, 0), &[]);
    }
    archive.put("dev/console", 0o020_600, (5, 1), &[]);
    archive.put("bin/busybox", 0o100_755, (0, 0), busybox);
    for (index, (name, module)) in modules.iter().enumerate() {
        archive.put(&format!("modules/{index:02}-{name}.ko"), 0o100_644, (0, 0), module);
    }
    archive.put("init", 0o100_755, (0, 0), FIRST.as_bytes());
    archive.put("TRAILER!!!", 0, (0, 0), &[]);
    archive.bytes
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn put(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("an initial file system is small");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        // Number, mode, user, group, links, time, size, device, device of a device, name's size, no checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        let mut header = "070701".to_owned();
        for field in fields {
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_last_is_the_trailer() {
        let archive = write(b"box", &[("virtio".to_owned(), b"module".to_vec())]);
        assert_eq!(archive.len() % 4, 0);
        assert!(archive.starts_with(b"070701"));
        let headers = archive.windows(6).filter(|window| window == b"070701").count();
        assert_eq!(headers, 11);
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("modules/00-virtio.ko") && text.contains("TRAILER!!!"));
        assert_eq!(archive, write(b"box", &[("virtio".to_owned(), b"module".to_vec())]));
    }
}
