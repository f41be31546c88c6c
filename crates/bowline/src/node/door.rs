//! Where the other nodes of a cluster reach this one: for its streams, and to have it run invocations.

use std::sync::Arc;

use anyhow::Context;
use bowline_functions::cluster::{self, Placing};
use bowline_stream::peers::tcp::{self, Others, Secret, TcpPeers};
use bowline_stream::{Handle, NoPeers, Peers};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ground::Ground;

/// Connections about invocations that wait to be taken up.
const WAITING_MAX: usize = 64;

/// A listener for other nodes and the way to them; neither for a node that is alone.
pub struct Door(Option<(TcpListener, Secret)>);

/// An open door, and what comes through it for the functions.
pub struct Opened {
    serving: JoinHandle<()>,
    secret: Secret,
    connections: mpsc::Receiver<TcpStream>,
}

impl Door {
    /// Listens on a free port, on the address that the node listens on, if the node is in a cluster.
    pub async fn open(ground: &Ground) -> anyhow::Result<Self> {
        let Some((listen, secret)) = &ground.cluster else {
            return Ok(Self(None));
        };
        let listener = TcpListener::bind((listen.ip(), 0)).await;
        let listener = listener.context("cannot listen for other nodes")?;
        Ok(Self(Some((listener, secret.clone()))))
    }

    /// What other nodes are told of this one; empty if there are none.
    pub fn address(&self) -> String {
        let address = self.0.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        address.map_or_else(String::new, |address| address.to_string())
    }

    /// The way to other nodes.
    pub fn peers(&self) -> Arc<dyn Peers> {
        match &self.0 {
            Some((_, secret)) => Arc::new(TcpPeers::new(secret.clone())),
            None => Arc::new(NoPeers),
        }
    }

    /// Begins to answer other nodes.
    pub fn serve(self, host: Handle) -> Option<Opened> {
        let (listener, secret) = self.0?;
        let (handed_on, connections) = mpsc::channel(WAITING_MAX);
        let others = Others {
            secret: cluster::Options::greeting(&secret),
            connections: handed_on,
        };
        Some(Opened {
            serving: tokio::spawn(tcp::serve(listener, secret.clone(), host, Some(others))),
            secret,
            connections,
        })
    }
}

impl Opened {
    /// The door's task, and what the functions need to take part.
    pub fn split(self, host: Handle, placing: Placing) -> (JoinHandle<()>, cluster::Options) {
        let options = cluster::Options {
            host,
            secret: self.secret,
            connections: self.connections,
            placing,
        };
        (self.serving, options)
    }
}
