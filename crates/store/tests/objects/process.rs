//! This test binary, run once more as a child: a store's server, or a front end that is stopped.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Tells the child which folder to work in; its absence makes a process the parent.
const FOLDER: &str = "BOWLINE_OBJECTS_TEST_FOLDER";
/// Tells the child what to do there.
const TASK: &str = "BOWLINE_OBJECTS_TEST_TASK";
/// Begins every line that a child says to its parent; the test harness says other things.
const MARK: &str = "child: ";

/// What this process is to do, if it is a child.
pub fn task() -> Option<(PathBuf, String)> {
    Some((env::var_os(FOLDER)?.into(), env::var(TASK).unwrap()))
}

/// Says `line` to the parent, in one piece.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{MARK}{line}\n").as_bytes());
    let _ = out.flush();
}

/// Waits until the parent says something, or closes the child's standard input.
pub fn listen() {
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

/// A child that is killed when dropped.
pub struct Worker {
    child: Child,
    said: BufReader<ChildStdout>,
    heard: ChildStdin,
}

impl Worker {
    /// Runs the test `name` of this binary as a child.
    pub fn start(name: &str, folder: &Path, task: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(TASK, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let heard = child.stdin.take().unwrap();
        Self { child, said, heard }
    }

    /// The next line; none once the child is dead and everything it said is read.
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.strip_prefix(MARK) {
                return Some(said.trim_end().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Lets a child go on that listens.
    pub fn tell(&mut self) {
        self.heard.write_all(b"\n").unwrap();
        self.heard.flush().unwrap();
    }

    /// Sends the signal of this name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
