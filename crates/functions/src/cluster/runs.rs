//! Runs that go from node to node: what a node asks of others before it offers one, and when it does.

use std::sync::Arc;
use std::time::Duration;

use bowline_capacity::identity::NodeId;
use bowline_foundation::digest::Digest;
use bowline_stream::peers::tcp::Secret;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Cluster;
use super::peer::Peer;
use super::wire::{Asked, Offer, Told};
use crate::suspend::{Candidate, Facts};

/// How long a node may take to say what it could take up, or that it has heard what comes.
const FACTS_MAX: Duration = Duration::from_millis(500);
/// How long it may take to take a run up: a module may have to be compiled first.
const OFFER_MAX: Duration = Duration::from_secs(25);

impl Cluster {
    pub fn own_id(&self) -> u64 {
        self.here().0
    }

    /// Another node by its identifier or address.
    pub fn named_node(&self, wanted: &str) -> Option<u64> {
        let peers = self.peers.load();
        let mut others = peers.iter().filter(|peer| !peer.is_gone());
        let found = others.find(|peer| peer.address == wanted || peer.id.0.to_string() == wanted);
        found.map(|peer| peer.id.0)
    }

    /// What all other nodes could take up.
    pub async fn asked_for_facts(&self) -> Vec<Candidate> {
        let mut asking = JoinSet::new();
        for peer in self.peers.load().iter().filter(|peer| !peer.is_gone()) {
            let (peer, greeting) = (peer.clone(), self.greeting.clone());
            asking.spawn(async move {
                let facts = timeout(FACTS_MAX, facts(&peer, &greeting)).await;
                Candidate {
                    node: peer.id.0,
                    is_source: false,
                    facts: facts.unwrap_or_else(|_| Err("it does not answer".to_owned())),
                }
            });
        }
        asking.join_all().await
    }

    /// Offers a run to a node and waits for its word. An error leaves open whether the run goes on there.
    pub async fn offer_run(&self, node: u64, offer: Offer) -> Result<Told, String> {
        let peer = self.peer(NodeId(node)).ok_or("it has left the cluster")?;
        let asked = ask(&peer, &self.greeting, Asked::Offer(Box::new(offer)));
        tokio::select! {
            told = timeout(OFFER_MAX, asked) => told.map_err(|_| "it takes too long".to_owned())?,
            () = peer.wait_until_lost() => Err("it is lost".to_owned()),
        }
    }

    /// Says that a run with this checkpoint may be offered soon.
    pub async fn announce(&self, node: u64, checkpoint: Digest) -> Result<(), String> {
        let peer = self.peer(NodeId(node)).ok_or("it has left the cluster")?;
        let asked = ask(&peer, &self.greeting, Asked::Prepare(checkpoint));
        let told = timeout(FACTS_MAX, asked).await;
        told.map_err(|_| "it does not answer".to_owned())?.map(drop)
    }
}

async fn facts(peer: &Arc<Peer>, greeting: &Secret) -> Result<Facts, String> {
    match ask(peer, greeting, Asked::Facts).await? {
        Told::Facts(facts) => Ok(facts),
        _ => Err("it answers something else".to_owned()),
    }
}

async fn ask(peer: &Peer, greeting: &Secret, asked: Asked) -> Result<Told, String> {
    let told = async {
        let mut line = peer.line(greeting).await?;
        line.ask(&asked).await?;
        let told = line.told().await?;
        peer.keep(line);
        std::io::Result::Ok(told)
    };
    told.await.map_err(|error| error.to_string())
}
