//! Another node as this one knows it: what it has said of itself, and the connections to it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bowline_capacity::identity::NodeId;
use bowline_capacity::placement::Candidate;
use bowline_foundation::clock::Monotonic;
use bowline_sandbox::SandboxKind;
use bowline_stream::peers::tcp::{Secret, connect};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::line::Line;
use super::wire::{Advert, Asked, Told};

/// Invocations that run at one other node for this one, at most; those beyond stay here.
const OUT_MAX: u32 = 256;
/// Connections that are kept to one node while nobody uses them.
const IDLE_MAX: usize = 32;
/// What a node has said counts for so long.
const FRESH_MAX: Duration = Duration::from_secs(2);
/// A node that has said nothing for so long has lost what it runs for others.
const LOST_AFTER: Duration = Duration::from_secs(6);

/// A node as this one sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It takes invocations.
    Ready,
    /// It takes none any more, and ends.
    Stopping,
    /// It does not answer.
    Silent,
}

pub(super) struct Peer {
    pub id: NodeId,
    pub address: String,
    known: Mutex<Known>,
    idle: Mutex<Vec<Line>>,
    out: AtomicU32,
    /// It is no neighbour any more; nothing is sent there.
    gone: AtomicBool,
    lost: watch::Sender<bool>,
}

struct Known {
    /// When it last answered.
    heard: Option<Monotonic>,
    /// Since when it has not been lost, for want of an answer.
    seen: Monotonic,
    is_stopping: bool,
    kinds: u8,
    load: u32,
    warm: HashMap<u64, u32>,
}

impl Peer {
    pub fn new(id: NodeId, address: String, now: Monotonic) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            known: Mutex::new(Known {
                heard: None,
                seen: now,
                is_stopping: false,
                kinds: 0,
                load: 0,
                warm: HashMap::new(),
            }),
            idle: Mutex::default(),
            out: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            lost: watch::Sender::new(false),
        })
    }

    /// Takes note of what the node says of itself.
    pub fn hear(&self, advert: Advert, now: Monotonic) {
        let mut known = self.known.lock();
        *known = Known {
            heard: Some(now),
            seen: now,
            is_stopping: advert.is_stopping,
            kinds: advert.kinds,
            load: advert.load,
            warm: advert.warm.into_iter().collect(),
        };
        drop(known);
        self.lost.send_if_modified(std::mem::take);
    }

    /// Takes note that the node did not say what it holds.
    pub fn missed(&self, now: Monotonic) {
        let is_lost = now.since(self.known.lock().seen) >= LOST_AFTER;
        if is_lost {
            self.lost.send_replace(true);
        }
    }

    /// Takes note that the node did not take an invocation: until it answers again, nothing is sent there.
    pub fn failed(&self) {
        self.known.lock().heard = None;
    }

    /// Takes note that the node is a neighbour.
    pub fn stays(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }

    /// Takes note that the node is no neighbour. Returns whether it is to be asked on: what was sent there may
    /// still run, or has just been about to be sent when it went.
    pub fn goes(&self) -> bool {
        let was_gone = self.gone.swap(true, Ordering::Relaxed);
        !was_gone || self.out.load(Ordering::Relaxed) > 0
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Returns once the node is lost.
    pub async fn wait_until_lost(&self) {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as this peer.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// What the rule of placement has to know, if the node may be sent anything.
    pub fn candidate(&self, identity: u64, kind: SandboxKind, now: Monotonic) -> Option<Candidate> {
        let out = self.out.load(Ordering::Relaxed);
        let known = self.known.lock();
        let fresh = known.heard.is_some_and(|heard| now.since(heard) <= FRESH_MAX);
        let fit = fresh && !self.is_gone() && !known.is_stopping && known.kinds & bit(kind) != 0 && out < OUT_MAX;
        fit.then(|| Candidate {
            node: self.id,
            load: known.load.max(out),
            idle: known.warm.get(&identity).copied().unwrap_or(0),
        })
    }

    pub fn state(&self, now: Monotonic) -> NodeState {
        let known = self.known.lock();
        match known.heard {
            Some(heard) if now.since(heard) <= FRESH_MAX => match known.is_stopping {
                true => NodeState::Stopping,
                false => NodeState::Ready,
            },
            _ => NodeState::Silent,
        }
    }

    /// Load, and the versions that it holds warm with how many sandboxes are idle.
    pub fn holds(&self) -> (u32, Vec<(u64, u32)>) {
        let known = self.known.lock();
        let warm = known.warm.iter().map(|(identity, idle)| (*identity, *idle)).collect();
        (known.load, warm)
    }

    /// Counts an invocation that goes there; one idle sandbox less waits there.
    pub fn sent(self: &Arc<Self>, identity: u64) -> Sent {
        self.out.fetch_add(1, Ordering::Relaxed);
        if let Some(idle) = self.known.lock().warm.get_mut(&identity) {
            *idle = idle.saturating_sub(1);
        }
        Sent(self.clone())
    }

    /// A connection to the node.
    pub async fn line(&self, secret: &Secret) -> io::Result<Line> {
        while let Some(line) = self.kept() {
            if line.is_silent() {
                return Ok(line);
            }
        }
        connect(&self.address, secret).await.map(Line::new)
    }

    fn kept(&self) -> Option<Line> {
        self.idle.lock().pop()
    }

    /// Keeps a connection on which nothing is open.
    pub fn keep(&self, line: Line) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(line);
        }
    }

    /// Asks the node what it holds.
    pub async fn ask(&self, secret: &Secret) -> io::Result<Advert> {
        let mut line = self.line(secret).await?;
        line.ask(&Asked::Tell).await?;
        match line.told().await? {
            Told::Advert(advert) => {
                self.keep(line);
                Ok(advert)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
        }
    }
}

/// An invocation that is at another node; counted out when dropped.
pub(super) struct Sent(Arc<Peer>);

impl Drop for Sent {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A kind's place in an [`Advert`].
pub(super) fn bit(kind: SandboxKind) -> u8 {
    match kind {
        SandboxKind::Wasm => 1,
        SandboxKind::Linux => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard() -> (Arc<Peer>, Monotonic) {
        let now = Monotonic::default();
        let peer = Peer::new(NodeId(7), "127.0.0.1:1".to_owned(), now);
        let advert = Advert {
            kinds: bit(SandboxKind::Wasm),
            load: 3,
            warm: vec![(42, 1)],
            ..Advert::default()
        };
        peer.hear(advert, now);
        (peer, now)
    }

    #[test]
    fn a_node_takes_part_while_what_it_said_is_fresh() {
        let (peer, now) = heard();
        let candidate = peer.candidate(42, SandboxKind::Wasm, now).expect("it takes part");
        assert_eq!((candidate.load, candidate.idle), (3, 1));
        assert!(
            peer.candidate(42, SandboxKind::Linux, now).is_none(),
            "it has no such sandboxes"
        );
        let later = now.after(FRESH_MAX + Duration::from_millis(1));
        assert!(peer.candidate(42, SandboxKind::Wasm, later).is_none());
        assert_eq!(
            (peer.state(now), peer.state(later)),
            (NodeState::Ready, NodeState::Silent)
        );
        peer.missed(now);
        assert!(
            peer.candidate(42, SandboxKind::Wasm, now).is_some(),
            "one answer may be late"
        );
        peer.failed();
        assert!(
            peer.candidate(42, SandboxKind::Wasm, now).is_none(),
            "it has just failed"
        );
        let stopping = Advert {
            is_stopping: true,
            kinds: bit(SandboxKind::Wasm),
            ..Advert::default()
        };
        peer.hear(stopping, now);
        assert!(peer.candidate(42, SandboxKind::Wasm, now).is_none());
        assert_eq!(peer.state(now), NodeState::Stopping);
    }

    #[test]
    fn what_is_sent_takes_an_idle_sandbox_and_counts_as_load() {
        let (peer, now) = heard();
        let sent: Vec<Sent> = (0..5).map(|_| peer.sent(42)).collect();
        let candidate = peer.candidate(42, SandboxKind::Wasm, now).expect("it takes part");
        assert_eq!((candidate.load, candidate.idle), (5, 0));
        drop(sent);
        let candidate = peer.candidate(42, SandboxKind::Wasm, now).expect("it takes part");
        assert_eq!(candidate.load, 3);
        let many: Vec<Sent> = (0..OUT_MAX).map(|_| peer.sent(42)).collect();
        assert!(
            peer.candidate(42, SandboxKind::Wasm, now).is_none(),
            "{} are there",
            many.len()
        );
    }

    #[test]
    fn a_node_that_went_is_asked_on_while_something_is_there_and_sent_nothing() {
        let (peer, now) = heard();
        let sent = peer.sent(42);
        assert!(peer.goes() && peer.goes(), "an invocation is there");
        assert!(peer.candidate(42, SandboxKind::Wasm, now).is_none());
        assert!(!*peer.lost.borrow(), "it still answers");
        drop(sent);
        assert!(!peer.goes(), "nothing is there");
        peer.stays();
        assert!(peer.candidate(42, SandboxKind::Wasm, now).is_some(), "it is back");
        assert!(peer.goes(), "something may have been about to be sent");
    }

    #[tokio::test]
    async fn a_node_is_lost_after_a_while_of_silence_and_not_before() {
        let (peer, now) = heard();
        peer.missed(now.after(LOST_AFTER - Duration::from_millis(1)));
        assert!(!*peer.lost.borrow());
        peer.missed(now.after(LOST_AFTER));
        peer.wait_until_lost().await;
        peer.hear(Advert::default(), now);
        assert!(!*peer.lost.borrow(), "it is back");
    }
}
