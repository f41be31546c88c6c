//! The golden snapshot: one machine has booted, and every other begins where it stood.
//!
//! Its memory lies in one sealed file. Each machine maps it copy-on-write, so that what none has written is there
//! once, and what one has written no other sees.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::Digest;

use crate::image::Image;
use crate::machine::{Backing, Machine};
use crate::vm::{BOOT, Origin};
use crate::{Accelerator, After, Context, Host, Snapshot, Vm, VmError, Volume, memory};

/// How long the first guest may take to boot by KVM; one that takes longer is not run by the processor.
const CONFIRM_KVM: Duration = Duration::from_secs(10);

/// The file in a folder of golden snapshots that is locked while one is made.
const LOCK: &str = "lock";

/// A snapshot from which machines begin.
#[derive(Debug)]
pub struct Golden {
    host: Arc<Host>,
    image: Arc<Image>,
    snapshot: Snapshot,
    memory: File,
    was_kept: bool,
}

impl Golden {
    /// Takes the snapshot for such machines from `folder`, or boots one and keeps it there.
    pub async fn make(host: Arc<Host>, image: Arc<Image>, machine: &Machine, folder: &Path) -> Result<Self, VmError> {
        if let Ok(golden) = Self::kept(&host, &image, machine, folder).await {
            return Ok(golden);
        }
        let _alone = alone(folder).await.cannot("lock the folder of golden snapshots")?;
        // Whoever was alone before may have made it.
        if let Ok(golden) = Self::kept(&host, &image, machine, folder).await {
            return Ok(golden);
        }
        let mut vm = boot(&host, &image, machine).await?;
        // Its own next reseeding is then a while off: what sets clones apart is what they are told, never chance.
        vm.renew(host.clock.monotonic()).await?;
        // By the translator, if KVM was given up on the way.
        let place = folder.join(name(&host, &image, machine));
        if place.exists() {
            std::fs::remove_dir_all(&place).cannot("remove a golden snapshot that is of no use")?;
        }
        let snapshot = vm.save(&place, After::Stand).await?;
        vm.kill().await;
        let made = Self::load(&host, &image, snapshot).await?;
        Ok(Self {
            was_kept: false,
            ..made
        })
    }

    /// The one that is in `folder`, if it is of use here.
    async fn kept(host: &Arc<Host>, image: &Arc<Image>, machine: &Machine, folder: &Path) -> Result<Self, VmError> {
        let snapshot = Snapshot::open(&folder.join(name(host, image, machine)))?;
        snapshot.fits(host, image)?;
        Self::load(host, image, snapshot).await
    }

    async fn load(host: &Arc<Host>, image: &Arc<Image>, snapshot: Snapshot) -> Result<Self, VmError> {
        let memory = snapshot.memory().await?;
        memory::seal(&memory).cannot("seal the golden memory")?;
        Ok(Self {
            host: Arc::clone(host),
            image: Arc::clone(image),
            snapshot,
            memory,
            was_kept: true,
        })
    }

    /// Begins a machine, with the time of day and randomness of its own.
    pub async fn start(&self) -> Result<Vm, VmError> {
        self.start_within(None, Vec::new()).await
    }

    /// The same with a limit of what it may use of the processors, in thousandths of one, and with volumes in the places
    /// that the snapshot has for them.
    pub async fn start_within(&self, cpu_millis: Option<u32>, volumes: Vec<Volume>) -> Result<Vm, VmError> {
        let began = self.host.clock.monotonic();
        let mut vm = self.begin(cpu_millis, volumes).await?;
        vm.renew(began).await?;
        vm.mount().await?;
        Ok(vm)
    }

    /// Begins a machine that believes to be the golden one: its clock stands where that stood, and it will draw the
    /// same randomness as every other begun so. Nobody but a test wants this.
    pub async fn start_stale(&self) -> Result<Vm, VmError> {
        self.begin(None, Vec::new()).await
    }

    async fn begin(&self, cpu_millis: Option<u32>, volumes: Vec<Volume>) -> Result<Vm, VmError> {
        let memory = self.memory.try_clone().cannot("share the golden memory")?;
        let from = (Arc::clone(&self.host), Arc::clone(&self.image));
        let origin = Origin::Golden(self.snapshot.digest());
        let memory = (memory, Backing::CopyOnWrite);
        self.snapshot.begin(from, memory, (origin, cpu_millis, volumes)).await
    }

    /// Whether it was there already, so that nothing had to boot.
    pub fn was_kept(&self) -> bool {
        self.was_kept
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// Removes the snapshots in `folder` that were made of another image, which no machine will begin from any more.
pub fn forget_others(folder: &Path, image: &Image) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if Snapshot::open(&path).is_ok_and(|snapshot| snapshot.record().image != image.digest()) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Keeps all others out who would make a snapshot in `folder`, until the file is closed.
async fn alone(folder: &Path) -> io::Result<File> {
    let folder = folder.to_path_buf();
    let take = move || {
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join(LOCK))?;
        file.lock()?;
        Ok::<_, io::Error>(file)
    };
    tokio::task::spawn_blocking(take).await.map_err(io::Error::other)?
}

/// Boots a machine; the first one by KVM shows whether KVM is of use.
async fn boot(host: &Arc<Host>, image: &Arc<Image>, machine: &Machine) -> Result<Vm, VmError> {
    if host.accelerator() == Accelerator::Kvm {
        let (host_, image_) = (Arc::clone(host), Arc::clone(image));
        match Vm::boot_within(host_, image_, machine.clone(), CONFIRM_KVM).await {
            Ok(vm) => return Ok(vm),
            Err(error) => host.give_up_kvm(format!("no guest boots by it: {error}")).await,
        }
    }
    Vm::boot_within(Arc::clone(host), Arc::clone(image), machine.clone(), BOOT).await
}

/// What a golden snapshot of such machines is called here.
fn name(host: &Host, image: &Image, machine: &Machine) -> String {
    let machine = serde_json::to_string(machine).expect("a machine is a plain record");
    let parts = [
        image.digest().to_string(),
        host.version().to_owned(),
        host.accelerator().to_string(),
        host.processor(),
        machine,
    ];
    Digest::of(parts.join("\n").as_bytes()).to_string()
}
