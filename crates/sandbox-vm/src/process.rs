//! One QEMU process: how it is born, that it dies with the node, and what is noticed when it ends.
//!
//! A thread of its own starts it, reads its last words and waits for it. The kernel kills the child when that thread
//! ends, and the thread ends only after the child: so QEMU never outlives the node.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use bowline_sandbox_linux::cell::cgroup::Group;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use crate::sys::{self, Birth};

/// How much of what QEMU and the guest's console say is remembered.
const LAST_WORDS_BYTES: usize = 4096;
/// Files are lifted above this before the fork, so that none is in the way of another's number.
const ABOVE: i32 = 64;

/// How to start QEMU.
pub struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// In the order of [`crate::machine::File`].
    pub files: Vec<OwnedFd>,
    pub group: Option<Group>,
    pub user: Option<u32>,
}

/// A QEMU that runs, or has ended; killed when dropped.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: OwnedFd,
    ended: watch::Receiver<Option<String>>,
}

impl Process {
    /// Starts it.
    pub fn start(launch: Launch) -> io::Result<Self> {
        let (started, starts) = mpsc::channel();
        let (ends, ended) = watch::channel(None);
        std::thread::Builder::new()
            .name("qemu".to_owned())
            .spawn(move || keep(launch, &started, &ends))?;
        let (pid, handle) = starts.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        Ok(Self { pid, handle, ended })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has ended; gives its last words.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let words = ended.wait_for(Option::is_some).await;
        words.ok().and_then(|words| words.clone()).unwrap_or_default()
    }

    /// Its last words, if it has ended.
    pub fn last_words(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Kills it, without waiting.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Started = io::Result<(u32, OwnedFd)>;

/// The life of the thread.
fn keep(launch: Launch, started: &mpsc::Sender<Started>, ends: &watch::Sender<Option<String>>) {
    let group = launch.group;
    let begun = begin(
        launch.program,
        &launch.arguments,
        (launch.files, group.as_ref(), launch.user),
    );
    let (mut child, mut output) = match begun {
        Ok((child, handle, output)) => {
            let _ = started.send(Ok((child.id(), handle)));
            (child, output)
        }
        Err(error) => {
            if let Some(group) = group {
                let _ = group.remove();
            }
            let _ = started.send(Err(error));
            return;
        }
    };
    let mut words = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = output.read(&mut piece) {
        words.extend_from_slice(&piece[..count]);
        let excess = words.len().saturating_sub(LAST_WORDS_BYTES);
        words.drain(..excess);
    }
    let status = child.wait();
    if let Some(group) = group {
        let _ = group.remove();
    }
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let words = String::from_utf8_lossy(&words);
    let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = words[words.len().saturating_sub(5)..].join("; ");
    let _ = ends.send(Some(format!("{status} {last}").trim().to_owned()));
}

fn begin(
    program: PathBuf,
    arguments: &[String],
    (files, group, user): (Vec<OwnedFd>, Option<&Group>, Option<u32>),
) -> io::Result<(std::process::Child, OwnedFd, io::PipeReader)> {
    let (output, input) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let lift = |file: &OwnedFd| Ok(fcntl_dupfd_cloexec(file, ABOVE)?);
    let files = files.iter().map(lift).collect::<io::Result<Vec<_>>>()?;
    let groups = group.map_or_else(|| Ok(Vec::new()), Group::entrances)?;
    let groups = groups.iter().map(lift).collect::<io::Result<Vec<_>>>()?;
    sys::prepare(&mut command, Birth { files, groups, user });
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok((child, handle, output)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}
