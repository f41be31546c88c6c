//! The Runtime API of one sandbox, driven by whoever waits for the guest.

mod streaming;

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_sandbox::{AnswerSink, FunctionError, Invocation, VersionSpec};
use bytes::Bytes;
use tokio::net::TcpListener;

use super::connection::Connection;
use super::extension::Extensions;
use super::http::{Body, Head, Reject, Request, Route, Streamed, Taken};
use super::machine::{Machine, Phase, Refusal, Verdict};
use super::platform::Pending;

/// Connections a guest may have at once; further ones wait in the listener's queue.
///
/// The most extensions, with two each, leave the runtime a dozen.
const CONNECTIONS_MAX: usize = 32;
/// Requests taken from one connection before the others get their turn.
const REQUESTS_PER_TURN: usize = 16;
/// What an unparked client may send while it should wait.
const EARLY_BYTES_MAX: usize = 64 * 1024;
const ACCEPTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";
/// Error types longer than this are no error types.
const ERROR_TYPE_BYTES_MAX: usize = 256;

/// An invocation that waits for the guest to ask.
pub(crate) type Event = Invocation;

/// How a guest ended an invocation.
#[derive(Debug)]
pub(crate) enum Answer {
    /// With an answer.
    Response(Bytes),
    /// With an error.
    Error(FunctionError),
    /// With an answer of so many bytes, which is too large.
    TooLarge(u64),
    /// With an answer that went to the invocation's sink.
    Streamed,
    /// With a streamed answer that became too large.
    BrokeOff(FunctionError),
    /// With a streamed answer whose connection broke before its end.
    Truncated,
}

/// How a guest's initialisation ended.
#[derive(Debug)]
pub(crate) enum Ready {
    /// It asked for its first event.
    Idle,
    /// It said that it failed.
    Failed(FunctionError),
}

/// What extensions are told of the function they belong to.
pub(crate) struct About {
    pub(crate) spec: Arc<VersionSpec>,
    pub(crate) entropy: Entropy,
}

/// The listener, the connections and the state of one guest.
pub(crate) struct Server {
    listener: TcpListener,
    pub(super) connections: Vec<Connection>,
    pub(super) machine: Machine,
    /// Without it there is no Extensions API.
    pub(super) about: Option<About>,
    pub(super) extensions: Option<Box<Extensions>>,
    /// The event the guest works on, kept until a connection has taken all of it.
    event: Option<Event>,
    delivered: bool,
    /// Where a streamed answer to the event goes.
    sink: Option<AnswerSink>,
    answer: Option<Answer>,
    init_error: Option<FunctionError>,
}

impl Server {
    /// Serves what connects to `listener`.
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            connections: Vec::with_capacity(1),
            machine: Machine::new(),
            about: None,
            extensions: None,
            event: None,
            delivered: false,
            sink: None,
            answer: None,
            init_error: None,
        }
    }

    /// Offers the Extensions API and the Telemetry API too.
    pub(crate) fn with_extensions(self, about: About) -> Self {
        Self {
            about: Some(about),
            ..self
        }
    }

    /// The extensions, if there are any.
    pub(crate) fn extensions(&self) -> Option<&Extensions> {
        self.extensions.as_deref()
    }

    /// Why the sandbox cannot go on, if one of its extensions failed.
    pub(crate) fn extension_failure(&self, request_id: Option<RequestId>) -> Option<FunctionError> {
        self.extensions.as_ref()?.failure(request_id)
    }

    /// Whether there is an extension.
    pub(crate) fn has_extensions(&self) -> bool {
        self.extensions()
            .is_some_and(|extensions| extensions.iter().next().is_some())
    }

    /// Whether the runtime and all extensions have asked for their next event; true also where there are
    /// no extensions, for then nobody but the runtime's next answer tells.
    pub(crate) fn is_settled(&self) -> bool {
        self.extensions.as_ref().is_none_or(|extensions| {
            let asks = |connection: &Connection| connection.parked && connection.waiter.is_none();
            self.is_idle() && extensions.settled() && self.connections.iter().any(asks)
        })
    }

    /// Whether the guest could take an event.
    pub(crate) fn is_idle(&self) -> bool {
        self.machine.phase() == Phase::Idle
    }

    /// Hands an event over, at once if the guest waits for one; false if it is in no state for that.
    pub(crate) fn start(&mut self, mut event: Event) -> bool {
        self.answer = None;
        let started = self.machine.start(event.request_id);
        if started {
            if let Some(extensions) = &mut self.extensions {
                extensions.invoke(&event);
            }
            self.sink = event.sink.take();
            self.event = Some(event);
            self.delivered = false;
        }
        started
    }

    /// Waits until the guest asks for its first event or says that it cannot.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.drive(cx)?;
        match self.machine.phase() {
            Phase::Init => Poll::Pending,
            Phase::InitFailed => {
                let error = self.init_error.take().unwrap_or_else(unknown_error);
                Poll::Ready(Ok(Ready::Failed(error)))
            }
            Phase::Idle | Phase::Busy(_) | Phase::Streaming(_) => {
                let all_ready = self
                    .extensions
                    .as_mut()
                    .is_none_or(|extensions| extensions.runtime_ready());
                if all_ready {
                    Poll::Ready(Ok(Ready::Idle))
                } else {
                    Poll::Pending
                }
            }
        }
    }

    /// Waits until every extension that was launched has registered.
    pub(crate) fn poll_registered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx)?;
        match &self.extensions {
            Some(extensions) if !extensions.all_registered() => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Waits until the last invocation is over for everybody.
    pub(crate) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx)?;
        if self.is_settled() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Serves for as long as it is polled.
    pub(crate) fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Infallible>> {
        self.drive(cx)?;
        Poll::Pending
    }

    /// Waits until the guest has answered the event that was started.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Answer>> {
        self.drive(cx)?;
        match self.answer.take() {
            Some(answer) => Poll::Ready(Ok(answer)),
            None => Poll::Pending,
        }
    }

    /// Lets go of what belongs to the invocation that has ended.
    pub(crate) fn finish(&mut self) {
        self.sink = None;
    }

    /// Does all that can be done now, and asks to be woken for the rest.
    fn drive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut at = 0;
        while at < self.connections.len() {
            match self.serve(at, cx) {
                Ok(()) => at += 1,
                Err(closed) => self.close(at, closed),
            }
        }
        self.accept(cx)
    }

    fn accept(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.connections.len() < CONNECTIONS_MAX {
            let Poll::Ready(accepted) = self.listener.poll_accept(cx) else {
                return Ok(());
            };
            self.connections.push(Connection::new(accepted?.0)?);
            let at = self.connections.len() - 1;
            if let Err(closed) = self.serve(at, cx) {
                self.close(at, closed);
            }
        }
        Ok(())
    }

    /// Forgets a connection; an event that it did not take whole goes to the next that asks.
    fn close(&mut self, at: usize, closed: Closed) {
        let mut connection = self.connections.swap_remove(at);
        if connection.carries_answer {
            self.break_off(Answer::Truncated);
        }
        if !connection.carries_event || (closed == Closed::InOrder && !connection.has_failed()) {
            return;
        }
        match (connection.waiter, &mut self.extensions) {
            (Some(number), Some(extensions)) => extensions.not_given(number),
            _ => self.delivered = false,
        }
    }

    /// Moves one connection on as far as it goes; an error means that it is of no more use.
    fn serve(&mut self, at: usize, cx: &mut Context<'_>) -> Result<(), Closed> {
        for _ in 0..REQUESTS_PER_TURN {
            let mut flow = self.take_requests(at, cx);
            while self.connections[at].poll_platform(cx) {
                flow = self.take_requests(at, cx);
            }
            // One that closed while it waited must not get the event.
            let parked = self.connections[at].parked;
            if parked && self.fill(at, cx)?.is_pending() {
                match self.connections[at].waiter {
                    None => self.deliver(),
                    Some(number) => self.give_order(at, number),
                }
            }
            let connection = &mut self.connections[at];
            // A client that asked for the next event in the same breath gets both answers in one write.
            if connection.has_unwritten() && !connection.parked && connection.poll_flush(cx)?.is_pending() {
                return Ok(());
            }
            if connection.closing && !connection.is_waiting() {
                return Err(Closed::InOrder);
            }
            if flow == Flow::Held {
                return Ok(());
            }
            if self.fill(at, cx)?.is_pending() {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn fill(&mut self, at: usize, cx: &mut Context<'_>) -> Result<Poll<()>, Closed> {
        let connection = &mut self.connections[at];
        match connection.poll_fill(cx)? {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(0) => Err(Closed::InOrder),
            Poll::Ready(_) if connection.is_waiting() && connection.unread_bytes() > EARLY_BYTES_MAX => {
                Err(Closed::InOrder)
            }
            Poll::Ready(_) => Ok(Poll::Ready(())),
        }
    }

    fn take_requests(&mut self, at: usize, cx: &mut Context<'_>) -> Flow {
        let streamed = match self.sink {
            Some(_) => Streamed::InParts,
            None => Streamed::Collected,
        };
        while !self.connections[at].is_waiting() && !self.connections[at].closing {
            if self.connections[at].is_in_stream() {
                match self.take_parts(at, cx) {
                    Ok(Flow::Goes) => continue,
                    Ok(flow) => return flow,
                    Err(reject) => {
                        self.reject(at, reject);
                        return Flow::Waits;
                    }
                }
            }
            match self.connections[at].take_request(streamed) {
                Ok(Some(Taken::Request(request))) => self.take(at, request),
                Ok(Some(Taken::Stream(head))) => self.take_stream(at, head),
                Ok(None) => return Flow::Waits,
                Err(reject) => self.reject(at, reject),
            }
        }
        Flow::Waits
    }

    fn reject(&mut self, at: usize, reject: Reject) {
        let connection = &mut self.connections[at];
        let text = reject.to_string();
        write_error(connection.outbox(), ("400 Bad Request", "TruncatedHTTPRequest", &text));
        connection.closing = true;
    }

    fn take(&mut self, at: usize, request: Request) {
        let Request { mut head, body } = request;
        let connection = &mut self.connections[at];
        connection.carries_event = false;
        connection.waiter = None;
        connection.closing = !head.keep_alive;
        match head.route {
            Route::Extension(call) => return self.take_call(at, *call, body),
            Route::Ping => return self.pong(at),
            Route::Platform(asked) => {
                let platform = self.event.as_ref().and_then(|event| event.platform.clone());
                connection.pending = Some(Pending::new(platform, *asked, body));
                return;
            }
            route => head.route = route,
        }
        let verdict = if head.invalid_mode {
            Verdict::Refuse(Refusal::InvalidMode)
        } else {
            self.machine.take(&head.route)
        };
        let connection = &mut self.connections[at];
        if let Verdict::Refuse(refusal) = verdict {
            return write_error(connection.outbox(), refusal.text());
        }
        if verdict == Verdict::Park {
            connection.parked = true;
            return;
        }
        match &body {
            Body::Whole(_) => connection.outbox().extend_from_slice(ACCEPTED),
            Body::TooLarge(_) => write_error(connection.outbox(), Refusal::TooLarge.text()),
        }
        match verdict {
            Verdict::TakeAnswer => {
                self.event = None;
                self.answer = Some(match body {
                    Body::Whole(body) => Answer::Response(body),
                    Body::TooLarge(bytes) => Answer::TooLarge(bytes),
                });
            }
            Verdict::TakeError => {
                self.event = None;
                self.answer = Some(Answer::Error(error_of(head, body)));
            }
            _ => self.init_error = Some(error_of(head, body)),
        }
    }

    /// Writes the event to a connection that waits for one.
    fn deliver(&mut self) {
        let Some(event) = self.event.as_ref().filter(|_| !self.delivered) else {
            return;
        };
        let Some(connection) = self
            .connections
            .iter_mut()
            .find(|connection| connection.parked && connection.waiter.is_none())
        else {
            return;
        };
        connection.parked = false;
        connection.carries_event = true;
        write_event(connection.outbox(), event);
        connection.push_body(&event.payload);
        self.delivered = true;
    }
}

/// Whether the bytes of a connection can be used as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// There may be more among those that were read.
    Goes,
    /// More must be read first.
    Waits,
    /// None must be read: the reader of the answer is behind.
    Held,
}

/// The connection is closed, or as good as closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// The guest read all that it wanted to.
    InOrder,
    /// The guest was gone while something was on its way.
    Broken,
}

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

fn unknown_error() -> FunctionError {
    FunctionError::new("Runtime.Unknown", "the runtime said that it failed, but not why")
}

/// The error a guest posted: its payload as it is, its type from the header or from the payload.
fn error_of(head: Head, body: Body) -> FunctionError {
    let Body::Whole(payload) = body else {
        return unknown_error();
    };
    if payload.is_empty() {
        return unknown_error();
    }
    let posted = head.error_type.filter(|text| text.len() <= ERROR_TYPE_BYTES_MAX);
    let error_type = error_type_in(&payload).or_else(|| posted.map(String::from));
    FunctionError {
        error_type: error_type.unwrap_or_else(|| "Runtime.Unknown".to_owned()),
        payload,
    }
}

fn error_type_in(payload: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "errorType")]
        error_type: String,
    }
    let typed: Typed = serde_json::from_slice(payload).ok()?;
    (!typed.error_type.is_empty() && typed.error_type.len() <= ERROR_TYPE_BYTES_MAX).then_some(typed.error_type)
}

pub(super) fn write_error(out: &mut Vec<u8>, (status, error_type, message): (&str, &str, &str)) {
    let body = format!("{{\"errorMessage\":\"{message}\",\"errorType\":\"{error_type}\"}}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

fn write_event(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: ");
    out.extend_from_slice(event.request_id.as_str().as_bytes());
    out.extend_from_slice(b"\r\nLambda-Runtime-Deadline-Ms: ");
    write_number(out, event.deadline.wall.as_millis());
    out.extend_from_slice(b"\r\nLambda-Runtime-Invoked-Function-Arn: ");
    write_value(out, &event.invoked_arn);
    if let Some(trace_id) = &event.trace_id {
        out.extend_from_slice(b"\r\nLambda-Runtime-Trace-Id: ");
        write_value(out, trace_id);
    }
    if let Some(client_context) = &event.client_context {
        out.extend_from_slice(b"\r\nLambda-Runtime-Client-Context: ");
        write_json_value(out, client_context);
    }
    out.extend_from_slice(b"\r\nContent-Length: ");
    write_number(out, event.payload.len() as u64);
    out.extend_from_slice(b"\r\n\r\n");
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    write!(out, "{number}").expect("a vector takes everything");
}

/// Writes a header value, with everything that could end it replaced.
fn write_value(out: &mut Vec<u8>, value: &str) {
    out.extend(
        value
            .bytes()
            .map(|byte| if byte.is_ascii_control() { b' ' } else { byte }),
    );
}

/// Writes JSON as a header value: what is not ASCII can only stand in strings, where it can be escaped.
fn write_json_value(out: &mut Vec<u8>, json: &str) {
    let mut units = [0u16; 2];
    for character in json.chars() {
        match character {
            character if character.is_ascii_control() => out.push(b' '),
            character if character.is_ascii() => out.push(character as u8),
            character => {
                for unit in character.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}").expect("a vector takes everything");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
