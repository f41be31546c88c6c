//! A node and its command line as real processes, spoken to in the words of their users.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A WASI command that answers with its event, after a word on standard error.
pub const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 32) "echoing\n")
    (func $print (param $fd i32) (param $at i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $length))
        (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func (export "_start")
        (call $print (i32.const 2) (i32.const 32) (i32.const 8))
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $print (i32.const 1) (i32.const 64) (i32.load (i32.const 8)))))"#;

/// The program under test, without the settings of whoever runs the tests.
pub fn bowline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BOWLINE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Folders that outlive the node in them.
pub struct World {
    folder: TempDir,
}

/// A node that is ready.
pub struct Node {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub endpoint: String,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("echo.wasm"), wat::parse_str(ECHO).unwrap()).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command that starts a node on a free port.
    pub fn up(&self) -> Command {
        let mut command = bowline();
        command
            .args(["up", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.path("data"))
            .current_dir(self.folder.path());
        command
    }

    /// Starts a node and waits until it says that it is ready.
    pub fn start(&self) -> Node {
        let mut child = self.up().stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the node says where it is");
        let endpoint = ready["endpoint"].as_str().unwrap().to_owned();
        Node {
            child,
            stdout,
            endpoint,
        }
    }
}

impl Node {
    /// A client command against this node.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bowline();
        command.args(arguments).env("BOWLINE_ENDPOINT", &self.endpoint);
        command
    }

    /// Runs a client command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran(self.command(arguments).output().unwrap())
    }

    /// Deploys what lies at `path` and returns the function's configuration.
    pub fn deploy(&self, path: &Path, arguments: &[&str]) -> Ran {
        let path = path.to_str().unwrap();
        self.run(&[&["deploy", "--json", path], arguments].concat())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until the node's process has ended.
    pub fn ended(mut self) -> ExitStatus {
        let mut rest = String::new();
        while self.stdout.read_line(&mut rest).unwrap() > 0 {}
        self.child.wait().unwrap()
    }

    /// Asks the node to stop and waits until it has.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client command that has ended.
pub struct Ran(pub Output);

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// What it printed, which must be one JSON document of a command that succeeded.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).expect("one JSON document")
    }

    /// What it printed; it must have succeeded.
    pub fn ok(&self) -> String {
        assert_eq!(self.code(), Some(0), "{}{}", self.stdout(), self.stderr());
        self.stdout()
    }
}
