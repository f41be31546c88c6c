//! One sandbox at the agent's end of its channel: created by the first frame, destroyed when the channel ends.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bowline_sandbox::answer::{self, AnswerStream};
use bowline_sandbox::{CreateError, LogSink, Platform, PlatformRequest, PlatformResponse, Sandbox};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, timeout};

use super::Shared;
use super::parting::{Back, Running, Told};
use crate::message::invoke::{self, InvokeMessage};
use crate::message::report::{self, ReportMessage};
use crate::message::{
    ANSWER_WINDOW, ASKS_MAX, Create, Created, NotCreated, PIECE_OVERHEAD_BYTES, ask_bytes, may_ask, put_ask, take_ask,
};
use crate::wire::{self, Framed, IDLE_TOLD, Kind, WireError};

/// Output that waits for the channel; more is dropped.
const LOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the last word of a sandbox may take.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);
/// How often an idle sandbox is asked whether it lives.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Creates the sandbox, serves it, and leaves nothing of it.
pub(super) async fn serve(shared: &Arc<Shared>, framed: Framed, create: Create) -> io::Result<()> {
    let outbox = Arc::new(Outbox::default());
    let epoch = create.epoch;
    let mut place = Place {
        shared: shared.clone(),
        framed,
        outbox: outbox.clone(),
        epoch,
    };
    let spec = Arc::new(shared.local(create.spec));
    let has_folders = !spec.mounts.is_empty();
    let creation = async {
        let backend = shared.backend(spec.kind).ok_or_else(|| {
            let text = format!("this instance offers no sandboxes of kind `{:?}`", spec.kind);
            CreateError::Backend(io::Error::other(text))
        })?;
        let prepared = shared.prepare(&**backend, &spec).await;
        prepared.map_err(|error| CreateError::Backend(io::Error::other(error)))?;
        backend.create(spec.clone(), outbox.clone()).await
    };
    let created = place.beside(creation).await?;
    let mut sandbox = match created {
        Ok(sandbox) => sandbox,
        Err(error) => {
            place.queue_log();
            place.framed.put_json(Kind::NotCreated, &NotCreated::from(error));
            return place.framed.flush().await;
        }
    };
    place.queue_log();
    let resident_bytes = sandbox.resident_bytes();
    place.framed.put_json(Kind::Created, &Created { resident_bytes });
    let served = place.serve(&mut *sandbox).await;
    sandbox.destroy().await;
    if has_folders {
        place.framed.put(Kind::Gone, b"");
        // A node that does not listen any more needs no word.
        let _ = timeout(LAST_WORD_MAX, place.framed.flush()).await;
    }
    // The channel ends with the place, so that the node knows that nothing is left.
    served
}

/// A channel with what is on its way out.
struct Place {
    shared: Arc<Shared>,
    framed: Framed,
    outbox: Arc<Outbox>,
    epoch: u64,
}

impl Place {
    /// Does frame after frame, until the channel ends or must.
    async fn serve(&mut self, sandbox: &mut dyn Sandbox) -> io::Result<()> {
        let mut tick = tokio::time::interval(IDLE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.framed.flush().await?;
            let frame = tokio::select! {
                biased;
                frame = self.framed.next() => match frame? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
                () = self.outbox.news.notified() => {
                    self.queue_log();
                    continue;
                }
                _ = tick.tick() => {
                    // The channel of one that was left behind when its machine was saved never ends.
                    if !sandbox.is_alive() || !self.shared.is_current(self.epoch) {
                        return Ok(());
                    }
                    continue;
                }
            };
            if !self.shared.is_current(self.epoch) {
                return Ok(());
            }
            match frame.kind {
                Kind::Invoke => self.invoke(sandbox, invoke::take(frame.body)?).await?,
                Kind::Settle => {
                    let settled = self.beside(sandbox.settle()).await?;
                    self.queue_log();
                    self.framed.put(Kind::Settled, &[settled.into()]);
                }
                // Whoever sent it does not wait, so that an event may be next.
                Kind::Idle => {
                    sandbox.idle().await;
                    if frame.body == IDLE_TOLD {
                        self.framed.put(Kind::Settled, &[1]);
                    }
                }
                // Too late for the invocation it belonged to.
                Kind::Credit | Kind::Answer => {}
                kind => {
                    let wanted = "an event";
                    return Err(WireError::Unexpected { kind, wanted }.into());
                }
            }
        }
    }

    fn queue_log(&mut self) {
        let mut waiting = self.outbox.waiting.lock();
        if !waiting.is_empty() {
            wire::put(&mut self.framed.out, Kind::Log, |out| out.extend_from_slice(&waiting));
            waiting.clear();
        }
    }

    async fn invoke(&mut self, sandbox: &mut dyn Sandbox, message: InvokeMessage) -> io::Result<()> {
        if !sandbox.is_alive() {
            return Err(io::Error::other("the sandbox died while it was idle"));
        }
        let (running, told) = self.shared.begins(message.request_id.to_string())?;
        let (sink, stream) = match message.stream_bytes_max.map(answer::channel) {
            Some((sink, stream)) => (Some(sink), Some(Stream::new(stream))),
            None => (None, None),
        };
        let (platform, asks) = message.asks.then(ToNode::new).unzip();
        let platform = platform.map(|platform| Arc::new(platform) as Arc<dyn Platform>);
        let invocation = message.invocation(&self.shared.clock, sink, platform);
        let exchange = Exchange {
            stream,
            asks,
            presence: Presence::Here(Some(told)),
            running: Some(running),
            ..Exchange::new(self)
        };
        let report = exchange.run(sandbox.invoke(invocation)).await?;
        if !self.shared.is_current(self.epoch) {
            return Err(io::Error::other("the lease ran out during an invocation"));
        }
        self.queue_log();
        let message = ReportMessage {
            report,
            settled: sandbox.is_settled(),
            resident_bytes: sandbox.resident_bytes(),
        };
        wire::put(&mut self.framed.out, Kind::Report, |out| report::put(out, &message));
        Ok(())
    }

    /// Waits for `work` as long as the node has not gone, and passes the log on meanwhile.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> io::Result<T> {
        Exchange::new(self).run(work).await
    }
}

/// Whether an exchange has a channel.
enum Presence {
    /// It has, and may be told to part.
    Here(Option<Told>),
    /// It is told to part: what is queued is still written.
    Leaving(oneshot::Sender<Back>),
    /// It waits for a channel.
    Away(oneshot::Receiver<(Framed, u64)>),
}

/// Something that runs, and all that goes over the channel beside it.
struct Exchange<'a> {
    place: &'a mut Place,
    stream: Option<Stream>,
    asks: Option<mpsc::Receiver<Asked>>,
    /// Requests that wait for their answers, with what they take.
    asked: HashMap<u32, (usize, oneshot::Sender<PlatformResponse>)>,
    asked_bytes: usize,
    /// The next request, for which there was no room beside them.
    next: Option<Asked>,
    number: u32,
    presence: Presence,
    /// The invocation, if it is one.
    running: Option<Running>,
}

impl<'a> Exchange<'a> {
    fn new(place: &'a mut Place) -> Self {
        Self {
            place,
            stream: None,
            asks: None,
            asked: HashMap::new(),
            asked_bytes: 0,
            next: None,
            number: 0,
            presence: Presence::Here(None),
            running: None,
        }
    }
}

impl Exchange<'_> {
    async fn run<T>(mut self, work: impl Future<Output = T>) -> io::Result<T> {
        let mut work = pin!(work);
        let outbox = self.place.outbox.clone();
        let mut logged = pin!(outbox.news.notified());
        let mut ended = None;
        let done = std::future::poll_fn(|cx| {
            if ended.is_none()
                && let Poll::Ready(done) = work.as_mut().poll(cx)
            {
                ended = Some(done);
            }
            loop {
                match self.poll_presence(cx) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error)),
                }
                // What ends while it parts is told by the next channel.
                if matches!(self.presence, Presence::Here(_))
                    && let Some(done) = ended.take()
                {
                    return Poll::Ready(Ok(done));
                }
                // Asked first, so that no line that comes from now on is missed.
                if logged.as_mut().poll(cx).is_ready() {
                    logged.set(outbox.news.notified());
                    self.place.queue_log();
                    continue;
                }
                match self.attend(cx) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        });
        let done = done.await?;
        if let Some(stream) = self.stream.take() {
            stream.finish(&mut self.place.framed);
        }
        Ok(done)
    }

    /// Parts if it is told so, and comes back; whether there is a channel.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            match &mut self.presence {
                Presence::Here(None) => return Ok(true),
                Presence::Here(Some(told)) => match pin!(told).poll(cx) {
                    Poll::Pending => return Ok(true),
                    Poll::Ready(Err(_)) => self.presence = Presence::Here(None),
                    Poll::Ready(Ok(way)) => {
                        self.place.queue_log();
                        self.place.framed.put(Kind::Parted, b"");
                        self.presence = Presence::Leaving(way);
                    }
                },
                Presence::Leaving(_) => {
                    if self.place.framed.poll_flush(cx)?.is_pending() {
                        return Ok(false);
                    }
                    let (back, next) = oneshot::channel();
                    // The channel ends with what it is held by.
                    self.place.framed = Framed::new(Box::new(tokio::io::empty()));
                    if let Presence::Leaving(way) = std::mem::replace(&mut self.presence, Presence::Away(next)) {
                        let _ = way.send(back);
                    }
                }
                Presence::Away(next) => match pin!(next).poll(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Err(_)) => return Err(WireError::Ended("an invocation that had parted").into()),
                    Poll::Ready(Ok((framed, epoch))) => {
                        self.place.framed = framed;
                        self.place.epoch = epoch;
                        self.presence = Presence::Here(self.running.as_ref().map(Running::told));
                    }
                },
            }
        }
    }

    /// Sends and takes what there is; whether it must be called again at once.
    fn attend(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let flushed = match self.place.framed.poll_flush(cx) {
            Poll::Ready(flushed) => flushed.map(|()| true)?,
            Poll::Pending => false,
        };
        while let Poll::Ready(frame) = self.place.framed.poll_next(cx) {
            let frame = frame?.ok_or(WireError::Ended("an invocation"))?;
            self.take(frame)?;
        }
        if let (Some(stream), true) = (&mut self.stream, flushed) {
            stream.pump(&mut self.place.framed, cx);
        }
        self.pass_asks(cx);
        Ok(flushed && self.place.framed.has_queued())
    }

    fn take(&mut self, frame: wire::Frame) -> Result<(), WireError> {
        match frame.kind {
            Kind::Credit => {
                let credit = frame
                    .body
                    .as_ref()
                    .try_into()
                    .map_err(|_| WireError::Body("a credit"))?;
                if let Some(stream) = &mut self.stream {
                    stream.credit = stream
                        .credit
                        .saturating_add(u64::from_le_bytes(credit))
                        .min(ANSWER_WINDOW);
                }
            }
            Kind::Answer => {
                let (number, status, exception, body) = take_ask(frame.body)?;
                let answer = PlatformResponse {
                    status: status.parse().map_err(|_| WireError::Body("an answer"))?,
                    exception: (!exception.is_empty()).then(|| exception.into()),
                    body,
                };
                if let Some((bytes, asked)) = self.asked.remove(&number) {
                    self.asked_bytes -= bytes;
                    let _ = asked.send(answer);
                }
            }
            kind => {
                let wanted = "a credit or an answer";
                return Err(WireError::Unexpected { kind, wanted });
            }
        }
        Ok(())
    }

    /// Passes requests on, as many as the node takes at once.
    fn pass_asks(&mut self, cx: &mut Context<'_>) {
        while let Some((request, back)) = self.next_ask(cx) {
            let bytes = ask_bytes(&request.method, &request.target, &request.body);
            if !may_ask(self.asked.len(), self.asked_bytes, bytes) {
                self.next = Some((request, back));
                return;
            }
            self.number += 1;
            self.asked_bytes += bytes;
            self.asked.insert(self.number, (bytes, back));
            let number = self.number;
            wire::put(&mut self.place.framed.out, Kind::Ask, |out| {
                put_ask(out, number, &request.method, &request.target, &request.body);
            });
        }
    }

    fn next_ask(&mut self, cx: &mut Context<'_>) -> Option<Asked> {
        if self.next.is_some() {
            return self.next.take();
        }
        match self.asks.as_mut()?.poll_recv(cx) {
            Poll::Ready(asked) => asked,
            Poll::Pending => None,
        }
    }
}

/// A streamed answer on its way to the node.
struct Stream {
    stream: AnswerStream,
    begun: bool,
    credit: u64,
    /// The rest of a piece for which there was no credit.
    rest: Bytes,
}

impl Stream {
    fn new(stream: AnswerStream) -> Self {
        Self {
            stream,
            begun: false,
            credit: ANSWER_WINDOW,
            rest: Bytes::new(),
        }
    }

    /// Queues what there is credit for.
    fn pump(&mut self, framed: &mut Framed, cx: &mut Context<'_>) {
        if !self.begun {
            let Poll::Ready(begun) = self.stream.poll_begin(cx) else {
                return;
            };
            self.begun = true;
            let Some(content_type) = begun else { return };
            framed.put(Kind::Begin, content_type.as_bytes());
        }
        while self.credit > 0 {
            if self.rest.is_empty() {
                match self.stream.poll_next(cx) {
                    Poll::Ready(Some(piece)) => self.rest = piece,
                    _ => return,
                }
            }
            let length = usize::try_from(self.credit).unwrap_or(usize::MAX).min(self.rest.len());
            framed.put(Kind::Piece, &self.rest.split_to(length));
            self.credit = self.credit.saturating_sub(length as u64 + PIECE_OVERHEAD_BYTES);
        }
    }

    /// Queues all that is left: the function has ended, so that it is not more than a buffer.
    fn finish(mut self, framed: &mut Framed) {
        self.credit = u64::MAX;
        self.pump(framed, &mut Context::from_waker(std::task::Waker::noop()));
    }
}

/// A guest's output on its way to the node.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<BytesMut>,
    news: Notify,
}

impl LogSink for Outbox {
    fn write(&self, bytes: &[u8]) {
        let mut waiting = self.waiting.lock();
        let room = LOG_BYTES_MAX.saturating_sub(waiting.len());
        waiting.extend_from_slice(&bytes[..bytes.len().min(room)]);
        drop(waiting);
        self.news.notify_one();
    }
}

/// A request with where its answer goes.
type Asked = (PlatformRequest, oneshot::Sender<PlatformResponse>);

/// The platform, as a guest here sees it.
struct ToNode(mpsc::Sender<Asked>);

impl ToNode {
    fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(ASKS_MAX);
        (Self(sender), receiver)
    }
}

#[async_trait]
impl Platform for ToNode {
    async fn ask(&self, request: PlatformRequest) -> PlatformResponse {
        let (back, answer) = oneshot::channel();
        if self.0.send((request, back)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        PlatformResponse {
            status: 503,
            exception: Some("ServiceException".into()),
            body: Bytes::from_static(br#"{"Type":"Service","Message":"the invocation has ended"}"#),
        }
    }
}
