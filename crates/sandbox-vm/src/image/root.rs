//! The root of a guest: the agent with its libraries, a shell, and interpreters if they are wanted.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BuildError;
use super::packages::unpack;
use crate::host::on_path;

/// What functions of the Linux kind may be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interpreter {
    Python,
    Node,
}

impl Interpreter {
    /// Debian's package.
    pub(super) fn package(&self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "nodejs",
        }
    }
}

/// Where the agent lies in a guest.
const AGENT: &str = "usr/bin/bowline";
/// What packages have that no function reads.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "var",
    "boot",
];

/// Lays out folders and the few files that programs look for.
pub fn lay_out(root: &Path) -> io::Result<()> {
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "var",
        "opt",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        symlink(target, root.join(link))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(root.join("etc/hostname"), "bowline\n")
}

/// Unpacks a package over the root.
pub fn install(package: &Path, root: &Path) -> Result<(), BuildError> {
    unpack(package, &mut |path, entry| {
        if LEFT_OUT.iter().any(|folder| path.starts_with(folder)) {
            return Ok(());
        }
        let target = root.join(path);
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(target),
            tar::EntryType::Symlink => {
                let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
                replace(&target)?;
                symlink(to, target)
            }
            tar::EntryType::Link => {
                let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
                replace(&target)?;
                fs::copy(root.join(to), target).map(|_| ())
            }
            tar::EntryType::Regular => {
                let mode = entry.header().mode()? & 0o755;
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                put(&target, &content, mode)
            }
            _ => Ok(()),
        }
    })
}

/// Puts the agent and the libraries it is linked with in place; gives the libraries.
pub fn install_agent(agent: &Path, libraries: &[PathBuf], root: &Path) -> io::Result<()> {
    copy(agent, &root.join(AGENT))?;
    for library in libraries {
        copy(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
    }
    Ok(())
}

/// The shell that the service and people use.
pub fn install_busybox(busybox: &[u8], root: &Path) -> io::Result<()> {
    put(&root.join("usr/bin/busybox"), busybox, 0o755)?;
    let shell = root.join("usr/bin/sh");
    if fs::symlink_metadata(&shell).is_err() {
        symlink("busybox", shell)?;
    }
    Ok(())
}

/// The shared libraries that a program is linked with here, its loader among them; none if it is static.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, BuildError> {
    if on_path("ldd").is_none() {
        return Err(BuildError::NotDebian("ldd"));
    }
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output();
    let output = output.map_err(|source| BuildError::io("run `ldd`", source))?;
    parse_ldd(&String::from_utf8_lossy(&output.stdout)).map_err(BuildError::Agent)
}

fn parse_ldd(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("not found") {
            return Err(format!("a library is missing here: {line}"));
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path.split(" (").next().unwrap_or(path)));
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    put(to, &content, 0o755)
}

fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    replace(path)?;
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes room for a file; never writes through a link.
fn replace(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_libraries_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text).unwrap(), found);
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        assert!(
            parse_ldd("\tlibmissing.so => not found\n")
                .unwrap_err()
                .contains("libmissing")
        );
    }

    #[test]
    fn libraries_land_where_the_merged_folders_lead() {
        let root = tempfile::tempdir().unwrap();
        lay_out(root.path()).unwrap();
        let program = std::env::current_exe().unwrap();
        install_agent(&program, &libraries(&program).unwrap(), root.path()).unwrap();
        install_busybox(b"box", root.path()).unwrap();
        assert!(root.path().join(AGENT).is_file());
        assert!(root.path().join("usr/lib/x86_64-linux-gnu/libc.so.6").is_file());
        assert_eq!(fs::read(root.path().join("bin/sh")).unwrap(), b"box");
    }
}
