//! Instances with real processes: made from files, watched, repaired, cut off and replaced. Labels are those of the
//! system's description.

mod basics;
mod chaos;
mod crashes;
mod failures;
mod fleets;
mod folders;
mod functions;
mod machine_folders;
mod machines;
mod ports;
mod room;
mod sandboxes;
mod schedules;
mod suspended;
mod versions;
mod volumes;

use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bowline_foundation::digest::Digest;
use bowline_tests::node::Settings;
use bowline_tests::{Lambda, Node, patience};
use serde_json::{Value, json};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "000000000000";

/// The node's instances, as a client sees them.
struct Fleet {
    lambda: Lambda,
    endpoint: String,
    data: PathBuf,
}

impl Fleet {
    fn of(node: &Node) -> Self {
        Self {
            lambda: node.lambda(),
            endpoint: node.endpoint(),
            data: node.data(),
        }
    }

    fn put(&self, id: &str, text: &str) -> Result<Value> {
        let path = format!("/v1/instance-files/{id}");
        let headers = [("content-type", "application/toml")];
        Ok(self
            .lambda
            .send("PUT", &path, &headers, text.as_bytes())?
            .expect(200)?
            .json())
    }

    /// Puts a file and makes an instance from it.
    fn make(&self, id: &str, text: &str) -> Result<Value> {
        self.put(id, text)?;
        self.create(json!({ "file": id }))
    }

    fn create(&self, body: Value) -> Result<Value> {
        Ok(self.lambda.post("/v1/instances", &body)?.expect(201)?.json())
    }

    fn show(&self, name: &str) -> Result<Value> {
        Ok(self.lambda.get(&format!("/v1/instances/{name}"))?.expect(200)?.json())
    }

    /// Waits until an instance is as it should be.
    fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let last = std::cell::RefCell::new(Value::Null);
        let found = patience::until(PATIENCE, || {
            let shown = self.show(name).ok()?;
            let good = is(&shown);
            last.replace(shown.clone());
            good.then_some(shown)
        });
        found.with_context(|| {
            let history = self.lambda.get(&format!("/v1/instances/{name}/history"));
            let history = history.map(|reply| reply.json().to_string()).unwrap_or_default();
            format!(
                "`{name}` never was {what}: {}\n{history}\n{}",
                last.borrow(),
                self.agent_logs()
            )
        })
    }

    fn agent_logs(&self) -> String {
        let folders = std::fs::read_dir(self.data.join("instances"))
            .into_iter()
            .flatten()
            .flatten();
        let logs = folders.filter_map(|folder| std::fs::read_to_string(folder.path().join("agent.log")).ok());
        logs.collect()
    }

    fn running(&self, name: &str) -> Result<Value> {
        self.until(name, "running", |shown| shown["state"] == "RUNNING")
    }

    /// Waits until another server than `old` runs.
    fn replaced(&self, name: &str, old: &Value) -> Result<Value> {
        let old = &old["server"];
        self.until(name, "replaced", |shown| {
            shown["state"] == "RUNNING" && shown["server"] != *old
        })
    }

    fn inventory(&self, name: &str) -> Result<Value> {
        let path = format!("/v1/instances/{name}/inventory");
        Ok(self.lambda.get(&path)?.expect(200)?.json())
    }

    /// Gives a function other code, and publishes that; the new version's digest, in hexadecimal digits.
    fn publish(&self, name: &str, code: &[u8]) -> Result<String> {
        let body = json!({"ZipFile": BASE64_STANDARD.encode(code), "Publish": true});
        let path = format!("/2015-03-31/functions/{name}/code");
        let made = self.lambda.put(&path, &body)?.expect(200)?.json();
        self.lambda.wait_until_active(name)?;
        hexadecimal(made["CodeSha256"].as_str().context("no digest")?)
    }

    fn history(&self, name: &str) -> Result<Value> {
        Ok(self
            .lambda
            .get(&format!("/v1/instances/{name}/history"))?
            .expect(200)?
            .json())
    }

    /// What happened, in order: the event with its server.
    fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let history = self.history(name)?;
        let events = history["events"].as_array().context("no events")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(events
            .iter()
            .map(|event| (text(&event["what"]), text(&event["server"])))
            .collect())
    }

    /// A folder of the node's that a volume is.
    fn volume(&self, source: &str) -> PathBuf {
        self.data.join("volumes").join(ACCOUNT).join(source)
    }

    /// A file in a volume, once it is there.
    fn read(&self, source: &str, file: &str) -> Result<String> {
        let path = self.volume(source).join(file);
        let text = patience::until(PATIENCE, || {
            std::fs::read_to_string(&path).ok().filter(|text| !text.is_empty())
        });
        text.with_context(|| format!("`{}` never came: {}", path.display(), self.agent_logs()))
    }
}

/// A digest of the service's, as the node writes it.
fn hexadecimal(base64: &str) -> Result<String> {
    let bytes = BASE64_STANDARD.decode(base64)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The process of an instance's agent.
fn agent_pid(shown: &Value) -> Result<u32> {
    let detail = shown["detail"].as_str().context("no detail")?;
    Ok(detail.strip_prefix("process ").context("no process")?.parse()?)
}

fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} is not there to get {signal}");
    Ok(())
}

/// Whether a process still runs: one that has ended and waits to be reaped by whoever inherited it does nothing any more.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The running processes in control groups of instances of any node whose name holds `server`.
fn processes_of(server: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.contains(server) && runs(pid) {
            found.push(pid);
        }
    }
    found
}

/// What a service at an address says to whoever connects, once it listens: its instance runs before it does.
fn greeting(address: &str, port: u16) -> Result<String> {
    let mut text = String::new();
    let connected = patience::until(PATIENCE, || TcpStream::connect((address, port)).ok());
    let mut stream = connected.with_context(|| format!("nothing listens at {address}:{port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A service that answers each connection at the instance's address with its own text.
fn greeter(text: &str) -> String {
    let python = format!(
        "import os,socket; s=socket.create_server((os.environ['BOWLINE_ADDRESS'],7070)); \
         \nwhile True:\n c,_=s.accept(); c.sendall(b'{text}'); c.close()"
    );
    format!("[\"/usr/bin/python3\", \"-c\", {}]", json!(python))
}

/// A service of the shell.
fn shell(script: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", {}]", json!(script))
}

/// A file of a process instance with `rest` behind its head.
fn file(id: &str, memory_mib: u32, rest: &str) -> String {
    format!("id = \"{id}\"\nkind = \"process\"\n[resources]\nmemory_mib = {memory_mib}\n{rest}")
}

/// A node that leaves nothing of its instances when it stops: each test ends by looking.
struct Ground(Node);

impl Ground {
    fn start(settings: Settings) -> Result<Self> {
        Node::start_with(settings).map(Self)
    }
}

impl std::ops::Deref for Ground {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl std::ops::DerefMut for Ground {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.0
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // One that was killed leaves what the next one on its data removes.
        if !self.is_running() {
            return;
        }
        let stopped = self.terminate().is_ok() && self.wait_for_end().is_ok();
        let left = leftovers(&self.data());
        if !std::thread::panicking() {
            assert!(stopped, "the node does not stop: {}", self.log());
            assert_eq!(left, Vec::<String>::new(), "left behind: {}", self.log());
        }
    }
}

/// What the names of control groups of the node with this data have in them.
fn mark(data: &Path) -> String {
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    Digest::of(data.as_os_str().as_encoded_bytes()).to_string()[..12].to_owned()
}

/// The control groups of a process instance's server.
fn groups_of(data: &Path, server: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let prefix = format!("bowline-instance-{}-{server}", mark(data));
    groups(Path::new("/sys/fs/cgroup"), &prefix, &mut found);
    found.into_iter().map(PathBuf::from).collect()
}

/// Control groups, processes, mounts and folders of instances of the node with this data.
fn leftovers(data: &Path) -> Vec<String> {
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let mark = mark(&data);
    let mut found = Vec::new();
    for prefix in ["bowline-instance-", "bowline-vm-node-"] {
        groups(Path::new("/sys/fs/cgroup"), &format!("{prefix}{mark}-"), &mut found);
    }
    let folder = data.join("instances").display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&folder) {
            found.push(entry.path().display().to_string());
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts.lines().filter(|line| line.contains(&folder));
    found.extend(mounts.map(str::to_owned));
    let folders = std::fs::read_dir(data.join("instances"))
        .into_iter()
        .flatten()
        .flatten();
    found.extend(folders.map(|entry| entry.path().display().to_string()));
    found
}

fn groups(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path().display().to_string());
            }
            groups(&entry.path(), prefix, found);
        }
    }
}

fn node() -> Result<Ground> {
    node_with(&[])
}

fn node_with(environment: &[(&str, &str)]) -> Result<Ground> {
    Ground::start(Settings {
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Settings::default()
    })
}

/// The place of an event in the order; the first one of that server.
fn place(events: &[(String, String)], what: &str, server: &str) -> Result<usize> {
    let found = events
        .iter()
        .position(|(event, of)| event == what && (server.is_empty() || of == server));
    match found {
        Some(place) => Ok(place),
        None => bail!("no event `{what}` of `{server}` in {events:?}"),
    }
}
