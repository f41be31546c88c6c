//! Sandboxes in an instance, as the node sees them: a [`Backend`] like any other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::digest::Digest;
use bowline_sandbox::{
    AnswerSink, Backend, CreateError, Ground, Invocation, LogSink, Outcome, Platform, PlatformRequest,
    PlatformResponse, PrepareError, Report, Sandbox, SandboxKind, Usage, VersionSpec,
};
use tokio::task::JoinSet;

use crate::code;
use crate::link::{Inner, Link};
use crate::message::{self, Create, Created, Judge, NotCreated, Question, Verdict, invoke, report};
use crate::wire::{self, Framed, Kind, WireError};

/// How long the agent may take to remove a sandbox before nobody waits any longer.
const DESTROY_MAX: Duration = Duration::from_secs(30);

/// Makes sandboxes of one kind in the instance behind a link.
#[derive(Clone)]
pub struct Remote {
    kind: SandboxKind,
    link: Arc<Inner>,
    ground: Ground,
}

impl Remote {
    pub fn new(link: &Link, kind: SandboxKind) -> Self {
        Self {
            kind,
            link: link.inner.clone(),
            ground: Ground::Instance,
        }
    }

    /// Makes sandboxes that say so of the instance they are in.
    #[must_use]
    pub fn on(self, ground: Ground) -> Self {
        Self { ground, ..self }
    }

    async fn judge(&self, question: Question, version: &VersionSpec) -> io::Result<Verdict> {
        code::ensure(&self.link, version).await?;
        let mut framed = self.link.open().await?;
        let judge = Judge {
            epoch: self.link.epoch,
            question,
            spec: version.into(),
        };
        framed.put_json(Kind::Judge, &judge);
        framed.flush().await?;
        let frame = framed.must_next("a verdict").await?;
        let body = frame.expect(Kind::Verdict, "a verdict")?;
        Ok(wire::json(&body, "a verdict")?)
    }

    async fn ask(&self, question: Question, version: &VersionSpec) -> Result<(), PrepareError> {
        self.judge(question, version)
            .await
            .map_err(PrepareError::Backend)?
            .into()
    }

    async fn try_create(
        &self,
        version: &VersionSpec,
        log: &Arc<dyn LogSink>,
    ) -> io::Result<Result<(Framed, Created), NotCreated>> {
        code::ensure(&self.link, version).await?;
        let mut framed = self.link.open().await?;
        let create = Create {
            epoch: self.link.epoch,
            spec: version.into(),
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
        let held = Held::take(&self.link, &version)?;
        let created = self.try_create(&version, &log).await.map_err(CreateError::Backend)?;
        let (framed, created) = created.map_err(CreateError::from)?;
        Ok(Box::new(RemoteSandbox {
            framed,
            log,
            resident_bytes: created.resident_bytes,
            settled: true,
            held,
            ground: self.ground,
        }))
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

/// A sandbox's share of its instance, for as long as it lives.
struct Held {
    link: Arc<Inner>,
    mib: u64,
}

impl Held {
    /// Takes the share, if there is room for it.
    fn take(link: &Arc<Inner>, version: &VersionSpec) -> Result<Self, CreateError> {
        let mib = version.memory.0.into();
        let fits = |held: u64| held.checked_add(mib).filter(|held| *held <= link.memory_mib);
        let taken = link.held_mib.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.map_err(|held| {
            let all = link.memory_mib;
            CreateError::Exhausted(format!(
                "{mib} MiB are wanted, but {held} of the instance's {all} MiB are held"
            ))
        })?;
        link.sandboxes.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            link: link.clone(),
            mib,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.link.sandboxes.fetch_sub(1, Ordering::Relaxed);
        self.link.held_mib.fetch_sub(self.mib, Ordering::Relaxed);
    }
}

/// A sandbox at the other end of a channel of its own.
struct RemoteSandbox {
    framed: Framed,
    log: Arc<dyn LogSink>,
    resident_bytes: u64,
    settled: bool,
    held: Held,
    ground: Ground,
}

impl RemoteSandbox {
    /// Reads what came while nobody waited; whether the channel is well.
    fn attend(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match self.framed.poll_next(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Some(frame))) if frame.kind == Kind::Log => self.log.write(&frame.body),
                Poll::Ready(_) => return false,
            }
        }
    }

    async fn try_settle(&mut self) -> io::Result<bool> {
        self.framed.put(Kind::Settle, b"");
        self.framed.flush().await?;
        loop {
            let frame = self.framed.must_next("an end").await?;
            match frame.kind {
                Kind::Log => self.log.write(&frame.body),
                _ => return Ok(frame.expect(Kind::Settled, "an end")?.first() == Some(&1)),
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Report {
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
        wire::put(&mut self.framed.out, Kind::Invoke, |out| invoke::put(out, &invocation));
        let exchange = Exchange {
            framed: &mut self.framed,
            log: &*self.log,
            sink: invocation.sink,
            owed: 0,
            platform: invocation.platform,
            asks: None,
            done: false,
        };
        match exchange.await {
            // What a fenced instance still answers does not count.
            Ok(_) if self.held.link.is_closed() => self.broken(&io::Error::other("it was fenced")),
            Ok(message) => {
                self.settled = message.settled;
                self.resident_bytes = message.resident_bytes;
                message.report
            }
            Err(error) => self.broken(&error),
        }
    }

    fn is_settled(&self) -> bool {
        self.settled
    }

    async fn settle(&mut self) -> bool {
        self.settled = true;
        self.try_settle().await.unwrap_or(false)
    }

    fn is_alive(&mut self) -> bool {
        self.held.link.serves() && self.attend()
    }

    async fn idle(&mut self) {
        self.framed.put(Kind::Idle, b"");
        // A channel that broke is noticed before the sandbox is used again.
        let _ = self.framed.flush().await;
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn ground(&self) -> Ground {
        self.ground
    }

    async fn destroy(mut self: Box<Self>) {
        let ended = async {
            std::future::poll_fn(|cx| self.framed.poll_end(cx)).await?;
            // The agent closes the channel when nothing of the sandbox is left.
            while let Some(frame) = self.framed.next().await? {
                if frame.kind == Kind::Log {
                    self.log.write(&frame.body);
                }
            }
            Ok::<(), io::Error>(())
        };
        if tokio::time::timeout(DESTROY_MAX, ended).await.is_err() {
            tracing::warn!("an instance takes longer than {DESTROY_MAX:?} to remove a sandbox");
        }
    }
}

/// One invocation at the node's end of a channel. Dropped before its end it ends the guest's run.
struct Exchange<'a> {
    framed: &'a mut Framed,
    log: &'a dyn LogSink,
    sink: Option<AnswerSink>,
    /// Bytes of the answer that were taken and not yet credited.
    owed: u64,
    platform: Option<Arc<dyn Platform>>,
    /// Requests of the guest that wait for the platform, once there is one.
    asks: Option<JoinSet<(u32, PlatformResponse)>>,
    done: bool,
}

impl Exchange<'_> {
    /// Takes a frame; the report ends the exchange.
    fn take(&mut self, frame: wire::Frame) -> Result<Option<report::ReportMessage>, WireError> {
        match frame.kind {
            Kind::Report => return report::take(frame.body).map(Some),
            Kind::Log => self.log.write(&frame.body),
            Kind::Begin | Kind::Piece => self.take_answer(frame)?,
            Kind::Ask => {
                let (number, method, target, body) = message::take_ask(frame.body)?;
                let platform = self
                    .platform
                    .clone()
                    .ok_or(WireError::Body("a request of a guest that may not ask"))?;
                self.asks.get_or_insert_default().spawn(async move {
                    let request = PlatformRequest { method, target, body };
                    (number, platform.ask(request).await)
                });
            }
            kind => {
                let wanted = "a report";
                return Err(WireError::Unexpected { kind, wanted });
            }
        }
        Ok(None)
    }

    fn take_answer(&mut self, frame: wire::Frame) -> Result<(), WireError> {
        let sink = self
            .sink
            .as_mut()
            .ok_or(WireError::Body("a streamed answer that nobody takes"))?;
        if frame.kind == Kind::Begin {
            sink.begin(&String::from_utf8_lossy(&frame.body));
            return Ok(());
        }
        self.owed += frame.body.len() as u64;
        // The agent holds the guest to the same limit, and tells of it in the report.
        sink.push(frame.body)
            .map_err(|_| WireError::Body("an answer over its limit"))
    }

    /// Does what the invocation needs beside its report; whether there is something to send.
    fn attend(&mut self, cx: &mut Context<'_>) -> bool {
        if self.owed > 0
            && let Some(sink) = &mut self.sink
            && sink.poll_ready(cx).is_ready()
        {
            self.framed.put(Kind::Credit, &self.owed.to_le_bytes());
            self.owed = 0;
        }
        while let Some(asks) = &mut self.asks
            && let Poll::Ready(Some(answered)) = asks.poll_join_next(cx)
        {
            let Ok((number, answer)) = answered else { continue };
            wire::put(&mut self.framed.out, Kind::Answer, |out| {
                let exception = answer.exception.as_deref().unwrap_or_default();
                message::put_ask(out, number, &answer.status.to_string(), exception, &answer.body);
            });
        }
        self.framed.has_queued()
    }
}

impl Future for Exchange<'_> {
    type Output = io::Result<report::ReportMessage>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            // An agent that takes nothing more may still have something to say.
            let flushed = this.framed.poll_flush(cx)?;
            while let Poll::Ready(frame) = this.framed.poll_next(cx)? {
                let frame = frame.ok_or(WireError::Ended("an invocation"))?;
                if let Some(report) = this.take(frame)? {
                    this.done = true;
                    return Poll::Ready(Ok(report));
                }
            }
            if !this.attend(cx) || flushed.is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = self.framed.poll_end(&mut cx);
        }
    }
}
