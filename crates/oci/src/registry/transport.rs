//! One request on a connection of its own, over TLS or on this machine.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Target;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Where Linux systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const AGENT: HeaderValue = HeaderValue::from_static(concat!("bowline/", env!("CARGO_PKG_VERSION")));

/// Reads the system's certificates when they are first needed.
#[derive(Default)]
pub(super) struct Transport(OnceLock<TlsConnector>);

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Transport {
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
        let stream = timeout(CONNECT_MAX, self.connector()?.connect(name, stream)).await??;
        send(stream, request).await
    }

    fn connector(&self) -> Result<TlsConnector, Failure> {
        if let Some(connector) = self.0.get() {
            return Ok(connector.clone());
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(SYSTEM_CERTIFICATES).map_err(unreadable)? {
            roots.add(certificate.map_err(unreadable)?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.0.get_or_init(|| TlsConnector::from(Arc::new(config))).clone())
    }
}

fn unreadable(error: rustls::pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("`{SYSTEM_CERTIFICATES}` cannot be read: {error}"))
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
