//! A whole machine on its way to other places: its state flows out of QEMU, compressed, and into another one.
//!
//! Nothing of it touches a disk: what a guest has in its memory is nobody else's business.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_sandbox::{MachineNeeds, MachineOffer};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use crate::frozen::{self, Frozen, Packed};
use crate::image::Image;
use crate::machine::{Backing, Beginning, Machine, MachineKind};
use crate::snapshot::{Stopped, blocking};
use crate::vm::{Origin, Start};
use crate::{After, Context, Host, Vm, VmError, memory, sys};

impl Vm {
    /// Stops the machine and has all of it flow out, its memory without what is zero; then lets it go on or not. If that
    /// fails, it goes on.
    pub async fn pour(&self, after: After) -> Result<Packed, VmError> {
        self.has_all_its_memory().await?;
        let (from, into) = pipe()?;
        let most = frozen::state_bytes_max(&self.machine);
        let packing = tokio::task::spawn_blocking(move || frozen::pack(from, most));
        let stopped = Stopped::new(Arc::clone(&self.qmp), self.quiet().await);
        self.qmp.execute("stop", json!({})).await?;
        let flow = async {
            self.capabilities(false).await?;
            self.hurry().await?;
            self.migrate("migrate", &into).await
        };
        let flown = flow.await;
        drop(into);
        if after == After::GoOn || flown.is_err() {
            let goes_on = stopped.go_on().await;
            flown.and(goes_on)?;
        } else {
            stopped.stand();
        }
        let packed = packing
            .await
            .map_err(io::Error::other)
            .cannot("compress a machine's state")?;
        packed.cannot("compress a machine's state")
    }

    /// Begins a machine that was poured out, in a QEMU of its own. It goes on where it was, with the time of day and
    /// randomness of its own.
    pub async fn refill(host: Arc<Host>, image: Arc<Image>, frozen: Frozen) -> Result<Self, VmError> {
        let began = host.clock.monotonic();
        let machine = frozen.label.machine.clone();
        let (from, into) = pipe()?;
        let start = Start {
            memory: memory::empty(machine.memory.bytes()).cannot("make the guest's memory")?,
            machine,
            beginning: Beginning::Incoming,
            backing: Backing::Own,
            origin: Origin::Restored(Digest::of(frozen.label.run.as_bytes())),
            cpu_millis: frozen.label.cpu_millis,
            volumes: Vec::new(),
        };
        let mut vm = Self::start(host, image, start).await?;
        vm.capabilities(false).await?;
        let filling = blocking(move || frozen.unpack(into));
        let read = async {
            let read = vm.migrate("migrate-incoming", &from).await;
            drop(from);
            read
        };
        let (filled, read) = tokio::join!(filling, read);
        filled.cannot("unpack a machine's state")?;
        read?;
        vm.qmp.execute("cont", json!({})).await?;
        vm.renew(began).await?;
        Ok(vm)
    }

    /// Whether QEMU has read all that was written to the agent's port.
    pub fn port_is_read(&self) -> io::Result<bool> {
        Ok(sys::unread(&self.port)? == 0)
    }

    /// The stream to the agent's port once more, for whoever goes on with what another one has left.
    pub fn port_again(&self) -> io::Result<std::os::unix::net::UnixStream> {
        self.port.try_clone()
    }

    /// What it needs to go on elsewhere.
    pub fn needs(&self) -> MachineNeeds {
        MachineNeeds {
            machine: self.machine.kind.to_string(),
            processors: self.machine.processors,
            memory_mib: self.machine.memory.0,
            accelerator: self.accelerator.to_string(),
            processor: self.host.processor(),
            features: self.host.features(),
            qemu: self.host.version().to_owned(),
            image: self.image.digest().to_string(),
            tsc_khz: self.host.tsc_khz(),
        }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl Host {
    /// What there is here for machines that were saved elsewhere.
    pub fn offer(&self, image: Option<&Image>) -> MachineOffer {
        MachineOffer {
            machines: [MachineKind::Microvm, MachineKind::Q35]
                .map(|kind| kind.to_string())
                .to_vec(),
            accelerator: self.accelerator().to_string(),
            processor: self.processor(),
            features: self.features(),
            qemu: self.version().to_owned(),
            image: image.map(|image| image.digest().to_string()),
            tsc_khz: self.tsc_khz(),
        }
    }
}

fn pipe() -> Result<(File, File), VmError> {
    let (from, into): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC).cannot("make a pipe")?;
    Ok((from.into(), into.into()))
}
