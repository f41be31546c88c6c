//! Real PostgreSQL servers for tests: private ones that a test may stop and kill, and one that is shared.
//!
//! A server keeps its data in a temporary folder and listens on loopback, on a port of its own, with
//! `fsync` on. It is gone, with its folder, when the test is, however the test ends.

mod cluster;
mod shared;

use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::cluster::Cluster;
pub use crate::cluster::{PASSWORD, Place, free_port, is_installed};
pub use crate::shared::{URL_VARIABLE, shared_url};

/// Waits for the end of its standard input, which the test holds open as long as it lives, and then ends
/// the server and removes its folder.
const WATCH: &str = r#"
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
[ -n "$pid" ] && kill -QUIT "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
rm -rf "$1"
"#;

/// A server of one test's own, ended when dropped and when the process dies.
pub struct Server {
    cluster: Cluster,
    watch: Child,
    /// Closing it tells the watch to clean up.
    alive: Option<ChildStdin>,
}

impl Server {
    /// Makes a database cluster and starts a server on it.
    pub fn start() -> Result<Self> {
        Self::start_at(Place::default())
    }

    /// The same, elsewhere.
    pub fn start_at(place: Place) -> Result<Self> {
        let parent = place.parent.clone().unwrap_or_else(std::env::temp_dir);
        let folder = TempDir::with_prefix_in("bowline-postgres-", parent)?;
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start `sh`")?;
        let alive = watch.stdin.take();
        // From here on the folder is the watch's to remove.
        let cluster = Cluster::create(&folder.keep(), place)?;
        let server = Self { cluster, watch, alive };
        server.cluster.start()?;
        Ok(server)
    }

    /// The address of its database, with a superuser and the password [`PASSWORD`].
    pub fn url(&self) -> String {
        self.cluster.url()
    }

    /// The port on loopback, the same after every start.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// Ends the server as its operator would: connections are cut, what is running is rolled back.
    pub fn stop(&self) -> Result<()> {
        self.cluster.stop("fast")
    }

    /// Ends the server as a crash would: nothing is rolled back, nothing flushed.
    pub fn crash(&self) -> Result<()> {
        self.cluster.stop("immediate")
    }

    /// Ends the server and all its processes by SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.cluster.kill()
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        self.cluster.is_running()
    }

    /// Starts the server again after its end.
    pub fn start_again(&self) -> Result<()> {
        self.cluster.start()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut alive) = self.alive.take() {
            // Only the end of the input matters.
            let _ = alive.flush();
        }
        let _ = self.watch.wait();
    }
}
