//! Debian's packages: which ones, where they come from, and what is in them.

use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_foundation::digest::{Digest, Hasher};

use super::BuildError;
use super::root::Interpreter;
use crate::host::on_path;

/// The package that leads to the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The shell of the initial file system, and what writes the root.
const TOOLS: [&str; 2] = ["busybox-static", "erofs-utils"];
/// Largest package that is asked for.
const PACKAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From where this machine's own come from.
    Apt,
    /// From a folder of `.deb` files.
    Folder(PathBuf),
}

/// A package that is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// The file, as the archive calls it.
    pub file: String,
    /// What it must be, as `SHA256:...`.
    pub hash: String,
}

/// The packages of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packages {
    pub kernel: Package,
    pub busybox: Package,
    pub erofs: Package,
    /// Interpreters, with all that they need.
    pub others: Vec<Package>,
}

impl Package {
    fn name(&self) -> &str {
        self.file.split('_').next().unwrap_or_default()
    }

    /// `name=version`, as `apt-get` wants it.
    fn exactly(&self) -> String {
        let version = self.file.split('_').nth(1).unwrap_or_default();
        format!("{}={}", self.name(), version.replace("%3a", ":"))
    }
}

impl Packages {
    /// Finds out which packages an image needs. Nothing is fetched.
    pub fn find(source: &Source, interpreters: &[Interpreter]) -> Result<Self, BuildError> {
        match source {
            Source::Apt => from_apt(interpreters),
            Source::Folder(folder) => from_folder(folder),
        }
    }

    pub fn all(&self) -> Vec<&Package> {
        [&self.kernel, &self.busybox, &self.erofs]
            .into_iter()
            .chain(&self.others)
            .collect()
    }

    /// Brings those that `folder` does not have, and compares all with their hashes.
    pub fn fetch(&self, source: &Source, folder: &Path, note: &dyn Fn(&str)) -> Result<(), BuildError> {
        if *source != Source::Apt {
            return Ok(());
        }
        std::fs::create_dir_all(folder).map_err(|source| BuildError::io("make the folder of packages", source))?;
        for package in self.all() {
            let path = folder.join(&package.file);
            if !path.is_file() {
                note(&format!("fetching {}", package.name()));
                apt(&["download", &package.exactly()], folder)?;
            }
            if package.hash.starts_with("SHA256:") && hash_of(&path)? != package.hash {
                let _ = std::fs::remove_file(&path);
                return Err(BuildError::Package {
                    file: package.file.clone(),
                    reason: "it is not what the archive says; it was removed, try again".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn from_apt(interpreters: &[Interpreter]) -> Result<Packages, BuildError> {
    let here = Path::new("/");
    let text = apt_cache(&["depends", "--no-recommends", "--no-suggests", KERNEL])?;
    let kernel = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = kernel.ok_or_else(|| BuildError::NoPackage(KERNEL.to_owned()))?;
    let listed = apt(&["download", "--print-uris", kernel, TOOLS[0], TOOLS[1]], here)?;
    let mut packages = parse_uris(&listed);
    let mut take = |name: &str| {
        let index = packages.iter().position(|package| package.name() == name);
        let index = index.ok_or_else(|| BuildError::NoPackage(name.to_owned()))?;
        Ok::<_, BuildError>(packages.remove(index))
    };
    let (kernel, busybox, erofs) = (take(kernel)?, take(TOOLS[0])?, take(TOOLS[1])?);
    let mut others = Vec::new();
    if !interpreters.is_empty() {
        // With nothing installed, `apt-get` lists all that they need.
        let nothing = tempfile::NamedTempFile::new().map_err(|source| BuildError::io("make a file", source))?;
        let status = format!("Dir::State::status={}", nothing.path().display());
        let mut words = vec![
            "-o",
            &status,
            "--print-uris",
            "-qq",
            "-y",
            "--no-install-recommends",
            "install",
        ];
        for interpreter in interpreters {
            words.push(interpreter.package());
        }
        others = parse_uris(&apt(&words, here)?);
        others.sort();
    }
    Ok(Packages {
        kernel,
        busybox,
        erofs,
        others,
    })
}

fn from_folder(folder: &Path) -> Result<Packages, BuildError> {
    let cannot = |source| BuildError::io(format!("read `{}`", folder.display()), source);
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.ends_with(".deb") {
            let hash = hash_of(&path)?;
            packages.push(Package { file, hash });
        }
    }
    packages.sort();
    let mut take = |what: &str, fits: &dyn Fn(&str) -> bool| {
        let index = packages.iter().rposition(|package| fits(package.name()));
        let index = index.ok_or_else(|| BuildError::NoPackage(format!("{what}` in `{}", folder.display())))?;
        Ok::<_, BuildError>(packages.remove(index))
    };
    let is_kernel = |name: &str| {
        let version = name.strip_prefix("linux-image-").unwrap_or_default();
        version.starts_with(|first: char| first.is_ascii_digit())
    };
    Ok(Packages {
        kernel: take("linux-image-VERSION-cloud-amd64", &is_kernel)?,
        busybox: take(TOOLS[0], &|name| name == TOOLS[0])?,
        erofs: take(TOOLS[1], &|name| name == TOOLS[1])?,
        others: packages
            .into_iter()
            .filter(|package| !package.name().starts_with("linux-image-"))
            .collect(),
    })
}

/// Lines of `'URI' FILE SIZE HASH`.
fn parse_uris(text: &str) -> Vec<Package> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_whitespace().skip(1);
        let (file, size, hash) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let sound = file.ends_with(".deb") && !file.contains('/') && size.parse::<u64>().ok()? <= PACKAGE_BYTES_MAX;
        sound.then(|| Package {
            file: file.to_owned(),
            hash: hash.to_owned(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// The hash of a file, as the archive writes it.
fn hash_of(path: &Path) -> Result<String, BuildError> {
    Ok(format!("SHA256:{}", digest_of(path)?))
}

/// The digest of a file.
pub fn digest_of(path: &Path) -> Result<Digest, BuildError> {
    let cannot = |source| BuildError::io(format!("read `{}`", path.display()), source);
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece).map_err(cannot)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&piece[..count]),
        }
    }
}

fn apt(words: &[&str], folder: &Path) -> Result<String, BuildError> {
    // Where root may not hand the work to another user, it says so on each download.
    let sandbox = ["-o", "APT::Sandbox::User=root"];
    let mut command = Command::new("apt-get");
    if rustix::process::geteuid().is_root() {
        command.args(sandbox);
    }
    output(command.args(words).current_dir(folder), "apt-get")
}

fn apt_cache(words: &[&str]) -> Result<String, BuildError> {
    output(Command::new("apt-cache").args(words), "apt-cache")
}

fn output(command: &mut Command, program: &'static str) -> Result<String, BuildError> {
    if on_path(program).is_none() {
        return Err(BuildError::NotDebian(program));
    }
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|source| BuildError::io(format!("run `{program}`"), source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("E: ")).collect();
    let said = said.first().map_or("it failed", |line| &line[3..]).to_owned();
    if said.contains("Unable to locate") || said.contains("No packages found") || said.contains("Can't select") {
        return Err(BuildError::NoLists(said));
    }
    Err(BuildError::Fetch { program, said })
}

/// Hands each plain file, folder and link in a package to `take`, by its path without a leading slash.
pub fn unpack(
    package: &Path,
    take: &mut dyn FnMut(&Path, &mut tar::Entry<'_, std::process::ChildStdout>) -> std::io::Result<()>,
) -> Result<(), BuildError> {
    if on_path("dpkg-deb").is_none() {
        return Err(BuildError::NotDebian("dpkg-deb"));
    }
    let fault = |reason: String| BuildError::Package {
        file: package.display().to_string(),
        reason,
    };
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| fault(error.to_string()))?;
    let mut archive = tar::Archive::new(child.stdout.take().expect("standard output is piped"));
    let mut read = || {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let plain = path.components().filter(|part| !matches!(part, Component::CurDir));
            let path: PathBuf = plain.collect();
            if path.components().all(|part| matches!(part, Component::Normal(_))) {
                take(&path, &mut entry)?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let result = read();
    drop(archive);
    let status = child.wait().map_err(|error| fault(error.to_string()))?;
    result.map_err(|error| fault(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(fault("`dpkg-deb` cannot read it".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_packages_are_read() {
        let text = "'http://host/pool/b/busybox-static_1.35_amd64.deb' busybox-static_1%3a1.35.0-4+b1_amd64.deb 928188 \
                    SHA256:3d3f\nW: noise\n'http://host/x' ../x.deb 1 SHA256:00\n'http://host/y' y.deb huge SHA256:00\n";
        let package = Package {
            file: "busybox-static_1%3a1.35.0-4+b1_amd64.deb".to_owned(),
            hash: "SHA256:3d3f".to_owned(),
        };
        assert_eq!(parse_uris(text), std::slice::from_ref(&package));
        assert_eq!(package.exactly(), "busybox-static=1:1.35.0-4+b1");
    }

    #[test]
    fn a_folder_without_a_package_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Packages::find(&Source::Folder(folder.path().to_path_buf()), &[])
            .unwrap_err()
            .to_string();
        assert!(missing.contains("linux-image-"), "{missing}");
        for name in [
            "linux-image-6.1.0-56-cloud-amd64_6.1_amd64.deb",
            "linux-image-cloud-amd64_6.1_amd64.deb",
        ] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let missing = Packages::find(&Source::Folder(folder.path().to_path_buf()), &[])
            .unwrap_err()
            .to_string();
        assert!(missing.contains("busybox-static"), "{missing}");
        for name in [
            "busybox-static_1_amd64.deb",
            "erofs-utils_1_amd64.deb",
            "python3_3_amd64.deb",
        ] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let found = Packages::find(&Source::Folder(folder.path().to_path_buf()), &[]).unwrap();
        assert_eq!(found.kernel.name(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(found.others.len(), 1);
        assert_eq!(found.others[0].name(), "python3");
    }
}
