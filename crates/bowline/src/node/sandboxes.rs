//! The kinds of sandbox that this machine can offer.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bowline_foundation::clock::Clock;
use bowline_sandbox::Backend;
use bowline_sandbox_linux::cell::{Spawner, SpawnerOptions};
use bowline_sandbox_linux::{LinuxBackend, Metrics};
use bowline_sandbox_wasm::{Compiler, SigningKey, WasmBackend};
use prometheus_client::registry::Registry;

use crate::config::Config;

/// One backend for each kind, as far as the machine allows it. Whoever uses them shuts them down.
pub struct Sandboxes {
    wasm: Arc<WasmBackend>,
    linux: Result<Arc<LinuxBackend>, String>,
    /// What is counted of Linux sandboxes that are made ahead.
    pub made_ahead: Metrics,
    /// What signs checkpoints of them.
    pub signing: SigningKey,
}

impl Sandboxes {
    /// WebAssembly works everywhere; what Linux sandboxes lack is logged, and the node goes on without.
    pub fn start(
        clock: &Clock,
        data: &Path,
        (config, signing): (&Config, &SigningKey),
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let made_ahead = Metrics::register(registry);
        let linux = linux(clock, data, (config, &made_ahead)).map_err(|error| format!("{error:#}"));
        if let Err(reason) = &linux {
            tracing::warn!(%reason, "this machine offers no Linux sandboxes; only WebAssembly functions can run");
        }
        let mut wasm = bowline_sandbox_wasm::Options::new(clock.clone(), data.join("wasm"));
        wasm.signing = signing.clone();
        wasm.compiler = Compiler::Process(std::env::current_exe().context("cannot find the program itself")?);
        let wasm = WasmBackend::new(wasm).context("cannot begin the WebAssembly engine")?;
        Ok(Self {
            wasm: Arc::new(wasm),
            linux: linux.map(Arc::new),
            made_ahead,
            signing: signing.clone(),
        })
    }

    pub fn backends(&self) -> Vec<Arc<dyn Backend>> {
        let mut backends: Vec<Arc<dyn Backend>> = vec![self.wasm.clone()];
        if let Ok(linux) = &self.linux {
            backends.push(linux.clone());
        }
        backends
    }

    /// Why there are no Linux sandboxes, if there are none.
    pub fn lacks_linux(&self) -> Option<&str> {
        self.linux.as_ref().err().map(String::as_str)
    }
}

fn linux(clock: &Clock, data: &Path, (config, metrics): (&Config, &Metrics)) -> anyhow::Result<LinuxBackend> {
    let spawner = Spawner::start(SpawnerOptions {
        state_dir: data.join("cells"),
        program: None,
    })
    .context("cannot start the spawner")?;
    let mut options = bowline_sandbox_linux::Options::new(clock.clone(), data.join("linux"), spawner);
    options.warm_cells = config.prewarmed;
    options.warm_memory = config.prewarmed_memory;
    options.metrics = metrics.clone();
    LinuxBackend::new(options).context("cannot begin the Linux backend")
}
