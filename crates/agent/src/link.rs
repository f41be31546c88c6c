//! The node's hold on one agent: a control channel with a lease, and the questions that need no sandbox.
//!
//! ```text
//!   connect ─▶ Hello(epoch, lease) ─▶ Welcome ─▶ beats every quarter of the lease ─▶ Lost, for one reason, for good
//! ```
//! A link that is lost never comes back: whoever holds it fences the instance and begins anew with a greater epoch.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use bowline_foundation::digest::Digest;
use bowline_sandbox::{CreateError, MadeAhead, SandboxKind, Site};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};

use crate::channel::{Dial, Reading};
use crate::code;
use crate::contents::{Contents, Inventory};
use crate::folders::Folders;
use crate::message::{Hello, Keep, MadeAheadMessage, NotParted, Part, Refusal, Welcome};
use crate::service::{Serve, ServiceNews};
use crate::wire::{self, Framed, Kind, PROTOCOL, WireError};

/// How long an agent that is there may take over its first word: it may still be starting.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// How long an agent may take to forget the code that is not in use.
pub(crate) const KEEP_MAX: Duration = Duration::from_secs(60);
/// How long somebody waits for an instance's end whose sandboxes wrote in folders of the node.
const FENCE_MAX: Duration = Duration::from_secs(10 * 60);
/// Beats in a lease.
const BEATS: u32 = 4;
/// News of services that nobody has read yet; more are held back in the channel.
const NEWS_MAX: usize = 64;

/// How the agent comes by code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeWay {
    /// It sees the node's folders.
    Shared,
    /// The node lays it into a folder, which the agent reads and nobody else, with what was made of it: the files of another
    /// folder whose names begin with its digest and a dash.
    Laid { folder: PathBuf, made: PathBuf },
    /// By the channel; it keeps what it got.
    Carried,
}

/// How to connect.
pub struct LinkOptions {
    pub dial: Arc<dyn Dial>,
    /// Greater than that of any link before to this instance.
    pub epoch: u64,
    /// How long either side may be silent.
    pub lease: Duration,
    pub clock: Clock,
    pub code: CodeWay,
    /// What the memory limits of all sandboxes there may add up to; without it there is no limit but the agent's own.
    pub memory_mib: Option<u64>,
    /// What the instance has in all, where it has something of its own.
    pub maxima: Option<Maxima>,
    /// Who is told how often what was made ahead there was wanted; nobody where that is the node's own.
    pub made_ahead: Option<OnMadeAhead>,
}

/// Who is told of what was made ahead.
pub type OnMadeAhead = Arc<dyn Fn(&MadeAhead) + Send + Sync>;

/// What an instance has in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maxima {
    pub memory_mib: u64,
    pub cpu_millis: u64,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the agent cannot be reached")]
    Io(#[from] io::Error),
    #[error("the agent refuses: {0}")]
    Refused(String),
    #[error("the agent speaks protocol `{0}`, this node `{PROTOCOL}`")]
    Protocol(u32),
    #[error("the agent said nothing for {0:?}")]
    Silent(Duration),
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The channel ended: the agent is gone.
    #[error("the agent is gone")]
    Gone,
    /// It lives, perhaps, but its lease does not.
    #[error("the agent was silent for longer than its lease")]
    Silent,
    /// It said what no agent says.
    #[error("the agent does not keep to the protocol: {0}")]
    Protocol(String),
    /// Its machine was taken away with what runs in it.
    #[error("its machine was suspended with an invocation")]
    Parted,
}

/// What a link tells whoever holds the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    Service(ServiceNews),
    /// The last news.
    Lost(Lost),
}

enum Order {
    Serve(Serve),
    Restart(String),
    Part(String, oneshot::Sender<Result<Parted, String>>),
    Stop,
}

/// A machine whose only invocation has left its channel. Whoever holds the link is told when this is dropped.
pub struct Parted {
    _told: oneshot::Sender<()>,
}

/// A connected agent; cheap to clone. The link ends when the last one is dropped.
#[derive(Clone)]
pub struct Link {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub dial: Arc<dyn Dial>,
    pub epoch: u64,
    pub code: CodeWay,
    kinds: Vec<SandboxKind>,
    lost: watch::Sender<Option<Lost>>,
    closed: AtomicBool,
    draining: AtomicBool,
    /// Whether an invocation there is about to part.
    parting: AtomicBool,
    /// Held while one is.
    parts: tokio::sync::Mutex<()>,
    orders: mpsc::UnboundedSender<Order>,
    /// What is there, code and sandboxes.
    pub contents: Arc<Contents>,
    /// Held while code is laid or removed.
    pub laying: Arc<tokio::sync::Mutex<()>>,
    /// What sandboxes there say of where they are.
    pub site: Site,
    /// Sandboxes that live there, and the memory they may use.
    pub sandboxes: AtomicU64,
    pub held_mib: AtomicU64,
    pub memory_mib: u64,
    maxima: Option<Maxima>,
    /// What was handed over to the agent; what that takes is held too.
    pub folders: Folders,
    /// Whether nothing of it runs any more.
    fenced: watch::Sender<bool>,
}

impl Inner {
    pub async fn open(&self) -> io::Result<Framed> {
        if self.closed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the instance is fenced"));
        }
        Ok(Framed::new(self.dial.dial().await?))
    }

    /// Whether sandboxes there may be used again.
    pub fn serves(&self) -> bool {
        let left = [&self.closed, &self.draining, &self.parting];
        left.iter().all(|left| !left.load(Ordering::Acquire))
    }

    /// Takes of the memory that sandboxes and folders there may have together, if there is so much left.
    pub fn take_mib(&self, mib: u64) -> Result<(), CreateError> {
        let fits = |held: u64| held.checked_add(mib).filter(|held| *held <= self.memory_mib);
        let taken = self.held_mib.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.map(drop).map_err(|held| {
            let all = self.memory_mib;
            let reason = format!("{mib} MiB are wanted, but {held} of the instance's {all} MiB are held");
            CreateError::Exhausted(reason.into())
        })
    }

    /// Waits until nothing that ran there can have any effect, for a while.
    pub async fn until_fenced(&self) {
        let mut fenced = self.fenced.subscribe();
        if timeout(FENCE_MAX, fenced.wait_for(|fenced| *fenced)).await.is_err() {
            tracing::warn!(
                "an instance was not ended within {FENCE_MAX:?}: what ran there may write on in its folders"
            );
        }
    }

    /// Whether the instance is fenced: what still comes from there has no effect.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Link {
    /// Connects to an agent that is there. The news end with [`LinkNews::Lost`].
    pub async fn connect(options: LinkOptions) -> Result<(Self, mpsc::Receiver<LinkNews>), LinkError> {
        let shaken = timeout(HANDSHAKE_MAX, shake_hands(&options)).await;
        let (framed, welcome) = shaken.map_err(|_| LinkError::Silent(HANDSHAKE_MAX))??;
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let (orders, orders_receiver) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            dial: options.dial,
            epoch: options.epoch,
            code: options.code,
            kinds: welcome.kinds,
            lost: watch::Sender::new(None),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            parts: tokio::sync::Mutex::default(),
            orders,
            contents: Arc::default(),
            laying: Arc::default(),
            site: Site::default(),
            sandboxes: AtomicU64::new(0),
            held_mib: AtomicU64::new(0),
            memory_mib: options.memory_mib.unwrap_or(u64::MAX),
            maxima: options.maxima,
            folders: Folders::default(),
            fenced: watch::Sender::new(false),
        });
        let control = Control {
            framed,
            lease: options.lease,
            heard: options.clock.monotonic(),
            clock: options.clock,
            orders: orders_receiver,
            news: news_sender,
            asked: None,
            made_ahead: options.made_ahead,
        };
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let (lost, news) = control.run().await;
            if let Some(inner) = weak.upgrade() {
                inner.closed.store(true, Ordering::Release);
                inner.lost.send_replace(Some(lost.clone()));
            }
            // Nobody may listen any more.
            let _ = news.send(LinkNews::Lost(lost)).await;
        });
        Ok((Self { inner }, news))
    }

    /// The kinds of sandbox that the agent makes.
    pub fn kinds(&self) -> &[SandboxKind] {
        &self.inner.kinds
    }

    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Why the link ended, if it has.
    pub fn lost(&self) -> Option<Lost> {
        self.inner.lost.borrow().clone()
    }

    /// Returns once the link has ended.
    pub async fn ended(&self) {
        let mut lost = self.inner.lost.subscribe();
        // Its sender lives as long as this link.
        let _ = lost.wait_for(Option::is_some).await;
    }

    /// Whether nothing is made there any more: the link has ended, or was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Whether both are the same link.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// What its sandboxes say of where they are.
    pub fn site(&self) -> &Site {
        &self.inner.site
    }

    /// What the instance has in all, where it has something of its own.
    pub fn maxima(&self) -> Option<Maxima> {
        self.inner.maxima
    }

    /// Sandboxes that live there.
    pub fn sandboxes(&self) -> u64 {
        self.inner.sandboxes.load(Ordering::Relaxed)
    }

    /// What is there now: code, and sandboxes.
    pub fn inventory(&self) -> Inventory {
        self.inner.contents.inventory()
    }

    /// The sum of their memory limits, in MiB.
    pub fn held_mib(&self) -> u64 {
        let held = self.inner.held_mib.load(Ordering::Relaxed);
        held.saturating_sub(self.inner.folders.mib())
    }

    /// What is left of the memory that they may hold, in MiB.
    pub fn room_mib(&self) -> u64 {
        let held = self.inner.held_mib.load(Ordering::Relaxed);
        self.inner.memory_mib.saturating_sub(held)
    }

    /// Whether idle sandboxes there are given up rather than used again; running invocations end as they would.
    pub fn drain(&self, draining: bool) {
        self.inner.draining.store(draining, Ordering::Release);
    }

    /// Ends all use of the instance from this side: no new channel, and nothing that comes by an old one counts.
    /// The first step of a fence; the other is to end the agent itself.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }

    /// Says that the instance was ended: nothing that ran there has any effect any more.
    pub fn fenced(&self) {
        self.inner.fenced.send_replace(true);
    }

    /// Has the agent start services, in order. How that goes is told in the news.
    pub fn serve(&self, services: Serve) {
        // A link that has ended tells so itself.
        let _ = self.inner.orders.send(Order::Serve(services));
    }

    /// Has the agent start one service again.
    pub fn restart(&self, service: &str) {
        let _ = self.inner.orders.send(Order::Restart(service.to_owned()));
    }

    /// The machine that the agent is alone in, for whoever made it.
    pub fn machine(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.inner.dial.machine()
    }

    /// Has the only invocation there leave its channel, so that its machine can be saved; all other sandboxes there are
    /// lost. Or says why not: then nothing has changed.
    pub async fn part(&self, run: &str) -> Result<Parted, String> {
        let _one = self.inner.parts.lock().await;
        let parting = Parting(&self.inner.parting);
        parting.0.store(true, Ordering::Release);
        let (answer, answered) = oneshot::channel();
        let _ = self.inner.orders.send(Order::Part(run.to_owned(), answer));
        let parted = answered.await.unwrap_or_else(|_| Err("its agent is gone".to_owned()))?;
        self.close();
        Ok(parted)
    }

    /// What the instance uses, as far as its meters say.
    pub fn read_meters(&self) -> Reading {
        self.inner.dial.read_meters()
    }

    /// Asks the agent to end: it lets nothing run on.
    pub fn stop(&self) {
        let _ = self.inner.orders.send(Order::Stop);
    }

    /// Says which code is still in use; the agent forgets what else it was sent.
    pub async fn keep_code(&self, digests: &[Digest]) -> io::Result<()> {
        let keeping = async {
            match &self.inner.code {
                CodeWay::Shared => {
                    self.inner.contents.keep(digests.to_vec());
                    Ok(())
                }
                CodeWay::Laid { folder, .. } => code::clear(&self.inner, folder, digests.to_vec()).await,
                CodeWay::Carried => self.try_keep(digests).await,
            }
        };
        let kept = timeout(KEEP_MAX, keeping).await;
        kept.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("it took longer than {KEEP_MAX:?}")))?
    }

    async fn try_keep(&self, digests: &[Digest]) -> io::Result<()> {
        let mut framed = self.inner.open().await?;
        let keep = Keep {
            epoch: self.inner.epoch,
            digests: self.inner.contents.keep(digests.to_vec()),
        };
        framed.put_json(Kind::Keep, &keep);
        framed.flush().await?;
        // The agent closes the channel when it is done.
        match framed.next().await? {
            None => Ok(()),
            Some(frame) => Err(WireError::Unexpected {
                kind: frame.kind,
                wanted: "the end",
            }
            .into()),
        }
    }
}

/// Says that an invocation is about to part, until it is dropped.
struct Parting<'a>(&'a AtomicBool);

impl Drop for Parting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn shake_hands(options: &LinkOptions) -> Result<(Framed, Welcome), LinkError> {
    let mut framed = Framed::new(options.dial.dial().await?);
    let hello = Hello {
        protocol: PROTOCOL,
        epoch: options.epoch,
        lease_ms: u64::try_from(options.lease.as_millis()).unwrap_or(u64::MAX),
    };
    framed.put_json(Kind::Hello, &hello);
    framed.flush().await?;
    let frame = framed.must_next("a welcome").await?;
    if frame.kind == Kind::Refused {
        let refusal: Refusal = wire::json(&frame.body, "a refusal").map_err(io::Error::from)?;
        return Err(LinkError::Refused(refusal.reason));
    }
    let body = frame.expect(Kind::Welcome, "a welcome").map_err(io::Error::from)?;
    let welcome: Welcome = wire::json(&body, "a welcome").map_err(io::Error::from)?;
    if welcome.protocol != PROTOCOL {
        return Err(LinkError::Protocol(welcome.protocol));
    }
    Ok((framed, welcome))
}

/// The node's end of the control channel.
struct Control {
    framed: Framed,
    lease: Duration,
    clock: Clock,
    /// When the agent last answered.
    heard: Monotonic,
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::Sender<LinkNews>,
    /// Who wants to know of an invocation that is to part.
    asked: Option<oneshot::Sender<Result<Parted, String>>>,
    made_ahead: Option<OnMadeAhead>,
}

impl Control {
    async fn run(mut self) -> (Lost, mpsc::Sender<LinkNews>) {
        let lost = match self.attend().await {
            Ok(lost) => lost,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Lost::Protocol(error.to_string()),
            Err(_) => Lost::Gone,
        };
        (lost, self.news)
    }

    async fn attend(&mut self) -> io::Result<Lost> {
        let mut beats = tokio::time::interval(self.lease / BEATS);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number: u64 = 0;
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    if self.clock.monotonic().since(self.heard) > self.lease {
                        return Ok(Lost::Silent);
                    }
                    number += 1;
                    self.framed.put(Kind::Beat, &number.to_le_bytes());
                }
                order = self.orders.recv() => match order {
                    Some(Order::Serve(services)) => self.framed.put_json(Kind::Serve, &services),
                    Some(Order::Restart(service)) => self.framed.put(Kind::Restart, service.as_bytes()),
                    Some(Order::Part(run, asked)) => {
                        self.framed.put_json(Kind::Part, &Part { run });
                        self.asked = Some(asked);
                    }
                    Some(Order::Stop) | None => {
                        self.framed.put(Kind::Stop, b"");
                        let _ = timeout(self.lease, self.framed.flush()).await;
                        return self.last_words().await;
                    }
                },
                frame = self.framed.next() => match frame? {
                    None => return Ok(Lost::Gone),
                    Some(frame) if frame.kind == Kind::Parted => return self.parted().await,
                    Some(frame) => self.take(frame).await?,
                },
            }
            // A stopped agent reads nothing: what it does not take within its lease it need not take.
            match timeout(self.lease, self.framed.flush()).await {
                Ok(flushed) => flushed?,
                Err(_) => return Ok(Lost::Silent),
            }
        }
    }

    /// Waits until the agent that was told to stop has gone.
    async fn last_words(&mut self) -> io::Result<Lost> {
        let ended = async { while let Ok(Some(_)) = self.framed.next().await {} };
        match timeout(self.lease, ended).await {
            Ok(()) => Ok(Lost::Gone),
            Err(_) => Ok(Lost::Silent),
        }
    }

    /// Waits until the machine is done with, as far as this link goes.
    async fn parted(&mut self) -> io::Result<Lost> {
        let asked = self.asked.take();
        let asked = asked.ok_or(WireError::Body("a parting that nobody asked for"))?;
        let (told, dropped) = oneshot::channel();
        // Without a taker it is dropped here.
        let _ = asked.send(Ok(Parted { _told: told }));
        let _ = dropped.await;
        Ok(Lost::Parted)
    }

    async fn take(&mut self, frame: wire::Frame) -> Result<(), WireError> {
        match frame.kind {
            Kind::Beat => self.heard = self.clock.monotonic(),
            Kind::NotParted => {
                let not: NotParted = wire::json(&frame.body, "why an invocation did not part")?;
                if let Some(asked) = self.asked.take() {
                    let _ = asked.send(Err(not.reason));
                }
            }
            Kind::MadeAhead => {
                let news: Vec<MadeAheadMessage> = wire::json(&frame.body, "what was made ahead")?;
                if let Some(tell) = &self.made_ahead {
                    let counted = |MadeAheadMessage { runtime, hits, misses }| MadeAhead { runtime, hits, misses };
                    news.into_iter().map(counted).for_each(|more| tell(&more));
                }
            }
            Kind::ServiceNews => {
                let news = wire::json(&frame.body, "news of a service")?;
                // Without a listener there is nothing to tell.
                let _ = self.news.send(LinkNews::Service(news)).await;
            }
            kind => {
                let wanted = "a beat or news";
                return Err(WireError::Unexpected { kind, wanted });
            }
        }
        Ok(())
    }
}
