//! Servers that are virtual machines: QEMU with the agent inside, begun from a golden snapshot.
//!
//! ```text
//!   configure: the image of this very program, built if there is none ─▶ spin up: the golden snapshot of such machines,
//!   made by one that boots if there is none ─▶ a machine from it ─▶ its port, a channel of many channels, to the agent
//! ```
//! A volume is a file system in a file, `DATA/volumes/ACCOUNT/SOURCE.ext4`, which outlives the machine. A golden snapshot has
//! empty places for as many as its machines have; what is put there is mounted by the guest after it has begun.
//!
//! A machine can be taken away from its instance as a whole, with an invocation in it ([`frozen`]).
//! Volumes aside, a machine has nothing on the host but its process and control groups, and these end with the node. So there
//! is nothing to be found again after a crash.

mod folders;
mod frozen;
mod whole;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::{CodeWay, Link};
use bowline_checkpoint::SigningKey;
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::ShareError;
use bowline_sandbox_vm::image::{Build, Source, build, digest_of};
use bowline_sandbox_vm::{Access, Golden, Host, Image, Machine, MachineKind, Vm, VmError, Volume, golden, host};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::file::{Effective, EffectiveVolume, Kind, Mode};
use crate::model::MachineFacts;
use crate::provider::{Offer, ProvideError, Provider, Reached, ServerOrder, VOLUME_SUFFIX, other_kind};
pub(crate) use frozen::Freezing;
pub use whole::Whole;

/// How long a killed machine may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);
/// The size of a volume whose file does not say, and the least.
const VOLUME_MIB: u32 = 1024;
const VOLUME_MIB_MIN: u32 = 16;
/// Where a machine sees a volume that it is there to set in order.
const IN_ORDER: &str = "/volume";
/// Golden snapshots whose memory is kept at hand, for the sizes of machines that were used last.
const GOLDENS_MAX: usize = 4;

/// How to make a [`VmProvider`].
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    pub entropy: Entropy,
    /// The program that is the agent in the guests too, and serves them folders.
    pub program: PathBuf,
    /// The node's data folder, as an absolute path.
    pub data: PathBuf,
    /// What this machine has in all.
    pub offer: Offer,
    /// What signs machines that are written down; nodes that take each other's have the same.
    pub signing: SigningKey,
    /// How long the agent of a machine may be silent that an invocation took away.
    pub lease: Duration,
}

/// Makes servers that are virtual machines.
pub struct VmProvider {
    options: Options,
    host: OnceCell<Arc<Host>>,
    /// The digest of the program.
    agent: OnceCell<Digest>,
    /// Held while an image is looked for or built.
    images: Arc<tokio::sync::Mutex<()>>,
    /// The last one first. Held while one is made.
    goldens: tokio::sync::Mutex<Vec<(Digest, Machine, Arc<Golden>)>>,
    servers: Mutex<HashMap<String, Arc<Whole>>>,
    progress: Arc<Mutex<HashMap<String, String>>>,
}

impl VmProvider {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            host: OnceCell::new(),
            agent: OnceCell::new(),
            images: Arc::default(),
            goldens: tokio::sync::Mutex::default(),
            servers: Mutex::default(),
            progress: Arc::default(),
        }
    }

    /// The machine behind a link, if it is one that was made here.
    pub(crate) fn behind(link: &Link) -> Option<Arc<Whole>> {
        link.machine()?.downcast().ok()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.options.clock
    }

    pub(crate) fn lease(&self) -> Duration {
        self.options.lease
    }

    fn folder(&self) -> PathBuf {
        self.options.data.join("vm")
    }

    /// What this machine offers to virtual ones; looked for when the first is wanted.
    async fn host(&self) -> Result<Arc<Host>, ProvideError> {
        let find = || async {
            let mark = Digest::of(self.options.data.as_os_str().as_encoded_bytes()).to_string();
            let options = host::Options {
                clock: self.options.clock.clone(),
                entropy: self.options.entropy.clone(),
                mark: format!("node-{}", &mark[..12]),
                program: self.options.program.clone(),
            };
            Host::find(options).await.map(Arc::new)
        };
        let found = self.host.get_or_try_init(find).await;
        found.cloned().map_err(failed("looking for QEMU"))
    }

    async fn agent(&self) -> Result<Digest, ProvideError> {
        let read = || async {
            let program = self.options.program.clone();
            let digest = tokio::task::spawn_blocking(move || digest_of(&program)).await;
            digest.map_err(io::Error::other)?.map_err(io::Error::other)
        };
        let digest = self.agent.get_or_try_init(read).await;
        digest
            .copied()
            .map_err(ProvideError::failed("reading the node's own program"))
    }

    /// The image of this very program, with the interpreters that the one before had; built if it is missing.
    async fn image(&self, server: &str) -> Result<Arc<Image>, ProvideError> {
        let one = self.images.clone().lock_owned().await;
        let agent = self.agent().await?;
        let known = Image::current(&self.folder()).ok();
        if let Some(image) = known.as_ref().filter(|image| image.record().agent == agent) {
            return Ok(Arc::new(image.clone()));
        }
        let wanted = Build {
            folder: self.folder(),
            agent: self.options.program.clone(),
            packages: Source::Apt,
            interpreters: known.as_ref().map(Image::interpreters).unwrap_or_default(),
        };
        let (progress, of) = (Arc::clone(&self.progress), server.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let built = build(&wanted, &|note| {
                tracing::info!(note, "an image for virtual machines is built");
                progress
                    .lock()
                    .insert(of.clone(), format!("building the image: {note}"));
            });
            // It goes on when nobody waits for it any more; until then nobody else begins.
            (built, one)
        });
        let built = work.await.map_err(io::Error::other);
        let (built, _one) = built.map_err(ProvideError::failed("building an image for virtual machines"))?;
        let image = built.map_err(|error| ProvideError::Infeasible(no_image(&error)))?.image;
        let forgotten = image
            .forget_others()
            .and_then(|()| golden::forget_others(&self.folder().join("golden"), &image));
        if let Err(error) = forgotten {
            tracing::debug!(%error, "what was made for an earlier program stays");
        }
        Ok(Arc::new(image))
    }

    /// The golden snapshot of such machines; the first one boots.
    async fn golden(&self, server: &str, machine: Machine) -> Result<Arc<Golden>, ProvideError> {
        let (host, image) = (self.host().await?, self.image(server).await?);
        let mut goldens = self.goldens.lock().await;
        let of = image.digest();
        let known = goldens
            .iter()
            .position(|(image, known, _)| *image == of && *known == machine);
        if let Some(place) = known {
            goldens[..=place].rotate_right(1);
            return Ok(Arc::clone(&goldens[0].2));
        }
        self.note(
            server,
            "preparing the golden snapshot: the first machine of this size boots",
        );
        let folder = self.folder().join("golden");
        let made = Golden::make(host, image, &machine, &folder).await;
        let golden = Arc::new(made.map_err(failed("making the golden snapshot"))?);
        goldens.insert(0, (of, machine, Arc::clone(&golden)));
        goldens.truncate(GOLDENS_MAX);
        Ok(golden)
    }

    /// Ends what is left of all machines. One that was killed may be on its way out, and who ends before it leaves its control
    /// groups behind.
    pub async fn shut_down(&self) {
        let Some(host) = self.host.get().cloned() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || host.end_all()).await {
            tracing::warn!(%error, "what virtual machines leave is not removed");
        }
    }

    fn note(&self, server: &str, text: &str) {
        self.progress.lock().insert(server.to_owned(), text.to_owned());
    }

    fn volume(&self, order: &ServerOrder, source: &str) -> PathBuf {
        let folder = self.options.data.join("volumes").join(order.account.as_str());
        folder.join(format!("{source}.{VOLUME_SUFFIX}"))
    }

    /// Makes the volumes that are not there yet.
    async fn make_volumes(&self, order: &ServerOrder) -> Result<(), ProvideError> {
        let size = Mebibytes(volume_mib(&order.effective));
        for volume in &order.effective.volumes {
            let path = self.volume(order, &volume.source);
            if path.with_extension("").exists() {
                return Err(ProvideError::Infeasible(other_kind(&volume.source, Kind::Process)));
            }
            let made = Volume::make(&path, size.bytes()).await;
            made.map_err(|error| match error {
                ShareError::Unsupported(text) => ProvideError::Infeasible(text),
                ShareError::Failed(error) => ProvideError::failed("making a volume")(error),
            })?;
        }
        Ok(())
    }

    /// The server's volumes, of which no other machine has one in its way.
    async fn open_volumes(&self, order: &ServerOrder, golden: &Golden) -> Result<Vec<Volume>, ProvideError> {
        let mut opened = Vec::new();
        for volume in &order.effective.volumes {
            let path = self.volume(order, &volume.source);
            let failed = |error: io::Error| {
                let text = format!("volume `{}`: {error}", volume.source);
                ProvideError::failed("opening a volume")(io::Error::new(error.kind(), text))
            };
            let mut found = open_volume(&path, volume).await.map_err(failed)?;
            if volume.mode == Mode::Ro && !found.is_in_order().map_err(failed)? {
                drop(found);
                set_in_order(&path, golden).await.map_err(failed)?;
                found = open_volume(&path, volume).await.map_err(failed)?;
            }
            opened.push(found);
        }
        Ok(opened)
    }

    async fn start(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let effective = &order.effective;
        let golden = self.golden(&order.server, machine(effective)).await?;
        let volumes = self.open_volumes(order, &golden).await?;
        let started = golden.start_within(Some(effective.cpu_millis), volumes).await;
        let vm = started.map_err(failed("starting a virtual machine"))?;
        let limited = vm.limit_processes(effective.processes).await;
        limited.map_err(failed("limiting its processes"))?;
        let memory = vm.guest_memory().await.map_err(failed("asking for its memory"))?;
        let facts = self.facts(&vm, &golden).await?;
        let whole = Whole::new(vm, Some(effective.cpu_millis), None, &self.options.program);
        let whole = whole.map_err(ProvideError::failed("opening the agent's port"))?;
        let dial = Self::dial(&whole);
        self.servers.lock().insert(order.server.clone(), whole);
        Ok(Reached {
            dial,
            code: CodeWay::Carried,
            detail: Some(format!(
                "{} by {}, process {}",
                facts.kind, facts.accelerator, facts.process
            )),
            machine: Some(facts),
            has_waited: false,
            // The kernel and the agent take their part.
            room_mib: Some((memory.available >> 20).min(effective.memory_mib.into())),
        })
    }

    async fn facts(&self, vm: &Vm, golden: &Golden) -> Result<MachineFacts, ProvideError> {
        let machine = &golden.snapshot().record().machine;
        Ok(MachineFacts {
            kind: machine.kind,
            processors: machine.processors,
            accelerator: vm.accelerator(),
            why_not_kvm: self.host().await?.why_not_kvm(),
            golden: golden.snapshot().digest(),
            golden_was_kept: golden.was_kept(),
            ready_ms: u64::try_from(vm.ready_after().as_millis()).unwrap_or(u64::MAX),
            process: vm.pid(),
        })
    }
}

/// The machine of a configuration.
fn machine(effective: &Effective) -> Machine {
    let memory = Mebibytes(effective.memory_mib);
    Machine {
        kind: effective.machine.unwrap_or(MachineKind::Microvm),
        memory,
        memory_max: memory,
        processors: effective.cpu_millis.div_ceil(1000),
        volumes: u32::try_from(effective.volumes.len()).unwrap_or(u32::MAX),
    }
}

/// What is wrong if a volume is to be at two places: each is one disk.
fn named_twice(volumes: &[EffectiveVolume]) -> Option<String> {
    let mut sources = HashSet::new();
    let twice = volumes.iter().find(|volume| !sources.insert(&volume.source))?;
    let source = &twice.source;
    Some(format!(
        "volume `{source}` is named twice: a virtual machine mounts each once"
    ))
}

/// How large the volumes of a server are made.
fn volume_mib(effective: &Effective) -> u32 {
    match effective.storage_mib {
        0 => VOLUME_MIB,
        mib => mib.max(VOLUME_MIB_MIN),
    }
}

async fn open_volume(path: &Path, volume: &EffectiveVolume) -> io::Result<Volume> {
    let access = match volume.mode {
        Mode::Ro => Access::Read,
        Mode::Rw => Access::Write,
    };
    Volume::open(path, &volume.mount, access).await
}

/// Has a machine of its own read the journal of a volume whose last writer was killed: those who only read cannot.
async fn set_in_order(path: &Path, golden: &Golden) -> io::Result<()> {
    let volume = Volume::open(path, IN_ORDER, Access::Write).await?;
    let vm = golden
        .start_within(None, vec![volume])
        .await
        .map_err(io::Error::other)?;
    let settled = vm.settle().await;
    vm.kill().await;
    settled.map_err(io::Error::other)
}

fn failed(step: &'static str) -> impl FnOnce(VmError) -> ProvideError {
    move |error| ProvideError::failed(step)(io::Error::other(error))
}

/// Why there is no image, with what to do.
fn no_image(error: &dyn std::error::Error) -> String {
    let mut text = format!("there is no image for virtual machines, and none can be built: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text.push_str("; `bowline vm image build` builds one, also from a folder of packages");
    text
}

#[async_trait]
impl Provider for VmProvider {
    fn kind(&self) -> Kind {
        Kind::Vm
    }

    fn offer(&self) -> Offer {
        self.options.offer
    }

    fn objection(&self, effective: &Effective) -> Option<String> {
        let fault = machine(effective).fault().or_else(|| named_twice(&effective.volumes));
        fault.or_else(|| host::qemu().err().map(|error| error.to_string()))
    }

    fn progress(&self, server: &str) -> Option<String> {
        self.progress.lock().get(server).cloned()
    }

    async fn configure(&self, order: &ServerOrder) -> Result<(), ProvideError> {
        self.host().await?;
        self.image(&order.server).await?;
        self.make_volumes(order).await
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let reached = self.start(order).await;
        self.progress.lock().remove(&order.server);
        reached
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        self.progress.lock().remove(server);
        let whole = self.servers.lock().get(server).cloned();
        if let Some(whole) = whole {
            if whole.is_taken() {
                // It is an invocation's, and nothing of the server any more.
                self.servers.lock().remove(server);
                return Ok(());
            }
            if let Err(error) = whole.settle().await {
                tracing::warn!(server, %error, "what a virtual machine's volumes held back is lost");
            }
            let ended = timeout(END_MAX, whole.end()).await;
            let words = ended.map_err(|late| ProvideError::failed("ending a virtual machine")(late.into()))?;
            tracing::debug!(server, words, "a virtual machine has ended");
            self.servers.lock().remove(server);
        }
        Ok(())
    }

    async fn destroy(&self, _server: &str) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.servers.lock().keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::InstanceFile;

    fn objection(rest: &str) -> Option<String> {
        let text = format!("id = \"shop\"\nkind = \"vm\"\n[resources]\n{rest}");
        let effective = InstanceFile::parse(&text).unwrap().effective(None).unwrap();
        let provider = VmProvider::new(Options {
            clock: Clock::system(),
            entropy: Entropy::system(),
            program: "/none".into(),
            data: "/none".into(),
            offer: Offer {
                memory_mib: 1,
                cpu_millis: 1,
                storage_mib: 1,
            },
            signing: SigningKey::new(&[0; 32]),
            lease: Duration::from_secs(10),
        });
        provider.objection(&effective)
    }

    #[test]
    fn a_machine_is_what_its_file_says() {
        let text =
            "id = \"shop\"\nkind = \"vm\"\n[resources]\nmemory_mib = 300\ncpu_millis = 1001\nmachine = \"q35\"\n";
        let effective = InstanceFile::parse(text).unwrap().effective(None).unwrap();
        let made = machine(&effective);
        assert_eq!(
            (made.kind, made.memory, made.processors),
            (MachineKind::Q35, Mebibytes(300), 2)
        );
        let text = text.replace("machine = \"q35\"", "").replace("1001", "500");
        let made = machine(&InstanceFile::parse(&text).unwrap().effective(None).unwrap());
        assert_eq!((made.kind, made.processors), (MachineKind::Microvm, 1));
    }

    #[test]
    fn what_no_machine_can_be_is_objected_to() {
        let volume = |number: u32| format!("[[volumes]]\nsource = \"v{number}\"\nmount = \"/v{number}\"\n");
        let volumes: String = (0..9).map(volume).collect();
        let many = objection(&format!("memory_mib = 256\n{volumes}"));
        assert!(many.unwrap().contains("`9` volumes"));
        let twice = format!("memory_mib = 256\n{}{}", volume(1), volume(1).replace("/v1", "/w1"));
        assert!(objection(&twice).unwrap().contains("`v1` is named twice"));
        assert!(objection("memory_mib = 127").unwrap().contains("127"));
        assert!(
            objection("memory_mib = 256\ncpu_millis = 65000")
                .unwrap()
                .contains("65")
        );
        // The control; where there is no QEMU that is said.
        for good in [
            "memory_mib = 256".to_owned(),
            format!("memory_mib = 256\n{}", volume(1)),
        ] {
            let said = objection(&good);
            assert!(said.is_none_or(|said| said.contains("qemu-system-x86")));
        }
    }
}
