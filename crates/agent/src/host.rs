//! The agent itself: takes channels, makes sandboxes and runs services for one node at a time.
//!
//! ```text
//!   channel ─▶ Hello ─▶ control: beats, services          ─┐ the control channel ends, the lease runs out, Stop:
//!           ─▶ Create ─▶ one sandbox until its channel ends ├─▶ sandboxes, services and connections end
//!           ─▶ Show ─▶ a folder until its channel ends      │
//!           ─▶ Connect ─▶ one connection to a service       │
//!           ─▶ Judge, OfferCode, Keep ─▶ one answer        ─┘
//! ```
//! **Lease.** An agent that hears nothing from its node for the length of the lease ends everything; one that was stopped
//! and goes on later looks at its lease before it does anything that it was asked before.
//! **Epoch.** Channels carry the epoch of the control channel they belong to; those of an older one are refused.
//! **Parting.** Before its machine is saved, an agent that runs a single invocation takes it off its channel, and waits
//! without node and lease. A node that comes later, with a greater epoch, attaches the invocation to a channel again.

mod control;
mod folder;
mod parting;
mod sandbox;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy;
use bowline_sandbox::{Backend, MadeAhead, SandboxKind, VersionSpec};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::carry;
use crate::channel::{Accept, Channel};
use crate::code::CodeStore;
use crate::fuse::Shows;
use crate::message::{
    Attach, Connect, Create, Hello, Judge, Keep, MadeAheadMessage, OfferCode, Question, Refusal, Show, SpecMessage,
    Verdict,
};
use crate::wire::{self, Framed, Kind, PROTOCOL, WireError};
use control::Control;
use parting::Runs;

/// Channels that an agent serves at once.
const CHANNELS_MAX: usize = 10_000;

/// What an agent is made of.
pub struct HostOptions {
    pub clock: Clock,
    /// One for each kind of sandbox that it offers.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Where code is kept that comes by the channel; without it the agent sees the node's folders.
    pub code: Option<CodeStore>,
    /// Where the output of services goes.
    pub log_dir: PathBuf,
}

/// Why an agent stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error("the node said so")]
    Told,
    #[error("the node is gone")]
    NodeGone,
    #[error("the lease ran out")]
    LeaseOver,
    #[error("its machine is to be saved")]
    Parted,
    #[error("no channel can come any more")]
    Deaf(#[source] io::Error),
}

/// An agent.
pub struct Host {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub clock: Clock,
    pub backends: Vec<Arc<dyn Backend>>,
    pub code: Option<CodeStore>,
    pub log_dir: PathBuf,
    /// Of the control channel that counts; zero before the first.
    epoch: AtomicU64,
    lease_micros: AtomicU64,
    /// When the node was last heard, in microseconds since `begin`.
    heard_micros: AtomicU64,
    begin: bowline_foundation::clock::Monotonic,
    prepared: Mutex<std::collections::HashSet<Prepared>>,
    /// What runs here, and what has parted.
    runs: Mutex<Runs>,
    /// Up to where the node was told of what was made ahead: hits and misses, by runtime.
    told: Mutex<BTreeMap<String, (u64, u64)>>,
    /// How folders are shown whose files the node is asked for.
    shows: Option<Arc<dyn Shows>>,
}

/// What makes one preparation as good as another.
#[derive(PartialEq, Eq, Hash)]
struct Prepared(SandboxKind, bowline_foundation::digest::Digest, String, String);

impl Shared {
    fn now_micros(&self) -> u64 {
        let micros = self.clock.monotonic().since(self.begin).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    /// Says that the node was heard.
    pub fn heard(&self) {
        self.heard_micros.store(self.now_micros(), Ordering::Release);
    }

    /// Whether a channel of this epoch may still have any effect.
    pub fn is_current(&self, epoch: u64) -> bool {
        epoch == self.epoch.load(Ordering::Acquire) && !self.is_over()
    }

    /// Whether the lease has run out.
    pub fn is_over(&self) -> bool {
        let silent = self
            .now_micros()
            .saturating_sub(self.heard_micros.load(Ordering::Acquire));
        silent > self.lease_micros.load(Ordering::Acquire)
    }

    /// Begins a new epoch, if it is newer than all before.
    fn begin_epoch(&self, hello: &Hello) -> Result<(), String> {
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "this agent speaks protocol `{PROTOCOL}`, the node `{}`",
                hello.protocol
            ));
        }
        if hello.lease_ms == 0 {
            return Err("a lease of no time cannot be kept".to_owned());
        }
        let newer = |epoch| (hello.epoch > epoch).then_some(hello.epoch);
        let begun = self.epoch.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
        begun.map_err(|epoch| format!("epoch `{}` is fenced: `{epoch}` has begun", hello.epoch))?;
        // The agent may be a copy, in a machine that goes on from a snapshot.
        entropy::renew();
        self.lease_micros
            .store(hello.lease_ms.saturating_mul(1000), Ordering::Release);
        self.heard();
        Ok(())
    }

    /// What was made ahead since this was asked last, if anybody wanted it.
    pub fn made_ahead(&self) -> Vec<MadeAheadMessage> {
        let mut told = self.told.lock();
        let counted = self.backends.iter().flat_map(|backend| backend.made_ahead());
        let news = counted.filter_map(|MadeAhead { runtime, hits, misses }| {
            let before = told.insert(runtime.clone(), (hits, misses)).unwrap_or_default();
            let (hits, misses) = (hits.saturating_sub(before.0), misses.saturating_sub(before.1));
            (hits + misses > 0).then_some(MadeAheadMessage { runtime, hits, misses })
        });
        news.collect()
    }

    fn backend(&self, kind: SandboxKind) -> Option<&Arc<dyn Backend>> {
        self.backends.iter().find(|backend| backend.kind() == kind)
    }

    /// The specification with the folders of this machine.
    fn local(&self, mut spec: SpecMessage) -> VersionSpec {
        if let Some(code) = &self.code {
            code.localise(&mut spec);
        }
        spec.into()
    }

    async fn judge(&self, question: Question, spec: SpecMessage) -> Verdict {
        let spec = self.local(spec);
        let Some(backend) = self.backend(spec.kind) else {
            let text = format!("this instance offers no sandboxes of kind `{:?}`", spec.kind);
            return Verdict::MissingRuntime { text };
        };
        match question {
            Question::Check => backend.check(&spec).await.into(),
            Question::Prepare => self.prepare(&**backend, &spec).await.into(),
        }
    }

    /// Prepares a version, once.
    async fn prepare(&self, backend: &dyn Backend, spec: &VersionSpec) -> Result<(), bowline_sandbox::PrepareError> {
        let name = (spec.function.clone(), spec.version.clone());
        let prepared = Prepared(spec.kind, spec.code.digest, name.0, name.1);
        if self.prepared.lock().contains(&prepared) {
            return Ok(());
        }
        backend.prepare(spec).await?;
        self.prepared.lock().insert(prepared);
        Ok(())
    }
}

impl Host {
    pub fn new(options: HostOptions) -> Self {
        let shared = Shared {
            begin: options.clock.monotonic(),
            clock: options.clock,
            backends: options.backends,
            code: options.code,
            log_dir: options.log_dir,
            epoch: AtomicU64::new(0),
            // Before a node has come there is none to wait for.
            lease_micros: AtomicU64::new(u64::MAX),
            heard_micros: AtomicU64::new(0),
            prepared: Mutex::default(),
            runs: Mutex::default(),
            told: Mutex::default(),
            shows: None,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Lets it show its sandboxes folders whose files the node is asked for. Must be said before it runs.
    #[must_use]
    pub fn showing(mut self, shows: Arc<dyn Shows>) -> Self {
        let shared = Arc::get_mut(&mut self.shared).expect("nobody else has it before it runs");
        shared.shows = Some(shows);
        self
    }

    /// Serves one node after the other says [`Hello`](Kind::Hello), until it ends; everything that ran for it has ended
    /// then. May be called again, for another node or for the same one with a new epoch.
    pub async fn run(&self, accept: &mut dyn Accept) -> Stopped {
        let (ends, mut ended) = mpsc::channel(1);
        let mut tasks: JoinSet<()> = JoinSet::new();
        let stopped = loop {
            tokio::select! {
                stopped = ended.recv() => break stopped.unwrap_or(Stopped::NodeGone),
                accepted = accept.accept() => match accepted {
                    Err(error) => break Stopped::Deaf(error),
                    Ok(channel) => {
                        while tasks.try_join_next().is_some() {}
                        if tasks.len() < CHANNELS_MAX {
                            tasks.spawn(attend(self.shared.clone(), channel, ends.clone()));
                        }
                    }
                },
            }
        };
        // Sandboxes die with their tasks.
        self.shared.lease_micros.store(u64::MAX, Ordering::Release);
        tasks.shutdown().await;
        stopped
    }

    /// Ends the helpers of all kinds of sandbox.
    pub async fn close(&self) {
        for backend in &self.shared.backends {
            backend.shut_down().await;
        }
    }
}

/// Serves a channel to its end.
async fn attend(shared: Arc<Shared>, channel: Channel, ends: mpsc::Sender<Stopped>) {
    if let Err(error) = begin(&shared, Framed::new(channel), ends).await {
        tracing::warn!(%error, "a channel of the node broke off");
    }
}

/// Finds out what a channel is for.
async fn begin(shared: &Arc<Shared>, mut framed: Framed, ends: mpsc::Sender<Stopped>) -> io::Result<()> {
    let Some(first) = framed.next().await? else {
        return Ok(());
    };
    match first.kind {
        Kind::Hello => {
            let hello: Hello = wire::json(&first.body, "a greeting")?;
            if let Err(reason) = shared.begin_epoch(&hello) {
                framed.put_json(Kind::Refused, &Refusal { reason });
                return framed.flush().await;
            }
            let stopped = Control::new(shared.clone(), framed, &hello).run().await;
            // One that a newer node took the place of ends alone; after a parting nothing ends.
            if !matches!(stopped, Stopped::Parted) && shared.epoch.load(Ordering::Acquire) == hello.epoch {
                let _ = ends.send(stopped).await;
            }
        }
        Kind::Create => {
            let create: Create = wire::json(&first.body, "a creation")?;
            current(shared, create.epoch)?;
            sandbox::serve(shared, framed, create).await?;
        }
        Kind::Attach => {
            let attach: Attach = wire::json(&first.body, "an invocation that parted")?;
            current(shared, attach.epoch)?;
            shared.attach(&attach, framed)?;
        }
        Kind::Judge => {
            let judge: Judge = wire::json(&first.body, "a question")?;
            current(shared, judge.epoch)?;
            let verdict = shared.judge(judge.question, judge.spec).await;
            framed.put_json(Kind::Verdict, &verdict);
            framed.flush().await?;
        }
        Kind::Show => {
            let show: Show = wire::json(&first.body, "a folder to show")?;
            current(shared, show.epoch)?;
            folder::serve(shared, framed, show).await?;
        }
        Kind::Connect => {
            let connect: Connect = wire::json(&first.body, "a connection")?;
            current(shared, connect.epoch)?;
            if let Err(error) = carry::serve(framed, &connect).await {
                tracing::debug!(%error, to = ?connect.to, "a connection to a service was cut off");
            }
        }
        Kind::OfferCode | Kind::Keep => code(shared, framed, first).await?,
        kind => {
            let wanted = "a beginning";
            return Err(WireError::Unexpected { kind, wanted }.into());
        }
    }
    Ok(())
}

async fn code(shared: &Shared, framed: Framed, first: wire::Frame) -> io::Result<()> {
    let store = shared
        .code
        .as_ref()
        .ok_or(WireError::Body("code that this agent sees anyway"))?;
    if first.kind == Kind::OfferCode {
        let offer: OfferCode = wire::json(&first.body, "an offer of code")?;
        current(shared, offer.epoch)?;
        return store.receive(framed, &offer).await;
    }
    let keep: Keep = wire::json(&first.body, "what is in use")?;
    current(shared, keep.epoch)?;
    store.keep(&keep.digests)
}

fn current(shared: &Shared, epoch: u64) -> io::Result<()> {
    if shared.is_current(epoch) {
        return Ok(());
    }
    Err(io::Error::other(format!("epoch `{epoch}` is fenced")))
}

/// How often an agent looks at its lease.
fn lease_tick(lease: Duration) -> Duration {
    (lease / 8).max(Duration::from_millis(5))
}
