//! Streamed answers: their parts on the way from a connection to the invocation's sink.

use std::task::{Context, Poll};

use bowline_sandbox::FunctionError;
use bowline_sandbox::answer::STREAM_CONTENT_TYPE;
use bytes::Bytes;

use super::super::http::{Head, Part, Reject, Route};
use super::super::machine::Verdict;
use super::{ACCEPTED, Answer, Flow, Server, write_error};

impl Server {
    /// Takes the head of a streamed answer. If it is refused, its parts are thrown away as they arrive.
    pub(super) fn take_stream(&mut self, at: usize, head: Head) {
        let verdict = match &head.route {
            Route::Response(id) => self.machine.begin_stream(id),
            other => self.machine.take(other),
        };
        let connection = &mut self.connections[at];
        connection.carries_event = false;
        connection.waiter = None;
        connection.closes_after_stream = !head.keep_alive;
        if let Verdict::Refuse(refusal) = verdict {
            return write_error(connection.outbox(), refusal.text());
        }
        connection.carries_answer = true;
        self.event = None;
        if let Some(sink) = &mut self.sink {
            sink.begin(head.content_type.as_deref().unwrap_or(STREAM_CONTENT_TYPE));
        }
    }

    /// Moves the parts that have arrived to the sink, as far as its reader keeps up.
    pub(super) fn take_parts(&mut self, at: usize, cx: &mut Context<'_>) -> Result<Flow, Reject> {
        while self.connections[at].is_in_stream() {
            if self.connections[at].carries_answer {
                match self.sink.as_mut().map(|sink| sink.poll_ready(cx)) {
                    Some(Poll::Pending) => return Ok(Flow::Held),
                    Some(Poll::Ready(())) => {}
                    None => self.connections[at].carries_answer = false,
                }
            }
            match self.connections[at].take_part()? {
                None => return Ok(Flow::Waits),
                Some(Part::Piece(piece)) => self.pass_on(at, piece),
                Some(Part::End(error)) => self.end_stream(at, error),
            }
        }
        Ok(Flow::Goes)
    }

    fn pass_on(&mut self, at: usize, piece: Bytes) {
        if self.connections[at].carries_answer
            && let Some(sink) = &mut self.sink
            && let Err(refused) = sink.push(piece)
        {
            self.break_off(Answer::BrokeOff(refused.into()));
        }
    }

    fn end_stream(&mut self, at: usize, error: Option<FunctionError>) {
        let connection = &mut self.connections[at];
        connection.closing = connection.closes_after_stream;
        if std::mem::take(&mut connection.carries_answer) {
            connection.outbox().extend_from_slice(ACCEPTED);
            self.machine.end_stream();
            self.sink = None;
            self.answer = Some(error.map_or(Answer::Streamed, Answer::Error));
        }
    }

    /// Ends an invocation in the middle of its streamed answer.
    pub(super) fn break_off(&mut self, answer: Answer) {
        if self.sink.take().is_some() {
            self.answer = Some(answer);
        }
    }
}
