//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::detach::Detach;
use super::settle::Settle;
use super::timer::ConnectionTimer;
use crate::auth::Peer;
use crate::dispatch::{self, Node};

/// Largest head of a request; a client context is 3,583 bytes of it at most.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What a connection reads or writes at once.
const BUFFER_BYTES_MAX: usize = 400 * 1024;
const HEADERS_MAX: usize = 100;

/// What a connection needs beside its socket.
pub struct Connection {
    pub node: Arc<Node>,
    /// Where the other end is.
    pub from: SocketAddr,
    pub stopping: watch::Receiver<bool>,
    /// Held while anything of the connection runs.
    pub alive: mpsc::Sender<()>,
    pub header_timeout: Duration,
    pub peer: Peer,
}

impl Connection {
    /// Serves the connection until either side ends it.
    pub async fn run(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        Settle::new(self.serve(stream)).await;
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (node, alive, peer, from) = (self.node, self.alive, self.peer, self.from.ip());
        let service = service_fn(move |request| {
            let outlives = !dispatch::ends_with_its_caller(&request);
            let answer = Box::pin(dispatch::answer(Arc::clone(&node), request, (peer, from)));
            let answer = Detach::new(answer, outlives.then(|| alive.clone()));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(ConnectionTimer::default())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let stop = tokio::select! {
            ended = connection.as_mut() => {
                ended_with(ended);
                false
            }
            _ = self.stopping.wait_for(|stop| *stop) => true,
        };
        if stop {
            connection.as_mut().graceful_shutdown();
            ended_with(connection.await);
        }
    }
}

fn ended_with(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early");
    }
}
