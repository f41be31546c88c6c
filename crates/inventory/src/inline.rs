//! Servers inside the node: the agent's own code, called in the node's process, with the node's sandboxes.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_agent::channel::memory;
use bowline_agent::{CodeWay, Host, HostOptions};
use bowline_foundation::clock::Clock;
use bowline_sandbox::Backend;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::file::{Effective, Kind};
use crate::provider::{Offer, ProvideError, Provider, Reached, ServerOrder};

/// Makes servers inside the node.
pub struct InlineProvider {
    clock: Clock,
    backends: Vec<Arc<dyn Backend>>,
    offer: Offer,
    log_dir: PathBuf,
    hosts: Mutex<HashMap<String, JoinHandle<()>>>,
}

impl InlineProvider {
    /// One whose servers make sandboxes by these backends, within the machine's `offer`.
    pub fn new(clock: Clock, backends: Vec<Arc<dyn Backend>>, offer: Offer, log_dir: PathBuf) -> Self {
        Self {
            clock,
            backends,
            offer,
            log_dir,
            hosts: Mutex::default(),
        }
    }
}

#[async_trait]
impl Provider for InlineProvider {
    fn kind(&self) -> Kind {
        Kind::Inline
    }

    fn offer(&self) -> Offer {
        self.offer
    }

    fn objection(&self, effective: &Effective) -> Option<String> {
        let plain = effective.services.is_empty() && effective.volumes.is_empty();
        let text = "an instance inside the node has neither services nor volumes: choose another kind";
        (!plain).then(|| text.to_owned())
    }

    async fn configure(&self, _order: &ServerOrder) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let (dial, mut accept) = memory();
        let host = Host::new(HostOptions {
            clock: self.clock.clone(),
            backends: self.backends.clone(),
            code: None,
            log_dir: self.log_dir.clone(),
        });
        let task = tokio::spawn(async move {
            let stopped = host.run(&mut accept).await;
            tracing::debug!(%stopped, "a server inside the node has ended");
        });
        self.hosts.lock().insert(order.server.clone(), task);
        Ok(Reached {
            dial: Arc::new(dial),
            code: CodeWay::Shared,
            detail: None,
            machine: None,
            has_waited: false,
            room_mib: None,
        })
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        let task = self.hosts.lock().remove(server);
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        Ok(())
    }

    async fn destroy(&self, _server: &str) -> Result<(), ProvideError> {
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.hosts.lock().keys().cloned().collect())
    }
}
