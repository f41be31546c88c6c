//! Builds images from Debian's packages and the agent; what has been built of the same inputs is found again.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_foundation::digest::{Digest, Hasher};

use super::modules::{Modules, name_of};
use super::packages::{Packages, Source, digest_of, unpack};
use super::root::{self, Interpreter};
use super::{CURRENT, FORMAT, INITRD, Image, KERNEL, RECORD, ROOT, Record, initrd, kernel};
use crate::VmError;

/// Changes when images of the same inputs come out otherwise.
const BUILDER: &str = "bowline image 5";
/// Largest file that is taken out of a kernel package.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What to build.
pub struct Build {
    /// Where images and fetched packages are kept.
    pub folder: PathBuf,
    /// The program that is the guest's agent and first process.
    pub agent: PathBuf,
    pub packages: Source,
    pub interpreters: Vec<Interpreter>,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    pub image: Image,
    /// Whether it was there before.
    pub cached: bool,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("`{0}` is not here: images are built on Debian, or from a folder of its packages with `dpkg-deb`")]
    NotDebian(&'static str),
    #[error("Debian's packages are not known here ({0}); run `apt-get update`")]
    NoLists(String),
    #[error("`{program}` cannot fetch: {said}; is there a network? Packages can also be given as a folder")]
    Fetch { program: &'static str, said: String },
    #[error("there is no package `{0}`")]
    NoPackage(String),
    #[error("the package `{file}` is of no use: {reason}")]
    Package { file: String, reason: String },
    #[error("the kernel is of no use: {0}")]
    Kernel(String),
    #[error("the agent cannot run in a guest: {0}")]
    Agent(String),
    #[error("`{program}` failed: {said}")]
    Tool { program: &'static str, said: String },
    #[error(transparent)]
    Image(#[from] VmError),
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}

/// Builds an image, or finds it; `note` is told what is being done.
pub fn build(build: &Build, note: &dyn Fn(&str)) -> Result<Built, BuildError> {
    note("looking for packages");
    let packages = Packages::find(&build.packages, &build.interpreters)?;
    let libraries = root::libraries(&build.agent)?;
    let agent = digest_of(&build.agent)?;
    let name = name(&packages, agent, &libraries)?;
    let place = build.folder.join(name.to_string());
    let made = |source| BuildError::io(format!("make `{}`", place.display()), source);
    if let Ok(image) = Image::open(&place) {
        set_current(&build.folder, name).map_err(made)?;
        return Ok(Built { image, cached: true });
    }
    let (source, fetched) = match &build.packages {
        Source::Apt => (&build.packages, build.folder.join("packages")),
        Source::Folder(folder) => (&build.packages, folder.clone()),
    };
    packages.fetch(source, &fetched, note)?;
    fs::create_dir_all(&build.folder).map_err(made)?;
    let work = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(&build.folder)
        .map_err(made)?;
    let inputs = Inputs {
        packages: &packages,
        fetched: &fetched,
        agent: &build.agent,
        libraries: &libraries,
    };
    let digest = inputs.assemble(work.path(), note)?;
    let record = Record {
        format: FORMAT,
        digest,
        packages: packages.all().iter().map(|package| package.file.clone()).collect(),
        agent,
    };
    let text = serde_json::to_vec_pretty(&record).map_err(|error| made(error.into()))?;
    fs::write(work.path().join(RECORD), text).map_err(made)?;
    publish(work, &place).map_err(made)?;
    set_current(&build.folder, name).map_err(made)?;
    Ok(Built {
        image: Image::open(&place)?,
        cached: false,
    })
}

/// What an image of these inputs is called.
fn name(packages: &Packages, agent: Digest, libraries: &[PathBuf]) -> Result<Digest, BuildError> {
    let mut text = format!("{BUILDER}\nagent {agent}\n");
    for package in packages.all() {
        text.push_str(&format!("package {} {}\n", package.file, package.hash));
    }
    for library in libraries {
        text.push_str(&format!("library {} {}\n", library.display(), digest_of(library)?));
    }
    Ok(Digest::of(text.as_bytes()))
}

/// Gives a finished image its name, readable for all. Whoever was sooner with the same image wins.
fn publish(work: tempfile::TempDir, place: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    for name in [KERNEL, INITRD, ROOT, RECORD] {
        let file = fs::File::open(work.path().join(name))?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
    }
    match fs::rename(work.path(), place) {
        Ok(()) => {
            let _ = work.keep();
            Ok(())
        }
        Err(_) if place.join(RECORD).is_file() => Ok(()),
        Err(error) => Err(error),
    }
}

fn set_current(folder: &Path, name: Digest) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, name.to_string().as_bytes())?;
    file.persist(folder.join(CURRENT)).map_err(|error| error.error)?;
    Ok(())
}

struct Inputs<'a> {
    packages: &'a Packages,
    fetched: &'a Path,
    agent: &'a Path,
    libraries: &'a [PathBuf],
}

impl Inputs<'_> {
    /// Makes the three files in `place`; gives the digest over them.
    fn assemble(&self, place: &Path, note: &dyn Fn(&str)) -> Result<Digest, BuildError> {
        note("unpacking the kernel");
        let (image, modules) = self.kernel()?;
        let elf = match kernel::unpack(&image) {
            Ok(elf) => elf,
            Err(kernel::KernelError::Unknown) => image,
            Err(error) => return Err(BuildError::Kernel(error.to_string())),
        };
        let busybox = self.busybox()?;
        let put = |name: &str, content: &[u8]| {
            let path = place.join(name);
            fs::write(&path, content).map_err(|source| BuildError::io(format!("write `{}`", path.display()), source))
        };
        put(KERNEL, &elf)?;
        put(INITRD, &initrd::write(&busybox, &modules.wanted()?))?;
        note("writing the root");
        self.root(place, &busybox)?;
        let mut hasher = Hasher::default();
        for name in [KERNEL, INITRD, ROOT] {
            hasher.update(digest_of(&place.join(name))?.as_bytes());
        }
        Ok(hasher.finish())
    }

    fn kernel(&self) -> Result<(Vec<u8>, Modules), BuildError> {
        let mut image = Vec::new();
        let mut modules = Modules::default();
        let mut packed = Vec::new();
        unpack(&self.fetched.join(&self.packages.kernel.file), &mut |path, entry| {
            let text = path.to_string_lossy();
            let wanted = text.starts_with("boot/vmlinuz") || text.contains(".ko") || text.ends_with("modules.builtin");
            if !wanted || !entry.header().entry_type().is_file() {
                return Ok(());
            }
            let mut content = Vec::new();
            entry.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
            if text.starts_with("boot/") {
                image = content;
            } else if let Some(name) = name_of(&text) {
                if text.ends_with(".xz") {
                    packed.push(name.clone());
                }
                modules.files.insert(name, content);
            } else {
                let names = String::from_utf8_lossy(&content).into_owned();
                modules.built_in = names.lines().filter_map(name_of).collect();
            }
            Ok(())
        })?;
        for name in packed {
            let module = modules.files.remove(&name).unwrap_or_default();
            modules.files.insert(name, unxz(&module)?);
        }
        Ok((image, modules))
    }

    fn busybox(&self) -> Result<Vec<u8>, BuildError> {
        self.file_of(&self.packages.busybox.file, "busybox")
    }

    /// The program `name` of a package.
    fn file_of(&self, package: &str, name: &str) -> Result<Vec<u8>, BuildError> {
        let mut content = Vec::new();
        unpack(&self.fetched.join(package), &mut |path, entry| {
            let folder = path.parent().is_some_and(|folder| folder.ends_with("bin"));
            if folder && path.ends_with(name) && entry.header().entry_type().is_file() {
                entry.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
            }
            Ok(())
        })?;
        if content.is_empty() {
            return Err(BuildError::Package {
                file: package.to_owned(),
                reason: format!("`{name}` is not in it"),
            });
        }
        Ok(content)
    }

    fn root(&self, place: &Path, busybox: &[u8]) -> Result<(), BuildError> {
        let made = |source| BuildError::io("make the root", source);
        let tree = tempfile::tempdir_in(place).map_err(made)?;
        root::lay_out(tree.path()).map_err(made)?;
        for package in &self.packages.others {
            root::install(&self.fetched.join(&package.file), tree.path())?;
        }
        root::install_busybox(busybox, tree.path()).map_err(made)?;
        root::link_applets(tree.path())?;
        root::install_agent(self.agent, self.libraries, tree.path()).map_err(made)?;
        root::compile_python(tree.path())?;
        root::open_folders(tree.path()).map_err(made)?;
        let tools = tempfile::tempdir_in(place).map_err(made)?;
        let writer = tools.path().join("mkfs.erofs");
        fs::write(&writer, self.file_of(&self.packages.erofs.file, "mkfs.erofs")?).map_err(made)?;
        fs::set_permissions(&writer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(made)?;
        let mut command = Command::new(&writer);
        command.args([
            "--quiet",
            "--all-root",
            "-x-1",
            "-T0",
            "-U00000000-0000-0000-0000-000000000000",
        ]);
        command.arg(place.join(ROOT)).arg(tree.path());
        let output = command.stdin(Stdio::null()).output().map_err(made)?;
        if output.status.success() {
            return Ok(());
        }
        Err(BuildError::Tool {
            program: "mkfs.erofs",
            said: String::from_utf8_lossy(&output.stderr)
                .trim()
                .chars()
                .take(300)
                .collect(),
        })
    }
}

/// Unpacks a module with the machine's own program; newer kernels pack them so.
fn unxz(packed: &[u8]) -> Result<Vec<u8>, BuildError> {
    let cannot = |source| BuildError::io("run `xz`; on Debian: `apt-get install xz-utils`", source);
    let file = tempfile::NamedTempFile::new().map_err(cannot)?;
    fs::write(file.path(), packed).map_err(cannot)?;
    let output = Command::new("xz")
        .args(["-dc", "--format=xz"])
        .stdin(file.reopen().map_err(cannot)?)
        .output();
    let output = output.map_err(cannot)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(BuildError::Kernel("a module cannot be unpacked".to_owned()))
}
