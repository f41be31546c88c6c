//! One request on a connection of its own, over TLS or on this machine.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Target;

const CONNECT_MAX: Duration = Duration::from_secs(10);
const AGENT: HeaderValue = HeaderValue::from_static(concat!("bowline/", env!("CARGO_PKG_VERSION")));

/// Speaks TLS if it was told whom to believe.
pub(super) struct Transport(Option<TlsConnector>);

type Failure = Box<dyn Error + Send + Sync>;

/// Nobody was named whose certificates are believed.
#[derive(Debug, thiserror::Error)]
#[error("this node speaks no TLS with registries")]
struct NoTls;

impl Transport {
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self(tls.map(TlsConnector::from))
    }

    pub async fn get(&self, target: &Target, mut headers: HeaderMap) -> Result<Response<Incoming>, Failure> {
        headers.insert(HOST, HeaderValue::from_str(target.authority().as_str())?);
        headers.insert(USER_AGENT, AGENT);
        let mut request = Request::get(&target.path).body(Empty::new())?;
        *request.headers_mut() = headers;
        let connecting = TcpStream::connect((target.host(), target.port()));
        let stream = timeout(CONNECT_MAX, connecting).await??;
        stream.set_nodelay(true)?;
        if !target.is_secure {
            return send(stream, request).await;
        }
        let name = ServerName::try_from(target.host().to_owned())?;
        let stream = timeout(CONNECT_MAX, self.0.as_ref().ok_or(NoTls)?.connect(name, stream)).await??;
        send(stream, request).await
    }
}

/// Why a certificate is not believed, if that is what an error is about.
pub(super) fn distrust(failure: &(dyn Error + Send + Sync + 'static)) -> Option<String> {
    let wrapped = failure.downcast_ref::<io::Error>()?.get_ref()?;
    match wrapped.downcast_ref()? {
        rustls::Error::InvalidCertificate(reason) => Some(reason.to_string()),
        _ => None,
    }
}

/// The connection lives as long as the answer is read.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // What goes wrong is told to whoever reads the answer.
        let _ = connection.await;
    });
    Ok(sender.send_request(request).await?)
}
