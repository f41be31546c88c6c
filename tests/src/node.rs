//! A running node: the real binary on a free port, with a data folder of its own.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
pub use bowline_test_postgres::free_port;
use tempfile::TempDir;

use crate::{Lambda, patience, place};

const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 60;

/// A node and its data; both go when it is dropped.
pub struct Node {
    program: PathBuf,
    child: Child,
    port: u16,
    folder: TempDir,
    settings: Settings,
}

/// What a test sets of a node.
#[derive(Clone, Default)]
pub struct Settings {
    /// The data folder, if not one of the node's own.
    pub data: Option<PathBuf>,
    /// Where on loopback it listens, if not on 127.0.0.1.
    pub address: Option<Ipv4Addr>,
    pub environment: Vec<(OsString, OsString)>,
}

impl Settings {
    fn listen(&self, port: u16) -> String {
        format!("{}:{port}", self.address.unwrap_or(Ipv4Addr::LOCALHOST))
    }
}

impl Node {
    /// Starts a node on an empty data folder and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_program(&binary()?)
    }

    /// Starts a node with settings of its own.
    pub fn start_with(settings: Settings) -> Result<Self> {
        Self::start_build(&binary()?, settings)
    }

    /// Starts a node of another build, the release one say.
    pub fn start_program(program: &Path) -> Result<Self> {
        Self::start_build(program, Settings::default())
    }

    /// Starts a node of another build with settings of its own.
    pub fn start_build(program: &Path, settings: Settings) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bowline-test-").tempdir()?;
        let port = free_port()?;
        let child = spawn(program, folder.path(), port, &settings)?;
        let mut node = Self {
            program: program.to_owned(),
            child,
            port,
            folder,
            settings,
        };
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Starts the node again on the same data and port, after [`Node::kill`] or [`Node::terminate`].
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.program, self.folder.path(), self.port, &self.settings)?;
        self.wait_until_ready()
    }

    /// Kills the node at once (SIGKILL), as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the node to stop (SIGTERM) without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal("-TERM")
    }

    /// Asks the node to read its files again (SIGHUP).
    pub fn hang_up(&self) -> Result<()> {
        self.signal("-HUP")
    }

    /// Stops the node between two instructions (SIGSTOP), as an overloaded machine might.
    pub fn freeze(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Ends [`Node::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()?;
        if !status.success() {
            bail!("the node (process {}) is not there to get {signal}", self.child.id());
        }
        Ok(())
    }

    /// Waits for the node to end after [`Node::terminate`].
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let ended = patience::until(STOP_MAX, || self.child.try_wait().transpose());
        ended
            .with_context(|| format!("the node did not end within {STOP_MAX:?}"))?
            .context("cannot wait")
    }

    /// Whether it stands still, after [`Node::freeze`] or because it has stopped itself.
    pub fn is_frozen(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process's resident memory, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line
            .and_then(|line| line.split_whitespace().next())
            .context("no VmRSS in the status")?;
        Ok(kibibytes.parse::<u64>()? * 1024)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.settings.listen(self.port)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A client of the node's Lambda API.
    pub fn lambda(&self) -> Lambda {
        Lambda::new(&self.endpoint())
    }

    /// The node's data folder.
    pub fn data(&self) -> PathBuf {
        data_folder(self.folder.path(), &self.settings)
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let lambda = self.lambda();
        let answer = patience::until(START_MAX, || match self.child.try_wait() {
            Ok(None) => lambda
                .get("/healthz")
                .ok()
                // A node that speaks HTTPS says so with 400.
                .filter(|reply| matches!(reply.status, 200 | 400))
                .map(|_| Ok(())),
            Ok(Some(status)) => Some(Err(format!("the node ended with {status} while it started"))),
            Err(error) => Some(Err(error.to_string())),
        });
        match answer {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => bail!("{why}\n{}", self.log()),
            None => bail!("the node did not answer within {START_MAX:?}\n{}", self.log()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_running() {
            // A clean stop lets the node remove its sandboxes; a node that does not stop is killed.
            let stopped = self.terminate().is_ok() && self.wait_for_end().is_ok();
            if !stopped {
                let _ = self.kill();
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the node's last log lines:");
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("  {line}");
            }
        }
    }
}

fn data_folder(folder: &Path, settings: &Settings) -> PathBuf {
    settings.data.clone().unwrap_or_else(|| folder.join("data"))
}

fn spawn(program: &Path, folder: &Path, port: u16, settings: &Settings) -> Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    Command::new(program)
        .arg("up")
        .args(["--listen", &settings.listen(port)])
        .arg("--data")
        .arg(data_folder(folder, settings))
        .envs(settings.environment.iter().cloned())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start `{}`", program.display()))
}

/// The server's binary: `BOWLINE_BIN`, or what the last `cargo build` made.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BOWLINE_BIN") {
        return Ok(path.into());
    }
    let path = place::target().join("debug/bowline");
    if !path.is_file() {
        bail!("`{}` is not built: run `cargo build -p bowline` first", path.display());
    }
    Ok(path)
}
