//! One virtual machine that runs.

mod control;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_linux::cell::cgroup::Group;
use bowline_sandbox_linux::cell::meter::Meter;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use crate::image::Image;
use crate::machine::{Access, Backing, Beginning, How, Machine, MachineKind};
use crate::process::{Launch, Process};
use crate::protocol::{Mount, Order, Reply};
use crate::qmp::Qmp;
use crate::{Accelerator, Context, Host, VmError, Volume, memory, sys};
use control::Control;
pub(crate) use control::Quiet;

/// How long a guest may take to boot. The translator needs seconds on an idle machine.
pub const BOOT: Duration = Duration::from_secs(90);
/// How long a guest may take to answer an order that takes it no time.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the balloon may take to reach its size.
const BALLOON: Duration = Duration::from_secs(30);
/// How long a guest may take to write what its volumes hold back.
const SETTLE: Duration = Duration::from_secs(10);
/// How soon after its channel has closed a process is gone.
const GONE: Duration = Duration::from_secs(2);

/// Where a machine's state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It booted.
    Booted,
    /// From a golden snapshot, whose memory it shares.
    Golden(Digest),
    /// From a snapshot of its own.
    Restored(Digest),
}

/// What a machine does once it has been saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    GoOn,
    /// It stays as it was saved.
    Stand,
}

/// A program that ended in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote, cut off at [`crate::protocol::OUTPUT_BYTES_MAX`].
    pub output: Vec<u8>,
    /// Whether its time was up.
    pub timed_out: bool,
}

/// What a guest says of its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMemory {
    pub total: u64,
    pub available: u64,
}

/// A running machine; killed when dropped.
#[derive(Debug)]
pub struct Vm {
    pub(crate) host: Arc<Host>,
    pub(crate) image: Arc<Image>,
    pub(crate) machine: Machine,
    pub(crate) accelerator: Accelerator,
    pub(crate) memory: File,
    pub(crate) backing: Backing,
    pub(crate) qmp: Arc<Qmp>,
    origin: Origin,
    process: Process,
    meter: Option<Meter>,
    control: Control,
    agent: Mutex<Option<UnixStream>>,
    /// The same stream.
    pub(crate) port: UnixStream,
    ready_after: Duration,
    sticks: tokio::sync::Mutex<u32>,
    mounts: Vec<Mount>,
}

/// What a machine is started with.
pub(crate) struct Start {
    pub machine: Machine,
    pub memory: File,
    pub beginning: Beginning,
    pub backing: Backing,
    pub origin: Origin,
    /// What it may use of the processors, in thousandths of one; all of its own and a little more if missing.
    pub cpu_millis: Option<u32>,
    /// In the first of its places for volumes.
    pub volumes: Vec<Volume>,
}

impl Start {
    /// Whether there can be such a machine.
    fn check(&self) -> Result<(), VmError> {
        if let Some(fault) = self.machine.fault() {
            return Err(VmError::Unfit {
                needs: fault,
                here: "no such machine".to_owned(),
            });
        }
        if self.volumes.len() > self.machine.volumes as usize {
            return Err(VmError::Unfit {
                needs: format!("`{}` volumes", self.volumes.len()),
                here: format!("a machine with room for `{}`", self.machine.volumes),
            });
        }
        Ok(())
    }
}

impl Vm {
    /// Boots a machine; returns when its first process answers.
    pub async fn boot(host: Arc<Host>, image: Arc<Image>, machine: Machine) -> Result<Self, VmError> {
        Self::boot_within(host, image, machine, BOOT).await
    }

    /// As [`Self::boot`], in less time than that.
    pub async fn boot_within(
        host: Arc<Host>,
        image: Arc<Image>,
        machine: Machine,
        allowed: Duration,
    ) -> Result<Self, VmError> {
        let began = host.clock.monotonic();
        let start = Start {
            memory: memory::empty(machine.memory.bytes()).cannot("make the guest's memory")?,
            machine,
            beginning: Beginning::Boot,
            backing: Backing::Own,
            origin: Origin::Booted,
            cpu_millis: None,
            volumes: Vec::new(),
        };
        let mut vm = Self::start(host, image, start).await?;
        let ready = vm.living(vm.control.ready());
        timeout(allowed, ready).await.map_err(|_| VmError::Deadline {
            what: "the boot of a virtual machine",
            allowed,
        })??;
        vm.ready_after = vm.host.clock.monotonic().since(began);
        Ok(vm)
    }

    /// Starts QEMU and greets its monitor.
    pub(crate) async fn start(host: Arc<Host>, image: Arc<Image>, start: Start) -> Result<Self, VmError> {
        start.check()?;
        let (mounts, volumes) = crate::volume::split(start.volumes);
        let access: Vec<Access> = mounts.iter().map(|mount| mount.access).collect();
        let how = How {
            beginning: start.beginning,
            backing: start.backing,
            volumes: &access,
        };
        let pair = || UnixStream::pair().cannot("make a channel");
        let ((monitor, its_monitor), (control, its_control), (agent, its_agent)) = (pair()?, pair()?, pair()?);
        let files = image.files()?;
        let files = [
            vec![its_monitor.into(), its_control.into(), its_agent.into()],
            files,
            vec![memory::owned(&start.memory).cannot("hand over the guest's memory")?],
            volumes,
        ];
        let accelerator = host.accelerator();
        let group = host.group(&start.machine, start.cpu_millis)?;
        let meter = group.as_ref().map(Group::meter);
        let process = Process::start(Launch {
            program: host.qemu.clone(),
            arguments: start.machine.arguments(accelerator, host.tsc_khz(), how),
            files: files.into_iter().flatten().collect(),
            group,
            user: host.user(),
        })
        .cannot("start QEMU")?;
        let qmp = match Qmp::connect(monitor).await {
            Err(VmError::Ended(_)) => return Err(VmError::Ended(last_words(&process).await)),
            result => result?,
        };
        Ok(Self {
            control: Control::open(control).cannot("open the control channel")?,
            port: agent.try_clone().cannot("keep the agent's port")?,
            agent: Mutex::new(Some(agent)),
            machine: start.machine,
            memory: start.memory,
            backing: start.backing,
            origin: start.origin,
            ready_after: Duration::ZERO,
            sticks: tokio::sync::Mutex::new(0),
            mounts,
            host,
            image,
            accelerator,
            process,
            meter,
            qmp: Arc::new(qmp),
        })
    }

    /// Gives a machine that came from a snapshot the time of day and randomness of its own; `began` is when its
    /// start began.
    pub(crate) async fn renew(&mut self, began: bowline_foundation::clock::Monotonic) -> Result<(), VmError> {
        let mut seed = [0; sys::SEED_BYTES];
        self.host.entropy.fill(&mut seed);
        let order = Order::Renew {
            micros: self.host.clock.now().as_micros(),
            entropy: BASE64.encode(seed),
        };
        match self.order(order, ANSWER).await? {
            Reply::Clock { .. } => {}
            other => return Err(unexpected(&other)),
        }
        self.ready_after = self.host.clock.monotonic().since(began);
        Ok(())
    }

    /// The plain stream of bytes to the agent's port in the guest; there is one, for the first who asks.
    pub fn take_agent(&self) -> Option<UnixStream> {
        self.agent.lock().take()
    }

    /// What runs its instructions.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Where its state came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How long it took from nothing to its first answer.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The process of its QEMU.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it has ended; gives its last words.
    pub async fn ended(&self) -> String {
        self.process.ended().await
    }

    /// Whether it runs, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.process.last_words().is_none()
    }

    /// Ends it at once; returns when it is gone.
    pub async fn kill(self) -> String {
        self.end().await
    }

    /// The same for a machine that others know too.
    pub async fn end(&self) -> String {
        self.process.kill();
        self.process.ended().await
    }

    /// Lets the agent and all that it starts be no more processes and threads than that.
    pub async fn limit_processes(&self, processes: u32) -> Result<(), VmError> {
        match self.order(Order::Limit { processes }, ANSWER).await? {
            Reply::Clock { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Shows the guest the volumes that it was started with.
    pub(crate) async fn mount(&self) -> Result<(), VmError> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        let mounts = self.mounts.clone();
        match self.order(Order::Mount { mounts }, ANSWER).await? {
            Reply::Clock { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the guest write what its volumes hold back; from then on whoever writes to them waits. For a machine that is about
    /// to end: so nothing is lost, and the next machine finds its volumes in order.
    pub async fn settle(&self) -> Result<(), VmError> {
        let written = self.mounts.iter().filter(|mount| mount.access == Access::Write);
        let targets: Vec<String> = written.map(|mount| mount.target.clone()).collect();
        if targets.is_empty() {
            return Ok(());
        }
        match self.order(Order::Settle { targets }, SETTLE).await? {
            Reply::Clock { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The guest's clock, in microseconds since the Unix epoch.
    pub async fn clock(&self) -> Result<u64, VmError> {
        match self.order(Order::Ping, ANSWER).await? {
            Reply::Clock { micros } => Ok(micros),
            other => Err(unexpected(&other)),
        }
    }

    /// What the guest says of its memory.
    pub async fn guest_memory(&self) -> Result<GuestMemory, VmError> {
        match self.order(Order::Memory, ANSWER).await? {
            Reply::Memory { total, available } => Ok(GuestMemory { total, available }),
            other => Err(unexpected(&other)),
        }
    }

    /// The processor time that it has had, that of its devices too, if that is counted.
    pub fn cpu(&self) -> Option<Duration> {
        self.meter.as_ref()?.cpu()
    }

    /// Random bytes that the guest's kernel gives.
    pub async fn draw(&self) -> Result<Vec<u8>, VmError> {
        match self.order(Order::Draw, ANSWER).await? {
            Reply::Drawn { bytes } => decoded(&bytes),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a program in the guest to its end, or until its time is up.
    pub async fn run(&self, argv: &[&str], allowed: Duration) -> Result<Ran, VmError> {
        let order = Order::Run {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            milliseconds: u64::try_from(allowed.as_millis()).unwrap_or(u64::MAX),
        };
        match self.order(order, allowed.saturating_add(ANSWER)).await? {
            Reply::Ran {
                code,
                output,
                timed_out,
            } => Ok(Ran {
                code,
                output: decoded(&output)?,
                timed_out,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Memory that its QEMU holds now, in bytes, shared pages included.
    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(Path::new("/proc").join(self.pid().to_string()).join("status"));
        let text = text.unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        let kib = line
            .split_whitespace()
            .next()
            .and_then(|number| number.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    /// Takes memory from the guest, or gives it back, until it has `size`; returns what it has. What is taken from
    /// a machine that booted or was restored is free for others at once; the pages that a machine from a golden
    /// snapshot has already written stay with its process, and it can write no more than `size`.
    pub async fn balloon(&self, size: Mebibytes) -> Result<u64, VmError> {
        let target = size.bytes().min(self.machine.memory.bytes());
        self.qmp.execute("balloon", json!({ "value": target })).await?;
        let reach = async {
            loop {
                let actual = self.balloon_bytes().await?;
                if actual == target {
                    return Ok(actual);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(BALLOON, reach).await {
            Ok(reached) => reached,
            // A guest that uses its memory gives what it can.
            Err(_) => self.balloon_bytes().await,
        }
    }

    /// What the guest has of its memory, in bytes.
    pub async fn balloon_bytes(&self) -> Result<u64, VmError> {
        let balloon = self.qmp.execute("query-balloon", json!({})).await?;
        balloon["actual"].as_u64().ok_or_else(|| VmError::Protocol {
            channel: "monitor",
            found: balloon.to_string(),
        })
    }

    /// Adds a stick of memory while the guest runs; only a q35 has room for any. A machine with more memory than it
    /// began with cannot be saved.
    pub async fn add_memory(&self, size: Mebibytes) -> Result<(), VmError> {
        if self.machine.kind != MachineKind::Q35 {
            return Err(VmError::Unfit {
                needs: "a `q35`, to which memory can be added".to_owned(),
                here: "a `microvm`".to_owned(),
            });
        }
        let mut sticks = self.sticks.lock().await;
        let (backend, stick) = (format!("stick{sticks}"), format!("dimm{sticks}"));
        let object = json!({ "qom-type": "memory-backend-ram", "id": backend, "size": size.bytes() });
        self.qmp.execute("object-add", object).await?;
        let device = json!({ "driver": "pc-dimm", "id": stick, "memdev": backend });
        let added = self.qmp.execute("device_add", device).await;
        if added.is_err() {
            self.qmp.execute("object-del", json!({ "id": backend })).await?;
        }
        added?;
        *sticks += 1;
        Ok(())
    }

    /// How often memory was added.
    pub(crate) async fn sticks(&self) -> u32 {
        *self.sticks.lock().await
    }

    /// Keeps orders out until the guard is dropped; none is on its way then.
    pub(crate) async fn quiet(&self) -> Quiet {
        self.control.quiet().await
    }

    async fn order(&self, order: Order, allowed: Duration) -> Result<Reply, VmError> {
        match self.living(self.control.order(order, allowed)).await? {
            Reply::Failed { reason } => Err(VmError::Guest(reason)),
            reply => Ok(reply),
        }
    }

    /// The end of some work, or that the machine has ended before.
    async fn living<T>(&self, work: impl Future<Output = Result<T, VmError>>) -> Result<T, VmError> {
        tokio::select! {
            biased;
            result = work => match result {
                Err(VmError::Ended(_)) => Err(VmError::Ended(last_words(&self.process).await)),
                result => result,
            },
            words = self.process.ended() => Err(VmError::Ended(words)),
        }
    }
}

/// The last words of a process whose channel has closed.
async fn last_words(process: &Process) -> String {
    match timeout(GONE, process.ended()).await {
        Ok(words) => words,
        Err(_) => {
            process.kill();
            "a channel was closed".to_owned()
        }
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, VmError> {
    BASE64.decode(text).map_err(|_| VmError::Protocol {
        channel: "control",
        found: "bytes that are not base64".to_owned(),
    })
}

fn unexpected(reply: &Reply) -> VmError {
    VmError::Protocol {
        channel: "control",
        found: format!("{reply:?}").chars().take(200).collect(),
    }
}

/// A file that nobody else can read, at a path that is not taken.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).open(path)
}
