//! Starts a spawner, runs Python scripts in cells and, as controls, outside of them.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as HostCommand, Stdio};

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::ProcessorShare;
use bowline_sandbox_linux::cell::{
    Cell, CellError, CellPlan, CellUsage, Command, Exit, ExitStatus, Furnishing, Spawner, SpawnerOptions, Start,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

/// The program that the tests start as spawner.
pub const SPAWNER: &str = env!("CARGO_BIN_EXE_cell-spawner");
const PYTHON: &str = "/usr/bin/python3";

/// What every script begins with: names errors by their symbol.
const PRELUDE: &str = r#"
import ctypes, errno, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what):
    try:
        what()
        print("ok")
    except OSError as e:
        print(errno.errorcode.get(e.errno, e.errno))
def call(function, *arguments):
    ctypes.set_errno(0)
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "call")
"#;

/// A spawner with a folder of its own.
pub struct Bench {
    pub spawner: Spawner,
    pub dir: TempDir,
}

impl Bench {
    pub fn start() -> Self {
        let dir = world_readable_dir();
        let options = SpawnerOptions {
            state_dir: dir.path().join("state"),
            program: Some(SPAWNER.into()),
        };
        let spawner = Spawner::start(options).expect("the spawner starts");
        Self { spawner, dir }
    }

    /// A code folder with `script` in it.
    pub fn code(&self, script: &str) -> PathBuf {
        let code = tempfile::Builder::new()
            .prefix("code")
            .tempdir_in(self.dir.path())
            .unwrap()
            .keep();
        fs::set_permissions(&code, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(code.join("script.py"), format!("{PRELUDE}{script}")).unwrap();
        // Writable by mode, so that a refusal is the mount's.
        fs::set_permissions(code.join("script.py"), fs::Permissions::from_mode(0o666)).unwrap();
        code
    }

    /// A cell that was furnished with `script` but does not run it yet.
    pub async fn furnished(&self, script: &str, furnishing: impl FnOnce(&mut Furnishing)) -> Cell {
        let plan = CellPlan {
            binds: Vec::new(),
            image: None,
            start: Start::Later,
        };
        let mut cell = self.spawner.create(plan).await.expect("a cell is made");
        let mut wanted = Furnishing {
            code: Some(self.code(script)),
            layers: None,
            mounts: Vec::new(),
            tmp: Mebibytes(16),
            memory: Mebibytes(256),
            processors: ProcessorShare::of(2000),
            pids: 64,
        };
        furnishing(&mut wanted);
        cell.furnish(wanted).await.expect("it is furnished");
        cell
    }

    /// A cell that runs `script`.
    pub async fn running(&self, script: &str, furnishing: impl FnOnce(&mut Furnishing)) -> Cell {
        let mut cell = self.furnished(script, furnishing).await;
        cell.exec(python("/var/task/script.py"))
            .await
            .expect("python is executed");
        cell
    }

    /// What `script` printed and how it ended, in a cell.
    pub async fn run_with(&self, script: &str, furnishing: impl FnOnce(&mut Furnishing)) -> Outcome {
        let mut cell = self.running(script, furnishing).await;
        let output = read_all(cell.take_output()).await;
        let exit = wait(&mut cell).await;
        let usage = cell.usage();
        cell.destroy().await;
        Outcome { output, exit, usage }
    }

    pub async fn run(&self, script: &str) -> Outcome {
        self.run_with(script, |_| {}).await
    }

    /// Runs `script` outside and inside and compares what it prints.
    pub async fn check(&self, script: &str, outside: &str, inside: &str) {
        let control = HostCommand::new(PYTHON)
            .arg(self.code(script).join("script.py"))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&control.stdout).trim().to_owned();
        assert_eq!(
            printed,
            outside,
            "outside: {}",
            String::from_utf8_lossy(&control.stderr)
        );
        let outcome = self.run(script).await;
        assert_eq!(
            outcome.output.trim(),
            inside,
            "inside; it ended with {}",
            outcome.exit.status
        );
    }
}

/// What a script did in a cell.
#[derive(Debug)]
pub struct Outcome {
    pub output: String,
    pub exit: Exit,
    pub usage: CellUsage,
}

impl Outcome {
    pub fn lines(&self) -> Vec<&str> {
        self.output.lines().collect()
    }

    pub fn succeeded(&self) -> bool {
        self.exit.status == ExitStatus::Code(0)
    }
}

/// The host's Python with a script.
pub fn python(script: &str) -> Command {
    Command {
        argv: [PYTHON, "-I", "-S", script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/tmp".into(),
    }
}

pub fn world_readable_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Everything that comes out of a pipe until its last writer is gone.
pub async fn read_all(pipe: OwnedFd) -> String {
    let mut text = String::new();
    lines(pipe).read_to_string(&mut text).await.unwrap();
    text
}

/// A pipe to be read by lines.
pub fn lines(pipe: OwnedFd) -> BufReader<pipe::Receiver> {
    BufReader::new(pipe::Receiver::from_owned_fd(pipe).unwrap())
}

/// The next line.
pub async fn read_line(pipe: &mut BufReader<pipe::Receiver>) -> String {
    let mut line = String::new();
    pipe.read_line(&mut line).await.unwrap();
    line.trim_end().to_owned()
}

/// Waits for a descriptor of a process to tell its end.
pub async fn gone(pidfd: impl AsFd) {
    let pidfd = pidfd.as_fd().try_clone_to_owned().unwrap();
    let wait = move || {
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(
            poll(&mut watched, Some(&limit)).unwrap(),
            1,
            "the process ends in a minute"
        );
    };
    tokio::task::spawn_blocking(wait).await.unwrap();
}

/// Waits for a cell's guest to end.
pub async fn wait(cell: &mut Cell) -> Exit {
    gone(cell.pidfd()).await;
    // The init's word is on its way before it ends; the spawner's only after.
    loop {
        if let Some(exit) = cell.try_exit() {
            return exit;
        }
        tokio::task::yield_now().await;
    }
}

/// The host's processes whose command line contains `needle`.
pub fn processes_with(needle: &str) -> Vec<i32> {
    let pid_of = |entry: fs::DirEntry| -> Option<i32> {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(needle).then_some(pid)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(pid_of).collect()
}

/// The cgroups of spawners whose state folder is `state_dir`, found by their name.
pub fn cgroups(state_dir: &Path) -> Vec<PathBuf> {
    let hash = state_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    let mark = format!("bowline-{hash:08x}-");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.path().to_string_lossy().contains(&mark) {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Whether the tests run as root; says so loudly if not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, it takes root");
    }
    root
}

/// The step and the error number of a failure.
pub fn step_of(error: CellError) -> (String, Option<i32>) {
    match error {
        CellError::Step { step, source } => (step, source.raw_os_error()),
        other => panic!("not a failed step: {other}"),
    }
}

/// Runs a program on the host with its output captured.
pub fn host(program: &str, arguments: &[&str]) -> String {
    let output = HostCommand::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
