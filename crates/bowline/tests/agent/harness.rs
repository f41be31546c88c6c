//! An agent that was started as the node would start it, without a place.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_agent::link::LinkNews;
use bowline_agent::{CodeWay, Link, LinkError, LinkOptions, UnixDial};
use bowline_foundation::clock::Clock;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// How long an agent may take to be there.
const START_TRIES: u32 = 400;
const START_TICK: Duration = Duration::from_millis(25);
/// How long one that was told to end may take.
const END_MAX: Duration = Duration::from_secs(30);

pub struct Agent {
    pub child: Child,
    pub folder: TempDir,
    socket: PathBuf,
    /// The last way to it.
    dial: Mutex<Option<Arc<UnixDial>>>,
}

impl Agent {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let socket = folder.path().join("agent.sock");
        // One cache for all tests: each of them may run in a process of its own.
        let child = Command::new(env!("CARGO_BIN_EXE_bowline"))
            .arg("agent")
            .args(["--prewarmed", "1", "--socket"])
            .arg(&socket)
            .arg("--state")
            .arg(folder.path().join("state"))
            .arg("--modules")
            .arg(scratch().join("cwasm"))
            .spawn()
            .expect("the agent starts");
        Self {
            child,
            folder,
            socket,
            dial: Mutex::default(),
        }
    }

    /// Connects with an epoch, once the agent is there.
    pub async fn connect(&self, epoch: u64, lease: Duration) -> Result<(Link, mpsc::Receiver<LinkNews>), LinkError> {
        for _ in 0..START_TRIES {
            let dial = Arc::new(UnixDial::new(self.socket.clone()));
            *self.dial.lock().expect("nobody panics with it") = Some(dial.clone());
            let options = LinkOptions {
                dial,
                epoch,
                lease,
                clock: Clock::system(),
                code: CodeWay::Shared,
                memory_mib: None,
                maxima: None,
                made_ahead: None,
            };
            match Link::connect(options).await {
                Err(LinkError::Io(_)) => tokio::time::sleep(START_TICK).await,
                connected => return connected,
            }
        }
        panic!("the agent does not listen on `{}`", self.socket.display())
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success(), "the agent is there to get {signal}");
    }

    /// The channels of the last connection that the agent has not ended.
    pub fn channels(&self) -> usize {
        let dial = self.dial.lock().expect("nobody panics with it");
        dial.as_ref().map_or(0, |dial| dial.open_channels())
    }
}

/// The processes that have `folder` among their words, but for the agent itself.
pub fn processes_of(folder: &Path, agent: u32) -> Vec<String> {
    let needle = folder.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let words = pids.filter(|pid| *pid != agent).filter_map(|pid| {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
        words.contains(&needle).then(|| format!("{pid}: {words}"))
    });
    words.collect()
}

/// Told to end, it ends what it runs; killed, it could not.
impl Drop for Agent {
    fn drop(&mut self) {
        let pid = self.child.id();
        let send = |signal: &str| Command::new("kill").args([signal, &pid.to_string()]).status();
        if matches!(self.child.try_wait(), Ok(None)) {
            // One that stands still goes on first.
            let _ = (send("-TERM"), send("-CONT"));
        }
        let child = &mut self.child;
        let in_time = std::thread::scope(|scope| {
            let (told, ended) = std::sync::mpsc::channel();
            scope.spawn(move || told.send(child.wait().is_ok()));
            let in_time = ended.recv_timeout(END_MAX).is_ok();
            if !in_time {
                let _ = send("-KILL");
            }
            in_time
        });
        let left = processes_of(self.folder.path(), pid);
        if !std::thread::panicking() {
            assert!(in_time, "the agent does not end when it is told to");
            assert_eq!(left, Vec::<String>::new(), "something of the agent is left");
        }
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .ancestors()
        .nth(2)
        .expect("the crate lies two levels below the root")
}

/// The folder for what the tests build and may use again.
pub fn scratch() -> PathBuf {
    let folder = root().join("target/probers");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}
