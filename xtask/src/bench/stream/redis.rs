//! A `redis-server` that syncs its log before it answers.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_tests::{node, patience};
use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(10);

/// A running server; it ends when dropped, and its folder with it.
pub struct Redis {
    pub address: String,
    child: Child,
    _folder: TempDir,
}

impl Redis {
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = node::free_port()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
            .arg(folder.path())
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            // Neither snapshots nor rewrites of the log fall into a turn, its own or another's.
            .args(["--save", "", "--auto-aof-rewrite-percentage", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().context("cannot start `redis-server`")?;
        let address = format!("127.0.0.1:{port}");
        let redis = Self {
            address,
            child,
            _folder: folder,
        };
        let answers = patience::until(START_MAX, || TcpStream::connect(&redis.address).ok());
        answers.context("`redis-server` does not answer")?;
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
