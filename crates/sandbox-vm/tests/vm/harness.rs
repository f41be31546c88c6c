//! An image and a golden snapshot for all tests, built once and kept in the target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::image::{Build, Source, build};
use bowline_sandbox_vm::{Golden, Host, Image, Machine, Options, Vm};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// More than any program of these tests takes.
pub const SOON: Duration = Duration::from_secs(60);

/// What one test has.
pub struct World {
    pub host: Arc<Host>,
    pub image: Arc<Image>,
    pub folder: TempDir,
}

/// Where images and snapshots are kept between runs.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm")
}

pub fn agent() -> PathBuf {
    env!("CARGO_BIN_EXE_vm-guest").into()
}

/// Packages that were fetched before, or else from where this machine's own come from.
pub fn build_in(folder: &Path) -> bowline_sandbox_vm::image::Built {
    let make = |packages| {
        let wanted = Build {
            folder: folder.to_path_buf(),
            agent: agent(),
            packages,
            interpreters: Vec::new(),
        };
        build(&wanted, &|_| {})
    };
    make(Source::Folder(kept().join("packages"))).unwrap_or_else(|_| {
        let built = make(Source::Apt).unwrap();
        if folder != kept() {
            build_in(&kept());
        }
        built
    })
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let _alone = alone();
        let built = build_in(&kept());
        if !built.cached {
            forget_all_but(built.image.folder());
        }
        Self {
            host: host().await,
            image: Arc::new(built.image),
            folder,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn boot(&self, machine: Machine) -> Vm {
        Vm::boot(Arc::clone(&self.host), Arc::clone(&self.image), machine)
            .await
            .unwrap()
    }

    pub async fn restore(&self, path: &Path) -> Result<Vm, bowline_sandbox_vm::VmError> {
        Vm::restore(Arc::clone(&self.host), Arc::clone(&self.image), path).await
    }

    /// The golden snapshot that all tests share.
    pub async fn golden(&self) -> Golden {
        self.golden_of(Machine::micro(Mebibytes(256))).await
    }

    /// That of other machines.
    pub async fn golden_of(&self, machine: Machine) -> Golden {
        let _alone = alone();
        let folder = kept().join("golden");
        Golden::make(Arc::clone(&self.host), Arc::clone(&self.image), &machine, &folder)
            .await
            .unwrap()
    }
}

/// Removes images of earlier agents, and the snapshots that were made of them.
fn forget_all_but(image: &Path) {
    let _ = std::fs::remove_dir_all(kept().join("golden"));
    for entry in std::fs::read_dir(kept()).unwrap().flatten() {
        let path = entry.path();
        if path != image && path.join("image.json").is_file() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

/// A host whose mark no other has, in this process or another: they would remove each other's machines.
pub async fn host() -> Arc<Host> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let host = Host::find(Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        mark: format!("test-{}-{number}", std::process::id()),
        program: agent(),
    });
    Arc::new(host.await.unwrap())
}

/// Runs a shell command in a guest; gives its output.
pub async fn shell(vm: &Vm, command: &str) -> String {
    let ran = vm.run(&["/bin/busybox", "sh", "-c", command], SOON).await.unwrap();
    let output = String::from_utf8_lossy(&ran.output).trim().to_owned();
    assert_eq!(ran.code, Some(0), "`{command}` said: {output}");
    output
}

/// Keeps other tests' processes out while something shared is made.
fn alone() -> File {
    std::fs::create_dir_all(kept()).unwrap();
    let lock = File::create(kept().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}
