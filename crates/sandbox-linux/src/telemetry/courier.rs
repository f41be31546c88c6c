//! Carries batches to a listener inside the sandbox, over HTTP or TCP, and tries again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::queue::Queue;
use crate::cell::Lender;
use crate::runtime_api::Destination;

/// How often a batch is tried before it is given up.
const ATTEMPTS_MAX: u32 = 8;
/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// The wait after the first attempt that failed; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Largest answer of a listener that is read; a longer one costs it the connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The way to one listener.
pub(super) struct Courier {
    destination: Destination,
    lender: Arc<Lender>,
    line: Option<Line>,
}

/// A connection that may be used again.
enum Line {
    Http(SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("request failed")]
    Http(#[from] hyper::Error),
    #[error("listener answered with status {0}")]
    Status(u16),
    #[error("listener's answer is too long or broken")]
    Answer,
    #[error("listener did not answer in time")]
    Late,
}

impl Courier {
    pub(super) fn new(destination: Destination, lender: Arc<Lender>) -> Self {
        Self {
            destination,
            lender,
            line: None,
        }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self, queue: Arc<Queue>) {
        loop {
            let batch = queue.batch().await;
            match self.deliver(&queue, &batch).await {
                Ok(()) => queue.sent(),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, records = batch.len(), "telemetry was not delivered");
                    queue.given_up(&batch);
                }
            }
        }
    }

    async fn deliver(&mut self, queue: &Queue, batch: &[Bytes]) -> Result<(), Undelivered> {
        let mut backoff = BACKOFF_MIN;
        let mut attempt = 1;
        loop {
            queue.awake().await;
            let used_before = self.line.is_some();
            let tried = timeout(ATTEMPT_MAX, self.attempt(batch)).await;
            let Err(error) = tried.unwrap_or(Err(Undelivered::Late)) else {
                return Ok(());
            };
            self.line = None;
            // A listener may have closed a connection that was idle: that says nothing of the next.
            if used_before && !matches!(error, Undelivered::Late | Undelivered::Status(_)) {
                continue;
            }
            if attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt(&mut self, batch: &[Bytes]) -> Result<(), Undelivered> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.connect().await?,
        };
        match (&mut line, &self.destination) {
            (Line::Http(sender), Destination::Http { port, path, put }) => {
                let method = if *put { Method::PUT } else { Method::POST };
                let request = Request::builder()
                    .method(method)
                    .uri(&**path)
                    .header(header::HOST, format!("sandbox.localdomain:{port}"))
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Full::new(array(batch)))
                    .map_err(|_| Undelivered::Answer)?;
                post(sender, request).await?;
            }
            (Line::Tcp(stream), _) => stream.write_all(&lines(batch)).await?,
            (Line::Http(_), Destination::Tcp { .. }) => return Err(Undelivered::Answer),
        }
        self.line = Some(line);
        Ok(())
    }

    async fn connect(&self) -> Result<Line, Undelivered> {
        let (Destination::Http { port, .. } | Destination::Tcp { port }) = self.destination;
        let socket = TcpSocket::from_std_stream(self.lender.socket().await?);
        let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        if matches!(self.destination, Destination::Tcp { .. }) {
            return Ok(Line::Tcp(stream));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender, or with the listener.
        tokio::spawn(connection);
        Ok(Line::Http(sender))
    }
}

async fn post(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<(), Undelivered> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    body.map_err(|_| Undelivered::Answer)?;
    if status.is_success() {
        Ok(())
    } else {
        Err(Undelivered::Status(status.as_u16()))
    }
}

fn array(batch: &[Bytes]) -> Bytes {
    let mut body = BytesMut::with_capacity(batch.iter().map(|text| text.len() + 1).sum::<usize>() + 2);
    for (number, text) in batch.iter().enumerate() {
        body.extend_from_slice(if number == 0 { b"[" } else { b"," });
        body.extend_from_slice(text);
    }
    body.extend_from_slice(b"]");
    body.freeze()
}

fn lines(batch: &[Bytes]) -> Bytes {
    let mut body = BytesMut::with_capacity(batch.iter().map(|text| text.len() + 1).sum());
    for text in batch {
        body.extend_from_slice(text);
        body.extend_from_slice(b"\n");
    }
    body.freeze()
}
