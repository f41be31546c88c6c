//! Machines as bytes: frozen with what runs in them, and begun again.

use std::sync::Arc;

use bowline_agent::Dial;
use bowline_sandbox::{Frozen, MachineNeeds, Unmet};
use bowline_sandbox_vm::frozen::{Frozen as Machine, Label};
use bowline_sandbox_vm::{After, Image, Vm, VmError};
use bytes::Bytes;

use super::VmProvider;
use super::whole::{Whole, WholeDial};

/// What is done to a machine, and for which invocation.
pub(crate) struct Freezing<'a> {
    pub run: &'a str,
    /// Of the link that its agent has seen last.
    pub epoch: u64,
    pub after: After,
}

impl VmProvider {
    /// Writes a machine down whose only invocation has parted. It goes on afterwards or not, and goes on if this fails.
    pub(crate) async fn freeze(&self, whole: &Whole, freezing: Freezing<'_>) -> Result<Frozen, String> {
        let began = self.options.clock.monotonic();
        let channel = whole.hush().await.map_err(|error| error.to_string())?;
        let poured = whole.vm.pour(freezing.after).await;
        if freezing.after == After::GoOn || poured.is_err() {
            whole.speak(channel).map_err(|error| error.to_string())?;
        }
        let packed = poured.map_err(|error| told(&error))?;
        self.let_go_of_golden(whole).await;
        let label = Label {
            needs: whole.vm.needs(),
            machine: whole.vm.machine().clone(),
            cpu_millis: whole.cpu_millis,
            run: freezing.run.to_owned(),
            epoch: freezing.epoch,
            channel,
            state_bytes: packed.state_bytes(),
        };
        let key = self.options.signing.clone();
        let sealing = tokio::task::spawn_blocking(move || {
            let (needs, resident_bytes) = (label.needs.clone(), label.state_bytes);
            (packed.seal(&label, &key), needs, resident_bytes)
        });
        let (bytes, needs, resident_bytes) = sealing.await.map_err(|error| error.to_string())?;
        Ok(Frozen {
            bytes,
            resident_bytes,
            took: self.options.clock.monotonic().since(began),
            machine: Some(Box::new(needs)),
        })
    }

    /// Begins a machine that was frozen. Its agent waits for a link with a greater epoch than the label's.
    pub(crate) async fn thaw(&self, bytes: Bytes) -> Result<(Arc<Whole>, Label), String> {
        let key = self.options.signing.clone();
        let opening = tokio::task::spawn_blocking(move || Machine::open(&bytes, &key));
        let opened = opening.await.map_err(|error| error.to_string())?;
        let frozen = opened.map_err(|error| error.to_string())?;
        if let Some(unmet) = self.unmet(&frozen.label.needs).await {
            return Err(unmet.to_string());
        }
        let host = self.host().await.map_err(|error| error.to_string())?;
        let image = Image::current(&self.folder()).map_err(|error| told(&error))?;
        let label = frozen.label.clone();
        let vm = Vm::refill(host, Arc::new(image), frozen).await;
        let vm = vm.map_err(|error| told(&error))?;
        let whole = Whole::new(vm, label.cpu_millis, Some(label.channel), &self.options.program);
        let whole = whole.map_err(|error| error.to_string())?;
        whole.take();
        Ok((whole, label))
    }

    /// What a saved machine needs that is not here.
    pub(crate) async fn unmet(&self, needs: &MachineNeeds) -> Option<Unmet> {
        let host = match self.host().await {
            Ok(host) => host,
            Err(error) => return Some(Unmet::new("qemu", format!("`{}`", needs.qemu), error)),
        };
        let image = Image::current(&self.folder()).ok();
        needs.unmet(&host.offer(image.as_ref()))
    }

    /// To write a machine down is to read all of the memory that it shares with others of its golden snapshot; what was
    /// nothing takes room there since. Those that begin later do so from a fresh copy.
    async fn let_go_of_golden(&self, whole: &Whole) {
        let machine = whole.vm.machine();
        self.goldens.lock().await.retain(|(_, known, _)| known != machine);
    }

    /// The way to the agent of a machine.
    pub(crate) fn dial(whole: &Arc<Whole>) -> Arc<dyn Dial> {
        Arc::new(WholeDial(whole.clone()))
    }
}

/// An error with its cause.
fn told(error: &VmError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
