//! Three nodes on a database of their own, each a process; all of it is gone when the show is, however it ends.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bowline_foundation::clock::Clock;
use bowline_test_postgres::{Server, is_installed};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::client::{Client, function_path};

const NAMES: [&str; 3] = ["A", "B", "C"];
/// A node is dead for the others when it is silent for so long.
const LEASE_SECONDS: &str = "2";
const MEMORY: &str = "1GiB";
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Lines of a node's log that are shown if it does not start.
const LINES_SHOWN: usize = 20;

/// Reads the processes of the nodes, and `done` when they have ended. Should the demo die before, it ends them; then
/// it removes their folder.
const WATCH: &str = r#"
processes=
while read -r word; do
    case "$word" in
        done) processes= ;;
        *) processes="$processes $word" ;;
    esac
done
[ -z "$processes" ] || kill -KILL $processes 2>/dev/null
rm -rf "$1"
"#;

/// One of the nodes.
pub struct Node {
    pub name: &'static str,
    pub process: u32,
    pub url: String,
    pub client: Client,
    /// What the others call it.
    pub id: String,
}

/// What is on the stage; empty before it is set, and again when it was cleared.
#[derive(Default)]
pub struct Stage {
    nodes: OnceLock<Vec<Node>>,
    props: Mutex<Props>,
}

#[derive(Default)]
struct Props {
    is_over: bool,
    children: Vec<(&'static str, Child)>,
    watch: Option<(Child, ChildStdin)>,
    server: Option<Server>,
}

impl Stage {
    /// Starts everything, and waits until the nodes know each other.
    pub fn set(&self, clock: &Clock) -> anyhow::Result<()> {
        ensure!(
            is_installed(),
            "this demo needs PostgreSQL, by which its nodes share what they know, and `initdb` and `pg_ctl` are not \
             found: install it, `apt-get install postgresql` on Debian; nothing of it has to run"
        );
        let server = Server::start()?;
        let url = server.url();
        let folder = TempDir::with_prefix("bowline-demo-").context("cannot make a temporary folder")?;
        self.props.lock().server = Some(server);
        let watch = watch(folder.path())?;
        // From here on the folder is the watch's to remove.
        let folder = folder.keep();
        self.props.lock().watch = Some(watch);
        let nodes = NAMES.map(|name| self.start(name, &folder, &url));
        let mut nodes = nodes.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        for node in &mut nodes {
            node.id = self.meet(node, &folder, clock)?;
        }
        let _ = self.nodes.set(nodes);
        Ok(())
    }

    pub fn nodes(&self) -> &[Node] {
        self.nodes.get().map_or(&[], Vec::as_slice)
    }

    fn start(&self, name: &'static str, folder: &Path, store: &str) -> anyhow::Result<Node> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let own = folder.join(name);
        std::fs::create_dir(&own)?;
        let log = std::fs::File::create(own.join("log"))?;
        let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
        let inherited = std::env::vars_os().map(|(variable, _)| variable);
        for variable in inherited.filter(|variable| variable.to_string_lossy().starts_with("BOWLINE_")) {
            command.env_remove(variable);
        }
        command
            .args(["up", "--log-level", "warn", "--placement", "node"])
            .args(["--lease-seconds", LEASE_SECONDS, "--memory-budget", MEMORY])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--data")
            .arg(own.join("data"))
            .arg("--blobs")
            .arg(folder.join("blobs"))
            .env("BOWLINE_STORE", store)
            .current_dir(&own)
            // Ctrl-C is for the demo, which ends its nodes itself.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut props = self.props.lock();
        ensure!(!props.is_over, "the demo was told to stop");
        let child = command.spawn().with_context(|| format!("cannot start node {name}"))?;
        let process = child.id();
        props.children.push((name, child));
        if let Some((_, words)) = &mut props.watch {
            writeln!(words, "{process}")?;
        }
        let url = format!("http://127.0.0.1:{port}");
        Ok(Node {
            name,
            process,
            client: Client::new(&url),
            url,
            id: String::new(),
        })
    }

    /// Waits until the node knows all others; gives what it is called.
    fn meet(&self, node: &Node, folder: &Path, clock: &Clock) -> anyhow::Result<String> {
        let own = || {
            let page = node.client.get("/v1/nodes").ok()?;
            let nodes = page["items"].as_array()?;
            let ready = nodes.iter().filter(|node| node["state"] == "ready").count();
            let own = nodes.iter().find(|node| node["here"] == true)?;
            (ready == NAMES.len()).then(|| own["id"].to_string())
        };
        if let Some(id) = self.until(clock, START_MAX, own)? {
            return Ok(id);
        }
        let log = std::fs::read_to_string(folder.join(node.name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        bail!(
            "node {} does not answer at {}:\n{}",
            node.name,
            node.url,
            last.join("\n")
        )
    }

    /// Waits until all nodes can run a function.
    pub fn await_function(&self, clock: &Clock, name: &str) -> anyhow::Result<()> {
        let is_active = |node: &Node| {
            let path = function_path(name, "/configuration");
            let found = node.client.get(&path).ok()?;
            (found["State"] == "Active").then_some(())
        };
        for node in self.nodes() {
            let found = self.until(clock, START_MAX, || is_active(node))?;
            found.with_context(|| format!("node {} does not know the function", node.name))?;
        }
        Ok(())
    }

    /// Asks again and again; fails if the stage is cleared meanwhile.
    pub fn until<T>(
        &self,
        clock: &Clock,
        longest: Duration,
        mut question: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let began = clock.monotonic();
        while clock.monotonic().since(began) < longest {
            ensure!(!self.props.lock().is_over, "the demo was told to stop");
            if let Some(found) = question() {
                return Ok(Some(found));
            }
            std::thread::park_timeout(BETWEEN_LOOKS);
        }
        Ok(None)
    }

    /// Kills a node at once (SIGKILL).
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        let mut props = self.props.lock();
        let found = props.children.iter_mut().find(|(child, _)| *child == name);
        let (_, child) = found.context("the script names nodes that are there")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends all processes and removes what they kept. Whoever waits for a node finds it gone.
    pub fn clear(&self) {
        let mut props = self.props.lock();
        props.is_over = true;
        let clock = Clock::system();
        for (_, child) in &mut props.children {
            if matches!(child.try_wait(), Ok(None)) {
                stop(child);
            }
        }
        let began = clock.monotonic();
        for (_, child) in &mut props.children {
            while matches!(child.try_wait(), Ok(None)) && clock.monotonic().since(began) < STOP_MAX {
                std::thread::park_timeout(BETWEEN_LOOKS);
            }
            // One that has ended by itself cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
        props.children.clear();
        if let Some((mut watch, mut words)) = props.watch.take() {
            let _ = writeln!(words, "done");
            drop(words);
            let _ = watch.wait();
        }
        props.server = None;
    }
}

/// Asks a process to stop (SIGTERM).
fn stop(child: &Child) {
    let process = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(process) = process {
        // It may have ended meanwhile, which is as good.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    }
}

fn watch(folder: &Path) -> anyhow::Result<(Child, ChildStdin)> {
    let mut child = Command::new("sh")
        .args(["-c", WATCH, "watch"])
        .arg(folder)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start `sh`")?;
    let words = child.stdin.take().context("the watch has no input")?;
    Ok((child, words))
}
