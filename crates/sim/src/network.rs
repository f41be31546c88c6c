//! The way between hosts: calls are lost, their answers are lost, and they overtake each other.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use bowline_stream::{Forward, Handle, HostId, PeerError, PeerHost, Peers, Position, PromiseRequest, Stamp};
use parking_lot::Mutex;

use crate::line::Gate;

/// How often calls between hosts go wrong, each a probability in `0..=1`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    pub requests: f64,
    pub answers: f64,
}

/// Who can be reached, and how badly.
pub(crate) struct Network {
    pub entropy: Entropy,
    pub loss: Mutex<Loss>,
    pub delay_max: Duration,
    hosts: Mutex<Vec<(Handle, Arc<Gate>)>>,
    /// Every forward that arrived, for tests that look at what was sent.
    pub forwards: Mutex<Vec<(HostId, Forward)>>,
}

impl Network {
    pub fn new(entropy: Entropy, delay_max: Duration) -> Self {
        Self {
            entropy,
            loss: Mutex::default(),
            delay_max,
            hosts: Mutex::default(),
            forwards: Mutex::default(),
        }
    }

    pub fn connect(&self, handle: &Handle, gate: &Arc<Gate>) {
        self.hosts.lock().push((handle.clone(), Arc::clone(gate)));
    }

    pub fn disconnect(&self, id: HostId) {
        self.hosts.lock().retain(|(known, _)| known.id() != id);
    }

    async fn travel(&self) {
        if self.entropy.unit() < 0.7 {
            tokio::time::sleep(self.delay_max.mul_f64(self.entropy.unit())).await;
        }
    }

    /// Brings a call to its host, and says whether its answer will come back.
    async fn reach(&self, to: HostId) -> Result<(Handle, bool), PeerError> {
        let loss = *self.loss.lock();
        self.travel().await;
        if self.entropy.unit() < loss.requests {
            // Whether it arrived is not known to the sender.
            return Err(PeerError::Unknown("the request was lost".to_owned()));
        }
        let found = self.hosts.lock().iter().find(|(handle, _)| handle.id() == to).cloned();
        let (handle, gate) = found.ok_or_else(|| PeerError::Unreachable("the host is gone".to_owned()))?;
        gate.pass().await;
        Ok((handle, self.entropy.unit() >= loss.answers))
    }
}

/// One host's way to the others.
pub(crate) struct SimPeers(pub Weak<Network>);

impl SimPeers {
    fn network(&self) -> Result<Arc<Network>, PeerError> {
        self.0
            .upgrade()
            .ok_or_else(|| PeerError::Unreachable("the world has ended".to_owned()))
    }
}

#[async_trait]
impl Peers for SimPeers {
    async fn forward(&self, to: &PeerHost, forward: Forward) -> Result<Vec<Position>, PeerError> {
        let network = self.network()?;
        let (handle, is_heard) = network.reach(to.id).await?;
        network.forwards.lock().push((to.id, forward.clone()));
        // What has arrived is carried out, whether or not the sender still waits.
        let stored = tokio::spawn(async move { handle.accept(forward).await }).await;
        network.travel().await;
        match stored {
            Ok(stored) if is_heard => stored,
            _ => Err(PeerError::Unknown("the answer was lost".to_owned())),
        }
    }

    async fn promise(&self, to: &PeerHost, request: PromiseRequest) -> Result<Stamp, PeerError> {
        let network = self.network()?;
        let (handle, is_heard) = network.reach(to.id).await?;
        let promised = handle.promise(request).await;
        network.travel().await;
        if is_heard {
            promised
        } else {
            Err(PeerError::Unknown("the answer was lost".to_owned()))
        }
    }
}
