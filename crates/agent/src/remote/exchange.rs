//! One invocation at the node's end of a channel, with the limits that hold for what an agent sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bowline_sandbox::{AnswerSink, LogSink, Platform, PlatformRequest, PlatformResponse};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::message::{self, ANSWER_OWED_MAX, PIECE_OVERHEAD_BYTES, ask_bytes, may_ask, report};
use crate::wire::{self, Framed, Kind, WireError};

/// One invocation at the node's end of a channel. Dropped before its end it ends the guest's run.
pub(super) struct Exchange<'a> {
    framed: &'a mut Framed,
    log: &'a dyn LogSink,
    sink: Option<AnswerSink>,
    /// What was taken of the answer and not yet credited.
    owed: u64,
    platform: Option<Arc<dyn Platform>>,
    /// Requests of the guest that wait for the platform, once there is one.
    asks: Option<Asks>,
    done: bool,
}

#[derive(Default)]
struct Asks {
    /// Answers, with what their requests took.
    waiting: JoinSet<(u32, usize, PlatformResponse)>,
    bytes: usize,
}

impl<'a> Exchange<'a> {
    pub fn new(
        framed: &'a mut Framed,
        log: &'a dyn LogSink,
        sink: Option<AnswerSink>,
        platform: Option<Arc<dyn Platform>>,
    ) -> Self {
        Self {
            framed,
            log,
            sink,
            owed: 0,
            platform,
            asks: None,
            done: false,
        }
    }
}

/// How an exchange ended.
pub(super) enum End {
    Report(report::ReportMessage),
    Parted,
}

impl Exchange<'_> {
    /// Takes a frame; the report ends the exchange, and so does the invocation's parting.
    fn take(&mut self, frame: wire::Frame) -> Result<Option<End>, WireError> {
        match frame.kind {
            Kind::Report => return report::take(frame.body).map(|report| Some(End::Report(report))),
            Kind::Parted => return Ok(Some(End::Parted)),
            Kind::Log => self.log.write(&frame.body),
            Kind::Begin | Kind::Piece => self.take_answer(frame)?,
            Kind::Ask => self.take_ask(frame.body)?,
            kind => {
                let wanted = "a report";
                return Err(WireError::Unexpected { kind, wanted });
            }
        }
        Ok(None)
    }

    fn take_ask(&mut self, body: Bytes) -> Result<(), WireError> {
        let (number, method, target, body) = message::take_ask(body)?;
        let platform = self
            .platform
            .clone()
            .ok_or(WireError::Body("a request of a guest that may not ask"))?;
        let bytes = ask_bytes(&method, &target, &body);
        let asks = self.asks.get_or_insert_default();
        // The agent has its guest wait before that.
        if !may_ask(asks.waiting.len(), asks.bytes, bytes) {
            return Err(WireError::Body("one more request than may wait for their answers"));
        }
        asks.bytes += bytes;
        asks.waiting.spawn(async move {
            let request = PlatformRequest { method, target, body };
            (number, bytes, platform.ask(request).await)
        });
        Ok(())
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
        self.owed += frame.body.len() as u64 + PIECE_OVERHEAD_BYTES;
        if self.owed > ANSWER_OWED_MAX {
            return Err(WireError::Body("more of an answer than there was credit for"));
        }
        // The agent holds the guest to the same limit, and tells of it in the report.
        sink.push(frame.body)
            .map_err(|_| WireError::Body("an answer over its limit"))
    }

    /// Does what the invocation needs beside its report; whether there is something to send. Called when all is sent
    /// that was queued: an agent that reads nothing gets no more than one answer, and its guest no more room to ask.
    fn attend(&mut self, cx: &mut Context<'_>) -> bool {
        if self.owed > 0
            && let Some(sink) = &mut self.sink
            && sink.poll_ready(cx).is_ready()
        {
            self.framed.put(Kind::Credit, &self.owed.to_le_bytes());
            self.owed = 0;
        }
        while !self.framed.has_queued()
            && let Some(asks) = &mut self.asks
            && let Poll::Ready(Some(answered)) = asks.waiting.poll_join_next(cx)
        {
            let Ok((number, bytes, answer)) = answered else {
                continue;
            };
            asks.bytes -= bytes;
            wire::put(&mut self.framed.out, Kind::Answer, |out| {
                let exception = answer.exception.as_deref().unwrap_or_default();
                message::put_ask(out, number, &answer.status.to_string(), exception, &answer.body);
            });
        }
        self.framed.has_queued()
    }
}

impl Future for Exchange<'_> {
    type Output = io::Result<End>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            // An agent that takes nothing more may still have something to say.
            let is_flushed = this.framed.poll_flush(cx)?.is_ready();
            while let Poll::Ready(frame) = this.framed.poll_next(cx)? {
                let frame = frame.ok_or(WireError::Ended("an invocation"))?;
                if let Some(end) = this.take(frame)? {
                    this.done = true;
                    return Poll::Ready(Ok(end));
                }
            }
            if !is_flushed || !this.attend(cx) {
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
