//! Where the other nodes of a cluster reach this one's streams.

use std::sync::Arc;

use anyhow::Context;
use bowline_stream::peers::tcp::{self, Secret, TcpPeers};
use bowline_stream::{Handle, NoPeers, Peers};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::ground::Ground;

/// A listener for other nodes and the way to them; neither for a node that is alone.
pub struct Door(Option<(TcpListener, Secret)>);

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
    pub fn serve(self, host: Handle) -> Option<JoinHandle<()>> {
        let (listener, secret) = self.0?;
        Some(tokio::spawn(tcp::serve(listener, secret, host)))
    }
}
