//! Versions that come as container images.
//!
//! The folder of such a version's code is the whole root file system of its sandbox, with the mount points and
//! files that are named here: whoever unpacks the image makes them.

use std::collections::BTreeMap;

/// Folders at the top of an unpacked image, empty: a sandbox mounts its own over them.
pub const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "tmp"];
/// What every sandbox knows of names on its network.
pub const HOSTS: &str = "127.0.0.1 localhost sandbox.localdomain sandbox\n::1 localhost\n";
/// Files of an unpacked image with their content.
pub const FILES: [(&str, &str); 2] = [("etc/hosts", HOSTS), ("etc/resolv.conf", "")];

/// How the process of an image is started. The image's own settings and the function's have been put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// The program and its arguments: the entry point, then the command. A program without a slash is looked for
    /// in the folders of `PATH`.
    pub words: Vec<String>,
    /// The image's variables; the function's own and the platform's win over them.
    pub environment: BTreeMap<String, String>,
    /// Absolute.
    pub working_directory: String,
}
