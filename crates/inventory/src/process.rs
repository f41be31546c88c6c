//! Servers that are processes: an agent in control groups and a file system of its own.
//!
//! ```text
//!   DATA/instances/SERVER/   agent.sock, agent.log, place.json, state/, code/      (goes with the server)
//!   DATA/volumes/ACCOUNT/SOURCE                                             (outlives it; with `.ext4` it is a virtual machine's)
//! ```

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::{Channel, CodeWay, Dial, FolderWay, Reading, UnixDial};
use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_linux::cell::desk::Desk;
use bowline_sandbox_linux::cell::meter::Meter;
use bowline_sandbox_linux::cell::place::{Place, PlaceLimits, PlaceMount, PlaceView};
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::file::{Kind, Mode};
use crate::provider::{Offer, ProvideError, Provider, Reached, ServerOrder, VOLUME_SUFFIX, other_kind};

/// Where an agent is handed folders, in its server's folder.
const DESK: &str = "desk.sock";
/// What a path of a Unix socket may be long.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long a killed agent may take to be reaped.
const REAP_MAX: Duration = Duration::from_secs(5);
/// The folder of the node's data that has compiled modules.
const MODULES: &str = "wasm";

/// How to make a [`ProcessProvider`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The program whose `agent` command is the agent.
    pub program: PathBuf,
    /// The node's data folder, as an absolute path.
    pub data: PathBuf,
    /// Sandboxes that an agent keeps ready for each runtime that starts slowly.
    pub prewarmed: usize,
    /// What all of these in one agent may use.
    pub prewarmed_memory: Mebibytes,
}

/// The way to an agent that is a process on this machine.
struct ProcessDial {
    channels: UnixDial,
    desk: Desk,
    meter: Option<Meter>,
}

#[async_trait]
impl Dial for ProcessDial {
    async fn dial(&self) -> io::Result<Channel> {
        self.channels.dial().await
    }

    fn read_meters(&self) -> Reading {
        Reading {
            memory_bytes: self.meter.as_ref().and_then(Meter::memory_bytes),
            cpu: self.meter.as_ref().and_then(Meter::cpu),
        }
    }

    fn folder_way(&self) -> FolderWay {
        FolderWay::HandedOver
    }

    async fn hand_over(&self, share: &str, tree: OwnedFd) -> io::Result<()> {
        self.desk.hand_over(share, tree).await.map_err(io::Error::other)
    }

    async fn take_back(&self, share: &str) -> io::Result<()> {
        self.desk.take_back(share).await.map_err(io::Error::other)
    }
}

/// Makes servers that are processes.
pub struct ProcessProvider {
    options: Options,
    /// What the names of all places of this node begin with.
    prefix: String,
    offer: Offer,
    children: Mutex<HashMap<String, Child>>,
}

impl ProcessProvider {
    /// # Errors
    /// If the folder of instances cannot be made.
    pub fn new(options: Options) -> io::Result<Self> {
        let mark = Digest::of(options.data.as_os_str().as_encoded_bytes()).to_string();
        let provider = Self {
            prefix: format!("bowline-instance-{}-", &mark[..12]),
            offer: machine(&options.data)?,
            options,
            children: Mutex::default(),
        };
        private(&provider.root())?;
        Ok(provider)
    }

    fn root(&self) -> PathBuf {
        self.options.data.join("instances")
    }

    /// The name of a server's place.
    fn place(&self, server: &str) -> String {
        format!("{}{server}", self.prefix)
    }

    fn folder(&self, server: &str) -> PathBuf {
        self.root().join(server)
    }

    /// Where the node lays the code that runs in a server; the server reads it.
    fn code(&self, server: &str) -> PathBuf {
        self.folder(server).join("code")
    }

    fn volume(&self, order: &ServerOrder, source: &str) -> PathBuf {
        self.options
            .data
            .join("volumes")
            .join(order.account.as_str())
            .join(source)
    }

    fn set_up(&self, order: &ServerOrder) -> io::Result<PlaceView> {
        let effective = &order.effective;
        let place = Place::make(
            &self.place(&order.server),
            &PlaceLimits {
                memory_bytes: u64::from(effective.memory_mib) << 20,
                cpu_millis: effective.cpu_millis,
                pids: effective.processes,
            },
        )?;
        let state = self.folder(&order.server).join("state");
        private(&state)?;
        let mut mounts = Vec::new();
        for volume in &effective.volumes {
            let source = self.volume(order, &volume.source);
            private(&source)?;
            mounts.push(PlaceMount {
                source,
                target: volume.mount.clone().into(),
                read_only: volume.mode == Mode::Ro,
            });
        }
        let code = self.code(&order.server);
        private(&code)?;
        Ok(PlaceView {
            groups: place.groups().to_vec(),
            hidden: vec![self.options.data.clone()],
            shown: vec![code],
            writable: vec![state],
            mounts,
        })
    }

    fn start(&self, order: &ServerOrder) -> io::Result<(Child, PathBuf)> {
        let folder = self.folder(&order.server);
        let socket = folder.join("agent.sock");
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let text = format!(
                "`{}` is too long for a socket: choose a data folder with a shorter path",
                socket.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let log = fs::File::create(folder.join("agent.log"))?;
        let child = Command::new(&self.options.program)
            .arg("agent")
            .arg("--socket")
            .arg(&socket)
            .arg("--desk")
            .arg(folder.join(DESK))
            .arg("--state")
            .arg(folder.join("state"))
            .arg("--modules")
            .arg(self.code(&order.server))
            .arg("--prewarmed")
            .arg(self.options.prewarmed.to_string())
            .arg("--prewarmed-memory")
            .arg(self.options.prewarmed_memory.0.to_string())
            .arg("--place")
            .arg(folder.join("place.json"))
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            // Its end tells the agent that the node is gone, also before the two have spoken.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        Ok((child, socket))
    }
}

#[async_trait]
impl Provider for ProcessProvider {
    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn offer(&self) -> Offer {
        self.offer
    }

    async fn configure(&self, order: &ServerOrder) -> Result<(), ProvideError> {
        for volume in &order.effective.volumes {
            if self
                .volume(order, &volume.source)
                .with_extension(VOLUME_SUFFIX)
                .exists()
            {
                return Err(ProvideError::Infeasible(other_kind(&volume.source, Kind::Vm)));
            }
        }
        let view = self
            .set_up(order)
            .map_err(ProvideError::failed("making the server's place"))?;
        let text = serde_json::to_vec(&view).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(self.folder(&order.server).join("place.json"), text));
        written.map_err(ProvideError::failed("writing the server's place"))
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let (child, socket) = self.start(order).map_err(ProvideError::failed("starting the agent"))?;
        let detail = child.id().map(|pid| format!("process {pid}"));
        self.children.lock().insert(order.server.clone(), child);
        let place = Place::find(&self.place(&order.server)).pop();
        Ok(Reached {
            dial: Arc::new(ProcessDial {
                desk: Desk(socket.with_file_name(DESK)),
                channels: UnixDial::new(socket),
                meter: place.map(|(_, place)| place.meter()),
            }),
            code: CodeWay::Laid {
                folder: self.code(&order.server),
                made: self.options.data.join(MODULES),
            },
            detail,
            machine: None,
            has_waited: false,
            room_mib: None,
        })
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        let child = self.children.lock().remove(server);
        if let Some(mut child) = child {
            // It may not have entered its place yet.
            let _ = child.start_kill();
            let _ = timeout(REAP_MAX, child.wait()).await;
        }
        for (_, place) in Place::find(&self.place(server)) {
            place
                .end()
                .await
                .map_err(ProvideError::failed("ending what runs in the server"))?;
        }
        match fs::remove_file(self.folder(server).join("agent.sock")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ProvideError::failed("removing the socket")(error))
            }
            _ => Ok(()),
        }
    }

    async fn destroy(&self, server: &str) -> Result<(), ProvideError> {
        match fs::remove_dir_all(self.folder(server)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ProvideError::failed("removing the server's folder")(error))
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        let places = Place::find(&self.prefix);
        let places = places
            .into_iter()
            .filter_map(|(name, _)| name.strip_prefix(&self.prefix).map(str::to_owned));
        let folders = fs::read_dir(self.root())?.flatten();
        let folders = folders.filter_map(|entry| entry.file_name().into_string().ok());
        let mut servers: Vec<String> = places.chain(folders).collect();
        servers.sort_unstable();
        servers.dedup();
        Ok(servers)
    }
}

/// What this machine has in all.
fn machine(data: &Path) -> io::Result<Offer> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = total.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let disk = rustix::fs::statvfs(data)?;
    Ok(Offer {
        memory_mib: kib.unwrap_or_default() / 1024,
        cpu_millis: processors * 1000,
        storage_mib: (disk.f_bavail * disk.f_frsize) >> 20,
    })
}

/// A folder for this user alone.
fn private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
