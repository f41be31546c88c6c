//! Services of an instance: programs that its agent starts in order, watches and starts again when it is told to.
//!
//! ```text
//!   Serve ─▶ s1 spawned ─▶ healthy ─▶ s2 spawned ─▶ healthy ─▶ AllReady
//!                │                       │
//!                └── exits, or fails its check so many times in a row ─▶ Failed ─▶ (Restart) ─▶ Ready
//! ```
//! The agent judges nothing: it tells what it sees, and the node decides.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::output::{self, Kept};

/// The variable by which a service knows the instance's own address.
pub const ADDRESS_VARIABLE: &str = "BOWLINE_ADDRESS";
/// The variable by which a service knows which instance it is part of.
pub const INSTANCE_VARIABLE: &str = "BOWLINE_INSTANCE";
/// How soon a check that has never passed is repeated.
const FIRST_CHECKS: Duration = Duration::from_millis(50);

/// What an agent is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    pub instance: String,
    /// The instance's own address; without one services have none to call theirs.
    pub address: Option<String>,
    /// Where services are looked for by checks, in this order.
    pub hosts: Vec<IpAddr>,
    /// In the order in which they start.
    pub services: Vec<ServiceSpec>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Where others reach it, at the instance's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    pub health: Option<HealthSpec>,
}

/// How a service is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    pub probe: Probe,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// So many failures in a row mean that it is not.
    pub failures: u32,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Connects to this port where services are looked for.
    Tcp(u16),
    /// Runs a program; it passes by ending with 0.
    Command(Vec<String>),
}

/// How a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "kebab-case")]
pub enum ServiceNews {
    /// It was started, and has passed its check if it has one.
    Ready { service: String, pid: u32 },
    /// All of them are.
    AllReady,
    /// It ended, or does not pass its check.
    Failed { service: String, reason: String },
    /// It cannot be started at all.
    Unstartable { service: String, reason: String },
}

/// Runs services, one task each. Dropping it kills them.
pub(crate) struct Supervisor {
    running: BTreeMap<String, Running>,
    serve: Option<Serve>,
    log_dir: PathBuf,
    news: mpsc::Sender<ServiceNews>,
}

struct Running {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    pub fn new(log_dir: PathBuf, news: mpsc::Sender<ServiceNews>) -> Self {
        Self {
            running: BTreeMap::new(),
            serve: None,
            log_dir,
            news,
        }
    }

    /// Starts all services, in order; a failure ends it and is told.
    pub async fn serve(&mut self, serve: Serve) {
        self.running.clear();
        let services = serve.services.clone();
        self.serve = Some(serve);
        for service in services {
            if !self.start(&service).await {
                return;
            }
        }
        let _ = self.news.send(ServiceNews::AllReady).await;
    }

    /// Starts one service again.
    pub async fn restart(&mut self, name: &str) {
        let mut services = self.serve.iter().flat_map(|serve| &serve.services);
        let found = services.find(|service| service.name == name).cloned();
        if let Some(service) = found {
            self.start(&service).await;
        }
    }

    async fn start(&mut self, service: &ServiceSpec) -> bool {
        // The old one, if it still runs, ends first.
        self.running.remove(&service.name);
        let Some(serve) = &self.serve else { return false };
        let (ready, became_ready) = tokio::sync::oneshot::channel();
        let watch = Watch {
            spec: service.clone(),
            instance: serve.instance.clone(),
            address: serve.address.clone(),
            hosts: serve.hosts.clone(),
            log: self.log_dir.join(format!("{}.log", service.name)),
            news: self.news.clone(),
        };
        let task = tokio::spawn(watch.run(ready));
        self.running.insert(service.name.clone(), Running { task });
        became_ready.await.is_ok()
    }
}

/// One service with what it takes to run it.
struct Watch {
    spec: ServiceSpec,
    instance: String,
    address: Option<String>,
    hosts: Vec<IpAddr>,
    log: PathBuf,
    news: mpsc::Sender<ServiceNews>,
}

impl Watch {
    async fn run(self, ready: tokio::sync::oneshot::Sender<()>) {
        let service = self.spec.name.clone();
        let process = match self.spawn() {
            Ok(process) => process,
            Err(error) => {
                let reason = format!("`{}` cannot be started: {error}", self.spec.command[0]);
                let _ = self.news.send(ServiceNews::Unstartable { service, reason }).await;
                return;
            }
        };
        let reason = self.follow(process, ready).await;
        let _ = self.news.send(ServiceNews::Failed { service, reason }).await;
    }

    /// Waits for the end of the service, or of its health; says what happened.
    async fn follow(&self, mut process: Process, ready: tokio::sync::oneshot::Sender<()>) -> String {
        let mut ready = Some(ready);
        let mut failures = 0;
        loop {
            if let Some(wait) = self.next_check(ready.is_some()) {
                tokio::select! {
                    ended = process.child.wait() => return describe(ended),
                    () = sleep(wait) => {}
                }
            } else if ready.is_none() {
                return describe(process.child.wait().await);
            }
            let checked = tokio::select! {
                ended = process.child.wait() => return describe(ended),
                checked = self.check() => checked,
            };
            match checked {
                Ok(()) => {
                    failures = 0;
                    if let Some(ready) = ready.take() {
                        let service = self.spec.name.clone();
                        let _ = self
                            .news
                            .send(ServiceNews::Ready {
                                service,
                                pid: process.pid,
                            })
                            .await;
                        let _ = ready.send(());
                    }
                }
                // Until it has passed once the instance's boot deadline counts, not the number of failures.
                Err(_) if ready.is_some() => {}
                Err(reason) => {
                    failures += 1;
                    if self
                        .spec
                        .health
                        .as_ref()
                        .is_some_and(|health| failures >= health.failures)
                    {
                        return format!("it failed {failures} checks in a row: {reason}");
                    }
                }
            }
        }
    }

    /// How long to wait before the next check; `None` without one.
    fn next_check(&self, is_first: bool) -> Option<Duration> {
        let health = self.spec.health.as_ref()?;
        let interval = Duration::from_millis(health.interval_ms);
        Some(if is_first { interval.min(FIRST_CHECKS) } else { interval })
    }

    async fn check(&self) -> Result<(), String> {
        let Some(health) = &self.spec.health else { return Ok(()) };
        let limit = Duration::from_millis(health.timeout_ms);
        let probed = timeout(limit, self.probe(&health.probe)).await;
        probed.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }

    async fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp(port) => {
                let places: Vec<SocketAddr> = self.hosts.iter().map(|host| (*host, *port).into()).collect();
                let connected = TcpStream::connect(&places[..]).await;
                connected.map(drop).map_err(|error| {
                    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
                    format!("{}: {error}", places.join(" and "))
                })
            }
            Probe::Command(command) => {
                let mut command = self.command(command);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                let status = command.status().await.map_err(|error| error.to_string())?;
                status.success().then_some(()).ok_or_else(|| describe(Ok(status)))
            }
        }
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(&self.spec.environment);
        command.env(INSTANCE_VARIABLE, &self.instance);
        command.envs(self.address.as_ref().map(|address| (ADDRESS_VARIABLE, address)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn spawn(&self) -> io::Result<Process> {
        let (printed, kept) = output::keep(self.log.clone())?;
        let mut command = self.command(&self.spec.command);
        command.stdout(printed.try_clone()?).stderr(printed).process_group(0);
        let child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        Ok(Process {
            child,
            pid,
            _kept: kept,
        })
    }
}

/// A service's process, the leader of its group; all of them end with it.
struct Process {
    child: Child,
    pid: u32,
    /// Dropped after the kill below, so that the last words are heard.
    _kept: Kept,
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn describe(ended: io::Result<ExitStatus>) -> String {
    match ended {
        Err(error) => format!("it cannot be waited for: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with status {code}"),
            (_, Some(signal)) => format!("signal {signal} ended it"),
            _ => "it ended".to_owned(),
        },
    }
}
