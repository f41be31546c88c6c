//! The nodes of a cluster run invocations for each other.
//!
//! ```text
//!   warm here? ──yes──▶ run
//!      │ no
//!      ▼
//!   capacity::placement ── here ──▶ run, a cold start
//!      │ another node
//!      ▼
//!   I errand ──▶ admitted there? ── N, or no answer within TAKE_MAX ──▶ run here
//!                   │ Y taken
//!   G go ───────────▶ run there ──▶ B, P … ──▶ E ending
//! ```
//! Before the word `G` a node has not begun and will not: whatever goes wrong up to there, the invocation runs
//! where it arrived. After it, an answer that does not come is [`Error::Lost`](crate::error::Error::Lost): the
//! function may have run. A node never hands on what it was handed.
//!
//! What nodes know of each other is soft: each asks all others every [`ASK_EVERY`] what they hold. Wrong
//! knowledge costs a cold start.

mod forward;
mod line;
mod peer;
mod receive;
mod runs;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bowline_capacity::identity::NodeId;
use bowline_capacity::placement::Candidate;
use bowline_foundation::clock::Monotonic;
use bowline_foundation::digest::Hasher;
use bowline_sandbox::{SandboxKind, VersionSpec};
use bowline_stream::peers::tcp::Secret;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

pub(crate) use forward::Away;
pub use peer::NodeState;
use peer::{Peer, bit};
use wire::Advert;

use crate::invoke::Running;
use crate::service::Inner;

/// How often each other node is asked what it holds.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long it may take to answer.
const ASK_MAX: Duration = Duration::from_millis(500);
/// How long the last answers may take when the node stops.
const TELL_MAX: Duration = Duration::from_secs(5);
/// What the secret is derived for by which nodes know each other here.
const PURPOSE: &str = "invocations";

/// What a node needs to take part.
pub struct Options {
    /// Who the others are, and who this one is.
    pub host: bowline_stream::Handle,
    /// What the nodes of the cluster know and nobody else.
    pub secret: Secret,
    /// Connections of others that began with [`Options::greeting`].
    pub connections: mpsc::Receiver<TcpStream>,
    pub placing: Placing,
}

/// Where invocations run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placing {
    /// On the node that has the version warm.
    #[default]
    Cluster,
    /// Where they arrive. What others ask for is done all the same.
    Node,
}

impl Options {
    /// What connections to this part of a node begin with.
    pub fn greeting(secret: &Secret) -> Secret {
        secret.derived(PURPOSE)
    }
}

/// A node as it is shown.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: u64,
    /// Where other nodes reach it; empty if they cannot.
    pub address: String,
    pub state: NodeState,
    /// Whether it is the node that was asked.
    pub is_here: bool,
    /// Invocations that run on it.
    pub load: u32,
    pub warm: Vec<WarmVersion>,
}

/// A version that a node holds warm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WarmVersion {
    pub account: String,
    pub function: String,
    pub version: String,
    /// Sandboxes that are idle.
    pub idle: u32,
}

/// What a node knows of the others.
pub(crate) struct Cluster {
    host: bowline_stream::Handle,
    greeting: Secret,
    placing: Placing,
    peers: ArcSwap<Vec<Arc<Peer>>>,
    /// Invocations that are at other nodes.
    out: AtomicU32,
    /// What runs here for other nodes and has not been told to its end.
    pub answering: Arc<Running>,
    connections: Mutex<Option<mpsc::Receiver<TcpStream>>>,
}

impl Cluster {
    pub fn new(options: Options) -> Self {
        Self {
            greeting: Options::greeting(&options.secret),
            host: options.host,
            placing: options.placing,
            peers: ArcSwap::default(),
            out: AtomicU32::new(0),
            answering: Arc::default(),
            connections: Mutex::new(Some(options.connections)),
        }
    }

    /// Which node this is.
    pub(crate) fn here(&self) -> NodeId {
        NodeId(self.host.id().0)
    }

    /// The nodes that an invocation could run on, this one first with what runs on it.
    fn candidates(&self, here: u32, (identity, kind): (u64, SandboxKind), now: Monotonic) -> Vec<Candidate> {
        let own = Candidate {
            node: self.here(),
            load: here,
            // The caller has looked.
            idle: 0,
        };
        let peers = self.peers.load();
        let others = peers.iter().filter_map(|peer| peer.candidate(identity, kind, now));
        std::iter::once(own).chain(others).collect()
    }

    /// Waits until all that ran here for other nodes has been told, as long as they listen.
    pub async fn close(&self) {
        if timeout(TELL_MAX, self.answering.close()).await.is_err() {
            tracing::warn!("another node does not take the answer of what it had run here");
        }
    }

    fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers.load().iter().find(|peer| peer.id == id).cloned()
    }

    /// Learns who is there. Who is no neighbour any more may still run what it was sent: it is asked on until
    /// nothing of this node is there, and only its silence ends that earlier.
    fn meet(&self, now: Monotonic) -> Arc<Vec<Arc<Peer>>> {
        let known = self.peers.load_full();
        let mut met: Vec<Arc<Peer>> = (self.host.neighbours().into_iter())
            .filter(|host| !host.address.is_empty())
            .map(|host| {
                let id = NodeId(host.id.0);
                let old = known.iter().find(|peer| peer.id == id && peer.address == host.address);
                old.cloned().unwrap_or_else(|| Peer::new(id, host.address, now))
            })
            .collect();
        for peer in &met {
            peer.stays();
        }
        let gone = known
            .iter()
            .filter(|peer| !met.iter().any(|met| Arc::ptr_eq(met, peer)));
        let gone: Vec<Arc<Peer>> = gone.filter(|peer| peer.goes()).cloned().collect();
        // Last, so that a node is found before the one it has replaced.
        met.extend(gone);
        let met = Arc::new(met);
        self.peers.store(met.clone());
        met
    }
}

impl Inner {
    /// Whether the node with this number takes invocations, as far as this one knows.
    pub(crate) fn is_near(&self, host: u64) -> bool {
        let peer = (self.cluster.as_ref()).and_then(|cluster| cluster.peer(NodeId(host)));
        peer.is_some_and(|peer| !peer.is_gone() && peer.state(self.clock.monotonic()) == NodeState::Ready)
    }

    /// Asks the others what they hold and answers what they ask, for as long as the service lives.
    pub(crate) async fn take_part(self: Arc<Self>, cluster: Arc<Cluster>) {
        let connections = cluster.connections.lock().take();
        let answering = async {
            match connections {
                Some(connections) => receive::answer(self.clone(), connections).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(answering, self.ask_around(&cluster));
    }

    async fn ask_around(self: &Arc<Self>, cluster: &Arc<Cluster>) {
        let mut ticks = tokio::time::interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking = JoinSet::new();
        loop {
            ticks.tick().await;
            for peer in cluster.meet(self.clock.monotonic()).iter() {
                let (clock, greeting, peer) = (self.clock.clone(), cluster.greeting.clone(), peer.clone());
                asking.spawn(async move {
                    match timeout(ASK_MAX, peer.ask(&greeting)).await {
                        Ok(Ok(advert)) => peer.hear(advert, clock.monotonic()),
                        Ok(Err(_)) | Err(_) => peer.missed(clock.monotonic()),
                    }
                });
            }
            while asking.join_next().await.is_some() {}
        }
    }

    /// Invocations that run on this node.
    fn running_here(&self) -> u32 {
        let out = self
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.out.load(Ordering::Relaxed));
        u32::try_from(self.running.count())
            .unwrap_or(u32::MAX)
            .saturating_sub(out)
    }

    /// What this node says of itself.
    fn advert(&self) -> Advert {
        Advert {
            is_stopping: self.running.is_closing(),
            kinds: self
                .backends
                .iter()
                .map(|backend| bit(backend.kind()))
                .fold(0, |all, kind| all | kind),
            load: self.running_here(),
            warm: self.held(),
        }
    }

    /// The versions that this node holds warm, with how many sandboxes are idle.
    fn held(&self) -> Vec<(u64, u32)> {
        let mut held = BTreeMap::new();
        for pool in self.sweeper.pools().into_iter().chain(self.keeper.pools()) {
            match pool.idle() {
                0 => {}
                idle => drop(held.insert(pool.identity, idle)),
            }
        }
        held.into_iter().take(wire::WARM_MAX).collect()
    }

    /// All nodes of the cluster that this one knows of, itself first.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        let Some(cluster) = &self.cluster else {
            return vec![self.view(0, String::new())];
        };
        let now = self.clock.monotonic();
        let own = self.view(cluster.here().0, cluster.host.address());
        let others = cluster.peers.load();
        let others = others.iter().filter(|peer| !peer.is_gone()).map(|peer| {
            let (load, warm) = peer.holds();
            NodeView {
                id: peer.id.0,
                address: peer.address.clone(),
                state: peer.state(now),
                is_here: false,
                load,
                warm: self.named(&warm),
            }
        });
        std::iter::once(own).chain(others).collect()
    }

    fn view(&self, id: u64, address: String) -> NodeView {
        NodeView {
            id,
            address,
            state: match self.running.is_closing() {
                true => NodeState::Stopping,
                false => NodeState::Ready,
            },
            is_here: true,
            load: self.running_here(),
            warm: self.named(&self.held()),
        }
    }

    /// Versions by what they are called; those that this node does not know are left out.
    fn named(&self, warm: &[(u64, u32)]) -> Vec<WarmVersion> {
        let warm: BTreeMap<u64, u32> = warm.iter().copied().collect();
        let functions = self.registry.snapshot.all();
        let pools = functions.iter().flat_map(|entry| entry.pools());
        let held = pools.filter_map(|pool| {
            let spec = &pool.parts.spec;
            Some(WarmVersion {
                account: spec.account.to_string(),
                function: spec.function.clone(),
                version: spec.version.clone(),
                idle: *warm.get(&pool.identity)?,
            })
        });
        let mut held: Vec<_> = held.collect();
        held.sort();
        held
    }
}

/// What a version is, the same on every node: all that its sandboxes depend on but where the code lies.
pub(crate) fn identity(spec: &VersionSpec) -> u64 {
    let mut hasher = Hasher::default();
    let mut take = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    for text in [spec.account.as_str(), &spec.function, &spec.version, &spec.handler] {
        take(text.as_bytes());
    }
    take(spec.runtime.to_string().as_bytes());
    take(spec.code.digest.as_bytes());
    if let Some(layers) = &spec.layers {
        take(layers.digest.as_bytes());
    }
    if let Some(image) = &spec.image {
        take(format!("{image:?}").as_bytes());
    }
    take(format!("{:?}", spec.kind).as_bytes());
    take(&spec.memory.0.to_be_bytes());
    take(&spec.ephemeral_storage.0.to_be_bytes());
    take(&spec.timeout.as_nanos().to_be_bytes());
    for (name, value) in &spec.environment {
        take(name.as_bytes());
        take(value.as_bytes());
    }
    for mount in &spec.mounts {
        take(mount.share.as_bytes());
        take(mount.at.as_bytes());
        take(format!("{:?}", mount.access).as_bytes());
    }
    let digest = *hasher.finish().as_bytes();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
