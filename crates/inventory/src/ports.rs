//! The ports of a virtual machine's services on the host: the node listens at the instance's own address, and has whoever
//! connects carried into the machine, which has no network.
//!
//! ```text
//!   the server runs ─▶ listen at ADDRESS:PORT ─▶ a connection ─▶ Link::carry ═ a channel ═ the agent ─▶ the service
//!   a service has failed ─▶ its ports refuse, its connections are reset          a fence ─▶ those of all of them
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bowline_agent::Link;
use bowline_agent::service::ServiceSpec;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::file::Kind;
use crate::metrics::Metrics;
use crate::model::Server;

/// Connections that are carried into one server at once; what is beyond is reset.
pub const CONNECTIONS_MAX: usize = 256;
/// How long nobody is taken after that has failed: for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a server share.
struct Way {
    link: Link,
    /// Where its services are, as its agent sees them.
    hosts: Vec<IpAddr>,
    slots: Arc<Semaphore>,
    metrics: Metrics,
}

/// The open ports of one server. Dropped, they close, with all of their connections.
pub(crate) struct Ports {
    address: IpAddr,
    way: Arc<Way>,
    /// By the name of the service.
    open: HashMap<String, JoinSet<()>>,
}

impl Ports {
    /// Of a server behind a link; none is open yet. `None` if others reach its services without.
    pub fn of(server: &Server, link: &Link, metrics: &Metrics) -> Option<Self> {
        let address = server.address.as_ref().filter(|_| server.effective.kind == Kind::Vm)?;
        let way = Way {
            link: link.clone(),
            hosts: server.hosts(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            metrics: metrics.clone(),
        };
        Some(Self {
            address: address.parse().ok()?,
            way: Arc::new(way),
            open: HashMap::new(),
        })
    }

    /// Listens at all ports of these services; those that are open stay so. What is wrong is for whoever wrote the file.
    pub async fn open(&mut self, services: &[ServiceSpec]) -> Result<(), String> {
        for service in services {
            if self.open.contains_key(&service.name) {
                continue;
            }
            let mut ports = JoinSet::new();
            for port in &service.ports {
                let place = SocketAddr::new(self.address, *port);
                let listening = TcpListener::bind(place).await;
                let listener = listening.map_err(|error| format!("the node cannot listen at {place}: {error}"))?;
                ports.spawn(attend(listener, *port, self.way.clone()));
            }
            self.open.insert(service.name.clone(), ports);
        }
        Ok(())
    }

    /// Closes the ports of a service, or of all: when this returns they refuse, and what was carried is reset.
    pub async fn close(&mut self, service: Option<&str>) {
        let is_meant = |name: &str| service.is_none_or(|service| service == name);
        for (_, mut ports) in self.open.extract_if(|name, _| is_meant(name)) {
            ports.shutdown().await;
        }
    }
}

/// Takes connections at one port, until it is given up.
async fn attend(listener: TcpListener, port: u16, way: Arc<Way>) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = carried.join_next() => {}
            taken = listener.accept() => match taken {
                Ok((stream, _)) => match Slot::of(&way) {
                    Some(slot) => { carried.spawn(carry(stream, port, slot)); },
                    None => refuse(&stream, &way),
                },
                Err(error) => {
                    tracing::warn!(%error, port, "a connection to an instance cannot be taken");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// One connection's place among those of its server.
struct Slot {
    way: Arc<Way>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn of(way: &Arc<Way>) -> Option<Self> {
        let permit = way.slots.clone().try_acquire_owned().ok()?;
        way.metrics.connections.inc();
        Some(Self {
            way: way.clone(),
            _permit: permit,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.way.metrics.connections.dec();
    }
}

async fn carry(stream: TcpStream, port: u16, slot: Slot) {
    let to: Vec<SocketAddr> = slot.way.hosts.iter().map(|host| (*host, port).into()).collect();
    if let Err(error) = slot.way.link.carry(stream, &to).await {
        tracing::debug!(%error, port, "a connection to an instance was cut off");
    }
}

/// Resets a connection that is one too many.
fn refuse(stream: &TcpStream, way: &Way) {
    way.metrics.connections_refused.inc();
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection that is one too many is closed, not reset");
    }
}

#[cfg(test)]
mod tests;
