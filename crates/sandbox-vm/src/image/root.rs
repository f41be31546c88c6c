//! The root of a guest: the agent with its libraries, a shell, and interpreters if they are wanted.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
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
/// Largest file that is taken out of a package.
const ENTRY_BYTES_MAX: u64 = 256 * 1024 * 1024;
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
    for (file, content) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/hostname", "bowline\n"),
    ] {
        put(root, Path::new(file), content.as_bytes(), 0o644)?;
    }
    open_folders(root)
}

/// Gives all folders of a finished root their mode, which whoever builds it may have masked.
pub fn open_folders(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks a package over the root.
pub fn install(package: &Path, root: &Path) -> Result<(), BuildError> {
    unpack(package, &mut |path, entry| {
        if LEFT_OUT.iter().any(|folder| path.starts_with(folder)) {
            return Ok(());
        }
        install_entry(root, path, entry)
    })
}

/// Puts one entry of a package into the root; nothing outside is written or read, whatever links there are.
fn install_entry<R: Read>(root: &Path, path: &Path, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
    match entry.header().entry_type() {
        tar::EntryType::Directory => fs::create_dir_all(inside(root, path)?),
        tar::EntryType::Symlink => {
            let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
            let target = inside(root, path)?;
            replace(&target)?;
            symlink(to, target)
        }
        tar::EntryType::Link => {
            let to = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
            let (from, target) = (linked(root, &to)?, inside(root, path)?);
            replace(&target)?;
            fs::copy(from, target).map(|_| ())
        }
        tar::EntryType::Regular => {
            if entry.size() > ENTRY_BYTES_MAX {
                let bytes = entry.size();
                return Err(invalid(
                    path,
                    &format!("has `{bytes}` bytes, at most `{ENTRY_BYTES_MAX}` are taken"),
                ));
            }
            let mode = entry.header().mode()? & 0o755;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            put(root, path, &content, mode)
        }
        _ => Ok(()),
    }
}

/// Where `path` is in the root; refused if a link on the way to it leads out.
fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let top = root.canonicalize()?;
    let mut way = top.clone();
    for part in path.parent().into_iter().flat_map(Path::components) {
        way.push(part);
        match way.canonicalize() {
            Ok(real) if real.starts_with(&top) => {}
            Ok(_) => return Err(invalid(path, "leads out of the root")),
            // What is not there will be made; a link to nothing will not be.
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&way).is_err() => break,
            Err(error) => return Err(invalid(path, &error.to_string())),
        }
    }
    Ok(top.join(path))
}

/// The file in the root that a hard link names.
fn linked(root: &Path, to: &Path) -> io::Result<PathBuf> {
    let plain = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !to.components().all(|part| plain(&part)) {
        return Err(invalid(to, "is no path in the root"));
    }
    let from = inside(root, to)?;
    if fs::symlink_metadata(&from)?.is_file() {
        return Ok(from);
    }
    Err(invalid(to, "is no plain file, and a hard link names it"))
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {what}", path.display()))
}

/// Puts the agent and the libraries it is linked with in place; gives the libraries.
pub fn install_agent(agent: &Path, libraries: &[PathBuf], root: &Path) -> io::Result<()> {
    put(root, Path::new(AGENT), &fs::read(agent)?, 0o755)?;
    for library in libraries {
        let path = library.strip_prefix("/").unwrap_or(library);
        put(root, path, &fs::read(library)?, 0o755)?;
    }
    Ok(())
}

/// The shell that the service and people use.
pub fn install_busybox(busybox: &[u8], root: &Path) -> io::Result<()> {
    put(root, Path::new("usr/bin/busybox"), busybox, 0o755)?;
    let shell = root.join("usr/bin/sh");
    if fs::symlink_metadata(&shell).is_err() {
        symlink("busybox", shell)?;
    }
    Ok(())
}

/// Gives the shell's programs their own names, where no package has brought one of that name.
pub fn link_applets(root: &Path) -> Result<(), BuildError> {
    let folder = root.join("usr/bin");
    let output = Command::new(folder.join("busybox")).arg("--list").output();
    let output = output.map_err(|source| BuildError::io("run the fetched `busybox`", source))?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let link = folder.join(name);
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if plain && fs::symlink_metadata(&link).is_err() {
            symlink("busybox", &link).map_err(|source| BuildError::io("name the shell's programs", source))?;
        }
    }
    Ok(())
}

/// Compiles the library of a Python in the root, by itself: a package leaves that to the machine that it is installed on,
/// but the root is read-only, and without it every start compiles what it imports. What comes out is the same bytes wherever
/// it is built, and is used whatever time its source has.
pub fn compile_python(root: &Path) -> Result<(), BuildError> {
    let cannot = |source| BuildError::io("look for a Python in the root", source);
    let mut programs = Vec::new();
    for entry in fs::read_dir(root.join("usr/bin")).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let minor = name.to_str().and_then(|name| name.strip_prefix("python3."));
        if minor.is_some_and(|minor| minor.parse::<u8>().is_ok()) {
            programs.push(name);
        }
    }
    for program in programs {
        let library = root.join("usr/lib").join(&program);
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu"));
        command.arg(root.join("usr/bin").join(&program));
        command.args(["-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]);
        command.arg("-s").arg(root).args(["-p", "/"]).arg(library);
        command.env_clear().env("PYTHONHOME", root.join("usr"));
        let output = command
            .output()
            .map_err(|source| BuildError::io("run the root's Python", source))?;
        if !output.status.success() {
            return Err(BuildError::Tool {
                program: "compileall",
                said: String::from_utf8_lossy(&output.stdout)
                    .trim()
                    .chars()
                    .take(300)
                    .collect(),
            });
        }
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

fn put(root: &Path, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let target = inside(root, path)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    replace(&target)?;
    fs::write(&target, content)?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))
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

    #[test]
    fn modes_do_not_depend_on_who_builds() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        lay_out(&root).unwrap();
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["", "usr", "usr/bin"].map(mode), [0o755; 3]);
        assert_eq!(mode("etc/passwd"), 0o644);
        // What a mask leaves of a folder that a package brings.
        fs::create_dir_all(root.join("usr/lib/one/two")).unwrap();
        for path in ["usr/lib/one/two", "usr/lib/one", ""] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o700)).unwrap();
        }
        // A link to a folder elsewhere is not followed.
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::set_permissions(folder.path().join("outside"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("../../outside", root.join("opt/outside")).unwrap();
        open_folders(&root).unwrap();
        assert_eq!(["", "usr/lib/one", "usr/lib/one/two"].map(mode), [0o755; 3]);
        let outside = fs::metadata(root.join("opt/outside")).unwrap().permissions();
        assert_eq!(outside.mode() & 0o777, 0o700);
    }

    /// Installs an entry of this kind, with what it links to or has in it.
    fn install_one(root: &Path, kind: tar::EntryType, path: &str, (link, content): (&str, &str)) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        install_first(root, path, &header, content)
    }

    fn install_first(root: &Path, path: &str, header: &tar::Header, content: &str) -> io::Result<()> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(header, content.as_bytes()).unwrap();
        let packed = builder.into_inner().unwrap();
        let mut archive = tar::Archive::new(packed.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        install_entry(root, Path::new(path), &mut entry)
    }

    #[test]
    fn no_entry_of_a_package_leaves_the_root() {
        use tar::EntryType::{Link, Regular, Symlink};
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        lay_out(&root).unwrap();
        let one = |kind: tar::EntryType, path: &str, what: (&str, &str)| install_one(&root, kind, path, what);
        let refused = |kind: tar::EntryType, path: &str, what: (&str, &str)| {
            one(kind, path, what).unwrap_err().kind() == io::ErrorKind::InvalidData
        };

        // The control: links within the root are followed.
        one(Regular, "lib/one/file", ("", "word")).unwrap();
        one(Link, "usr/bin/same", ("./lib/one/file", "")).unwrap();
        assert_eq!(fs::read(root.join("usr/lib/one/file")).unwrap(), b"word");
        assert_eq!(fs::read(root.join("usr/bin/same")).unwrap(), b"word");

        let away = outside.to_str().unwrap();
        one(Symlink, "opt/absolute", (away, "")).unwrap();
        one(Symlink, "opt/relative", ("../../outside", "")).unwrap();
        one(Symlink, "opt/nowhere", ("../../nowhere", "")).unwrap();
        for link in ["opt/absolute", "opt/relative", "opt/nowhere"] {
            assert!(refused(Regular, &format!("{link}/file"), ("", "word")), "{link}");
            assert!(refused(Symlink, &format!("{link}/secret"), ("x", "")), "{link}");
            assert!(
                refused(tar::EntryType::Directory, &format!("{link}/sub/sub"), ("", "")),
                "{link}"
            );
            assert!(refused(Link, "opt/copy", (&format!("{link}/secret"), "")), "{link}");
        }
        one(Symlink, "opt/secret", (&format!("{away}/secret"), "")).unwrap();
        for to in ["opt/secret", "../outside/secret", &format!("{away}/secret")] {
            assert!(refused(Link, "opt/copy", (to, "")), "{to}");
        }
        assert!(!root.join("opt/copy").exists());
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(!folder.path().join("nowhere").exists());
    }

    #[test]
    fn an_entry_that_is_too_large_is_refused_before_it_is_read() {
        let root = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(ENTRY_BYTES_MAX + 1);
        header.set_cksum();
        let refused = install_first(root.path(), "file", &header, "").unwrap_err();
        assert!(refused.to_string().contains("at most"), "{refused}");
        assert!(!root.path().join("file").exists());
    }
}
