//! Sandboxes in an instance, as the node sees them: a [`Backend`] like any other.

mod exchange;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::RequestId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    AnswerSink, Backend, CreateError, FunctionError, Ground, Invocation, LogSink, Outcome, Platform, PrepareError,
    Report, Sandbox, SandboxKind, Site, Stand, Usage, VersionSpec,
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::code;
use crate::contents::Line;
use crate::link::{Inner, Link};
use crate::message::{Attach, Create, Created, Judge, NotCreated, Question, Verdict, invoke};
use crate::wire::{self, Framed, IDLE_TOLD, Kind, WireError};

use exchange::{End, Exchange};

/// How long the agent may take over a question or a new sandbox: it may have to be sent the code first, and to compile it.
const WORK_MAX: Duration = Duration::from_secs(15 * 60);
/// How long it may take beyond the deadline of an invocation.
const GRACE: Duration = Duration::from_secs(10);
/// No invocation has longer than this.
const BUDGET_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it may leave a word unread that nobody waits for.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Lines of output that are read at once of a sandbox that should be idle.
const IDLE_FRAMES_MAX: usize = 256;
/// How long the agent may take to remove a sandbox before nobody waits any longer.
const DESTROY_MAX: Duration = Duration::from_secs(30);

/// Makes sandboxes of one kind in the instance behind a link.
#[derive(Clone)]
pub struct Remote {
    kind: SandboxKind,
    link: Arc<Inner>,
    ground: Ground,
    stand: Option<Stand>,
}

impl Remote {
    pub fn new(link: &Link, kind: SandboxKind) -> Self {
        Self {
            kind,
            link: link.inner.clone(),
            ground: Ground::Instance,
            stand: None,
        }
    }

    /// Makes sandboxes that say so of the instance they are in.
    #[must_use]
    pub fn on(self, ground: Ground) -> Self {
        Self { ground, ..self }
    }

    /// Makes sandboxes that say so of the fleet which the instance is in.
    #[must_use]
    pub fn standing(self, stand: Option<Stand>) -> Self {
        Self { stand, ..self }
    }

    /// The same as [`Backend::create`], for whoever follows what runs there leg by leg.
    pub async fn make(&self, version: &VersionSpec, log: Arc<dyn LogSink>) -> Result<RemoteSandbox, CreateError> {
        let held = Held::take(&self.link, version)?;
        let created = within(WORK_MAX, self.try_create((version, &held.line), &log)).await;
        let created = created.map_err(CreateError::Backend)?;
        let (framed, created) = created.map_err(CreateError::from)?;
        let resident_bytes = held.at_most(created.resident_bytes);
        held.line.is_ready();
        Ok(self.sandbox(framed, (held, resident_bytes), log))
    }

    /// The sandbox of an invocation that parted from an earlier link, and has so much time left.
    pub async fn attach(
        &self,
        run: &str,
        (version, left): (&VersionSpec, Duration),
        log: Arc<dyn LogSink>,
    ) -> io::Result<RemoteSandbox> {
        let held = Held::take(&self.link, version).map_err(io::Error::other)?;
        held.line.is_ready();
        let mut framed = self.link.open().await?;
        let attach = Attach {
            epoch: self.link.epoch,
            run: run.to_owned(),
        };
        framed.put_json(Kind::Attach, &attach);
        framed.flush().await?;
        let mut sandbox = self.sandbox(framed, (held, 0), log);
        sandbox.budget = left;
        Ok(sandbox)
    }

    fn sandbox(&self, framed: Framed, (held, resident_bytes): (Held, u64), log: Arc<dyn LogSink>) -> RemoteSandbox {
        RemoteSandbox {
            framed,
            log,
            resident_bytes,
            settled: true,
            budget: Duration::ZERO,
            broken: false,
            held,
            ground: self.ground,
            stand: self.stand,
        }
    }

    async fn judge(&self, question: Question, version: &VersionSpec) -> io::Result<Verdict> {
        code::ensure(&self.link, version).await?;
        let mut framed = self.link.open().await?;
        let judge = Judge {
            epoch: self.link.epoch,
            question,
            spec: code::told(&self.link, version),
        };
        framed.put_json(Kind::Judge, &judge);
        framed.flush().await?;
        let frame = framed.must_next("a verdict").await?;
        let body = frame.expect(Kind::Verdict, "a verdict")?;
        Ok(wire::json(&body, "a verdict")?)
    }

    async fn ask(&self, question: Question, version: &VersionSpec) -> Result<(), PrepareError> {
        within(WORK_MAX, self.judge(question, version))
            .await
            .map_err(PrepareError::Backend)?
            .into()
    }

    async fn try_create(
        &self,
        (version, line): (&VersionSpec, &Line),
        log: &Arc<dyn LogSink>,
    ) -> io::Result<Result<(Framed, Created), NotCreated>> {
        code::ensure(&self.link, version).await?;
        line.is_made();
        let mut framed = self.link.open().await?;
        let create = Create {
            epoch: self.link.epoch,
            spec: code::told(&self.link, version),
        };
        framed.put_json(Kind::Create, &create);
        framed.flush().await?;
        loop {
            let frame = framed.must_next("a sandbox").await?;
            match frame.kind {
                Kind::Log => log.write(&frame.body),
                Kind::Created => return Ok(Ok((framed, wire::json(&frame.body, "a sandbox")?))),
                Kind::NotCreated => {
                    let refusal = wire::json(&frame.body, "a refusal")?;
                    // The agent closes the channel when nothing of the sandbox is left.
                    while framed.next().await?.is_some() {}
                    return Ok(Err(refusal));
                }
                kind => {
                    let wanted = "a sandbox";
                    return Err(WireError::Unexpected { kind, wanted }.into());
                }
            }
        }
    }
}

#[async_trait]
impl Backend for Remote {
    fn kind(&self) -> SandboxKind {
        self.kind
    }

    async fn check(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        self.ask(Question::Check, version).await
    }

    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        self.ask(Question::Prepare, version).await
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        Ok(Box::new(self.make(&version, log).await?))
    }

    async fn collect_garbage(&self, in_use: &[Digest]) {
        let link = Link {
            inner: self.link.clone(),
        };
        if let Err(error) = link.keep_code(in_use).await {
            tracing::debug!(%error, "an instance keeps code that nobody uses");
        }
    }
}

/// Waits for an agent, but not for ever: it may be a hostile one.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("the agent took longer than {limit:?}"));
    timeout(limit, work).await.map_err(late)?
}

/// A sandbox's share of its instance, for as long as it lives.
struct Held {
    link: Arc<Inner>,
    mib: u64,
    line: Line,
    /// Whether others see what it writes.
    has_folders: bool,
}

impl Held {
    /// Takes the share, if there is room for it.
    fn take(link: &Arc<Inner>, version: &VersionSpec) -> Result<Self, CreateError> {
        let mib = version.memory.0.into();
        link.take_mib(mib)?;
        link.sandboxes.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            line: link.contents.enter(version),
            link: link.clone(),
            mib,
            has_folders: !version.mounts.is_empty(),
        })
    }

    /// What an agent says that a sandbox holds, as far as it can be true.
    fn at_most(&self, bytes: u64) -> u64 {
        let mebibytes = u32::try_from(self.mib).unwrap_or(u32::MAX);
        bytes.min(Mebibytes(mebibytes).bytes())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.link.sandboxes.fetch_sub(1, Ordering::Relaxed);
        self.link.held_mib.fetch_sub(self.mib, Ordering::Relaxed);
    }
}

/// What an invocation is given besides its event.
type Ways = (Option<AnswerSink>, Option<Arc<dyn Platform>>);

/// How a part of an invocation ended that was followed.
#[derive(Debug)]
pub enum Leg {
    /// With the invocation.
    Over(Report),
    /// It left its channel, which is of no use any more.
    Parted,
}

/// A sandbox at the other end of a channel of its own.
pub struct RemoteSandbox {
    framed: Framed,
    log: Arc<dyn LogSink>,
    resident_bytes: u64,
    settled: bool,
    /// What the last invocation had: no longer is it settled.
    budget: Duration,
    /// The channel does not do what it should: the sandbox is not used again.
    broken: bool,
    held: Held,
    ground: Ground,
    stand: Option<Stand>,
}

impl RemoteSandbox {
    /// Reads what came while nobody waited; whether the channel is well.
    fn attend(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // What more there is waits: one that only ever prints must not hold up whoever looks.
        for _ in 0..IDLE_FRAMES_MAX {
            match self.framed.poll_next(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Some(frame))) if frame.kind == Kind::Log => self.log.write(&frame.body),
                Poll::Ready(_) => return false,
            }
        }
        true
    }

    /// Asks something of a sandbox that runs nothing, and waits for the agent's word.
    async fn ask_idle(&mut self, kind: Kind, body: &[u8]) -> io::Result<bool> {
        self.framed.put(kind, body);
        self.framed.flush().await?;
        loop {
            let frame = self.framed.must_next("an end").await?;
            match frame.kind {
                Kind::Log => self.log.write(&frame.body),
                _ => return Ok(frame.expect(Kind::Settled, "an end")?.first() == Some(&1)),
            }
        }
    }

    /// The end of a run that was over its time, and has been ended by force.
    fn timed_out(&mut self, request_id: RequestId, error: &io::Error) -> Report {
        tracing::warn!(%request_id, %error, "a run in an instance was ended past its time-out");
        self.broken = true;
        let usage = Usage {
            duration: self.budget,
            ..Usage::default()
        };
        Report {
            outcome: Outcome::Failed(FunctionError::timed_out(request_id, self.budget)),
            usage,
            reusable: false,
        }
    }

    /// Hands an invocation over, and follows it to its end, or until it parts.
    pub async fn send(&mut self, invocation: Invocation) -> Leg {
        self.held.line.is_used();
        wire::put(&mut self.framed.out, Kind::Invoke, |out| invoke::put(out, &invocation));
        self.budget = invocation.deadline.budget;
        let ways = (invocation.sink, invocation.platform);
        self.follow_with(invocation.request_id, ways).await
    }

    /// Follows an invocation that was attached.
    pub async fn follow(&mut self, run: RequestId) -> Leg {
        self.follow_with(run, (None, None)).await
    }

    async fn follow_with(&mut self, request_id: RequestId, (sink, platform): Ways) -> Leg {
        let due = Instant::now() + self.budget.min(BUDGET_MAX);
        let exchange = Exchange::new(&mut self.framed, &*self.log, sink, platform);
        let failure = match timeout_at(due + GRACE, exchange).await {
            Ok(Ok(End::Parted)) => {
                self.broken = true;
                return Leg::Parted;
            }
            // What a fenced instance still answers does not count.
            Ok(Ok(End::Report(_))) if self.held.link.is_closed() => io::Error::other("it was fenced"),
            Ok(Ok(End::Report(message))) => {
                self.settled = message.settled;
                self.resident_bytes = self.held.at_most(message.resident_bytes);
                return Leg::Over(message.report);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("it took {GRACE:?} longer than it may")),
        };
        // Whoever ended it, it had its time.
        Leg::Over(match Instant::now() < due {
            true => self.broken(&failure),
            false => self.timed_out(request_id, &failure),
        })
    }

    fn broken(&mut self, error: &io::Error) -> Report {
        self.broken = true;
        Report {
            outcome: Outcome::Broken(format!("the instance's agent broke off: {error}")),
            usage: Usage::default(),
            reusable: false,
        }
    }
}

#[async_trait]
impl Sandbox for RemoteSandbox {
    async fn invoke(&mut self, invocation: Invocation) -> Report {
        match self.send(invocation).await {
            Leg::Over(report) => report,
            Leg::Parted => self.broken(&io::Error::other("it parted, and nobody had asked")),
        }
    }

    fn is_settled(&self) -> bool {
        self.settled
    }

    async fn settle(&mut self) -> bool {
        self.settled = true;
        let limit = self.budget.saturating_add(GRACE);
        within(limit, self.ask_idle(Kind::Settle, b"")).await.unwrap_or(false)
    }

    fn is_alive(&mut self) -> bool {
        !self.broken && self.held.link.serves() && self.attend()
    }

    async fn idle(&mut self) {
        let told = match self.held.has_folders {
            // Whoever is next there waits until this one stands still.
            true => within(IDLE_MAX, self.ask_idle(Kind::Idle, IDLE_TOLD)).await.map(drop),
            false => {
                self.framed.put(Kind::Idle, b"");
                within(IDLE_MAX, self.framed.flush()).await
            }
        };
        self.broken |= told.is_err();
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn can_suspend(&self) -> bool {
        false
    }

    fn ground(&self) -> Ground {
        self.ground
    }

    fn stand(&self) -> Option<Stand> {
        self.stand
    }

    fn site(&self) -> Option<&Site> {
        Some(&self.held.link.site)
    }

    async fn destroy(mut self: Box<Self>) {
        let mut is_gone = false;
        let ended = async {
            std::future::poll_fn(|cx| self.framed.poll_end(cx)).await?;
            // The agent closes the channel when nothing of the sandbox is left.
            while let Some(frame) = self.framed.next().await? {
                match frame.kind {
                    Kind::Log => self.log.write(&frame.body),
                    kind => is_gone |= kind == Kind::Gone,
                }
            }
            Ok::<(), io::Error>(())
        };
        if timeout(DESTROY_MAX, ended).await.is_err() {
            tracing::warn!("an instance takes longer than {DESTROY_MAX:?} to remove a sandbox");
        }
        if self.held.has_folders && !is_gone {
            // It may still write there until its instance has been ended.
            self.held.link.until_fenced().await;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
