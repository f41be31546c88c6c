//! The listener and its connections.
//!
//! Each connection is one task that serves its requests in order. A request whose client goes away is
//! finished all the same (see [`detach`]): the connection's end cancels nothing. Shutting down stops
//! accepting, lets every request that was begun end, and then returns.

mod connection;
mod detach;
mod settle;
mod timer;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_aws::s3::S3;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use bowline_functions::Handle;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::auth::{Auth, Exposure, Peer};
use crate::data::Data;
use crate::dispatch::Node;
use crate::metrics::HttpMetrics;
use connection::Connection;
use tls::Tls;

/// Connections that may wait to be accepted. Where more wait, the kernel begins to reset them.
const BACKLOG: u32 = 4096;

/// What the server is built from; [`Options::new`] fills in the defaults.
pub struct Options {
    /// Port 0 takes any free port.
    pub listen: SocketAddr,
    pub functions: Handle,
    pub clock: Clock,
    pub entropy: Entropy,
    /// For the ARNs of the platform's own resources.
    pub region: String,
    /// The account of callers whose access key names none.
    pub account: AccountId,
    /// Who may ask.
    pub auth: Arc<Auth>,
    /// The server's certificate; without one it speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// What `/metrics` shows beside the server's own counts.
    pub registry: Arc<Registry>,
    /// Streams, sessions and objects; without them the node serves functions only.
    pub data: Option<Arc<Data>>,
    /// Objects that packages may be fetched from.
    pub objects: Option<S3>,
    /// Connections beyond these wait to be accepted.
    pub connections_max: usize,
    /// How long a connection may take to send a request's head, idle time included.
    pub header_timeout: Duration,
}

impl Options {
    /// Options with the defaults of everything that has one.
    pub fn new(listen: SocketAddr, functions: Handle) -> Self {
        let (region, account) = ("us-east-1", AccountId::default_account());
        Self {
            auth: Arc::new(Auth::new(Exposure::of(listen.ip()), region, account.clone())),
            tls: None,
            listen,
            functions,
            clock: Clock::system(),
            entropy: Entropy::system(),
            region: region.to_owned(),
            account,
            registry: Arc::new(Registry::default()),
            data: None,
            objects: None,
            connections_max: 16_384,
            header_timeout: Duration::from_secs(75),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{listen}`")]
pub struct BindError {
    pub listen: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// The way to a [`Running`] server.
pub struct Server;

/// A server that accepts connections.
pub struct Running {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    /// Closes once every connection and every detached request has ended.
    ended: mpsc::Receiver<()>,
}

impl Server {
    /// Takes the address and begins to serve.
    pub async fn bind(options: Options) -> Result<Running, BindError> {
        let listen = options.listen;
        let refuse = |source| BindError { listen, source };
        let listener = listener(listen).map_err(refuse)?;
        let local_addr = listener.local_addr().map_err(refuse)?;
        let (stop, stopping) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let acceptor = Acceptor {
            listener,
            places: Arc::new(Semaphore::new(options.connections_max)),
            header_timeout: options.header_timeout,
            tls: options.tls.clone(),
            node: Arc::new(Node::new(options, local_addr, stopping.clone())),
            stopping,
            alive,
        };
        Ok(Running {
            local_addr,
            stop,
            accepting: tokio::spawn(acceptor.run()),
            ended,
        })
    }
}

/// Listens as [`TcpListener::bind`] does, with room for more who come at the same moment.
fn listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

impl Running {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, finishes the requests that were begun, closes the connections.
    pub async fn shut_down(mut self) {
        self.stop.send_replace(true);
        if self.accepting.await.is_err() {
            tracing::error!("the accepting task panicked");
        }
        while self.ended.recv().await.is_some() {}
    }
}

struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
    header_timeout: Duration,
    tls: Option<Arc<Tls>>,
    node: Arc<Node>,
    stopping: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
}

impl Acceptor {
    async fn run(self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = self.accept() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    }

    async fn accept(&self) {
        loop {
            let place = Arc::clone(&self.places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, from)) => self.serve(stream, from, place),
                Err(error) => refused(&error).await,
            }
        }
    }

    fn serve(&self, stream: TcpStream, from: SocketAddr, place: OwnedSemaphorePermit) {
        // Answers are written whole, so there is nothing to gain from holding back small segments.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        self.node.metrics.connected();
        let connection = Connection {
            node: Arc::clone(&self.node),
            from,
            stopping: self.stopping.clone(),
            alive: self.alive.clone(),
            header_timeout: self.header_timeout,
            peer: match Exposure::of(from.ip()) {
                Exposure::Loopback => Peer::Local,
                Exposure::Network => Peer::Remote,
            },
        };
        let tls = self.tls.clone();
        tokio::spawn(async move {
            match tls {
                None => connection.run(stream).await,
                Some(tls) => {
                    if let Some(stream) = tls.accept(stream).await {
                        connection.run(stream).await;
                    }
                }
            }
            drop(place);
        });
    }
}

/// Accepting fails for one connection (it was reset) or for want of file descriptors; the latter needs
/// a pause, or the loop would spin.
async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl HttpMetrics {
    /// A registry's view of counts that live elsewhere.
    pub(crate) fn registry(metrics: &Arc<Self>) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(metrics)));
        registry
    }
}
