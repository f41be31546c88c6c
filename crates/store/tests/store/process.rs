//! This test binary, run once more as a child that does a test's dangerous part.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Tells the child which folder to work in; its absence makes a process the parent.
const FOLDER: &str = "BOWLINE_STORE_TEST_FOLDER";
/// Tells the child what to do there.
const TASK: &str = "BOWLINE_STORE_TEST_TASK";
/// Begins every line that a child says to its parent; the test harness says other things.
const MARK: &str = "child: ";

/// What this process is to do, if it is a child.
pub fn task() -> Option<(PathBuf, String)> {
    Some((env::var_os(FOLDER)?.into(), env::var(TASK).unwrap()))
}

/// Says `line` to the parent, in one piece.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A parent that is gone needs no answer; the child is about to be killed with it.
    let _ = out.write_all(format!("\n{MARK}{line}\n").as_bytes());
    let _ = out.flush();
}

/// Waits until the parent closes the child's standard input.
pub fn wait_for_parent() {
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

/// The command that runs the test `name` of this binary as a child.
pub fn command(name: &str, folder: &Path, task: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(TASK, task);
    command
}

/// A child that is killed when dropped.
pub struct Worker {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(name: &str, folder: &Path, task: &str) -> Self {
        Self::run(command(name, folder, task))
    }

    /// The same with one more variable in the child's environment.
    pub fn start_with(name: &str, folder: &Path, task: &str, (variable, value): (&str, &str)) -> Self {
        let mut command = command(name, folder, task);
        command.env(variable, value);
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
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

    /// Sends SIGKILL and returns what the child had said and was not read yet.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let rest = std::iter::from_fn(|| self.next_line()).collect();
        self.child.wait().unwrap();
        rest
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
