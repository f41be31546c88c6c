//! TLS: the certificate of the server, which may change while it runs.
//!
//! ```text
//!   socket ─▶ first byte is no handshake ─▶ plain answer that says so
//!          └▶ handshake with the newest certificate ─▶ HTTP/1.1
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto::CryptoProvider};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take for the handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
const PLAIN: &str = "This address is served by HTTPS only: begin the endpoint with https://.\n";

/// A certificate with its key in two files, and how connections are accepted with it.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificates from `{}`: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("cannot read a private key from `{}`: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("the key in `{}` does not fit the certificate in `{}`: {reason}", key.display(), certificate.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
}

/// What tells one content of a file from another without reading it.
pub type Mark = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// Reads both files: PEM, the certificate first and then its issuers.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let pair = read(certificate, key, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of all versions")
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Reads both files again; connections that begin from now on get the new certificate. If they are no pair the
    /// old one stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let provider = self.acceptor.config().crypto_provider();
        let pair = read(&self.certificate, &self.key, provider)?;
        self.current.0.store(Arc::new(pair));
        Ok(())
    }

    /// Changes when one of the files does.
    pub fn mark(&self) -> Mark {
        [&self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    /// Makes a connection private. `None`: the client did not want that, or could not, and knows it by now.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match tokio::time::timeout(HANDSHAKE_MAX, self.handshake(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => {
                tracing::debug!("a TLS handshake took too long");
                None
            }
        }
    }

    async fn handshake(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first[0] != HANDSHAKE => {
                refuse_plain(&mut stream).await;
                return None;
            }
            Ok(1) => {}
            _ => return None,
        }
        match self.acceptor.accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }
}

async fn refuse_plain(stream: &mut TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{PLAIN}",
        PLAIN.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = stream.shutdown().await;
        // What the client still sends is read, or the system would throw the answer away.
        let mut rest = [0; 4096];
        while matches!(tokio::io::AsyncReadExt::read(stream, &mut rest).await, Ok(1..)) {}
    }
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unreadable = |reason: String| TlsError::Certificate {
        path: certificate.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("there is none in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Key {
        path: key.to_owned(),
        reason: error.to_string(),
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: error.to_string(),
    })
}
