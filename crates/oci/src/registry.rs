//! Images in a registry: manifests and blobs by the OCI distribution wire.
//!
//! ```text
//!   GET ─▶ 401 with a challenge ─▶ a token from the realm it names, or Basic ─▶ GET again ─▶ 200
//! ```
//! Only what an operator has configured is asked, over TLS or on this machine. Format: the OCI Distribution
//! Specification 1.1, "Pull"; its tokens are Docker's ("Token Authentication Specification").

mod address;
mod challenge;
mod transport;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::{Digest, Hasher};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

pub use address::{InvalidRegistry, RegistryAddress};

use crate::image::DOCUMENT_BYTES_MAX;
use address::Target;
use challenge::Challenge;
use transport::Transport;

/// How long a registry may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a blob may be said to lie elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Repositories whose tokens are remembered.
const REPOSITORIES_MAX: usize = 256;
const MANIFESTS: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json",
);

/// Why something cannot be had from a registry. The text is for whoever asked; it holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{registry}` does not have it")]
    NotFound { registry: String },
    #[error("`{registry}` does not let this node have it: check the user and the password in `registries`")]
    Denied { registry: String },
    #[error("`{registry}` answered with HTTP {status}")]
    Status { registry: String, status: StatusCode },
    #[error(
        "`{registry}` shows a certificate that is not trusted here ({reason}): name a file with that of its authority in \
         `AWS_CA_BUNDLE`"
    )]
    Distrusted { registry: String, reason: String },
    #[error("`{registry}` gave an answer that cannot be used: {reason}")]
    Unusable { registry: String, reason: String },
    #[error("`{registry}` does not answer")]
    Unreachable {
        registry: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("an image cannot be kept here")]
    Disk(#[from] std::io::Error),
}

/// One registry.
pub struct Registry {
    address: RegistryAddress,
    transport: Transport,
    /// What was accepted last, by repository: a token is good for one.
    authorizations: Mutex<HashMap<String, HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// Reaches nobody yet. `tls` says whose certificates are believed.
    pub fn new(address: RegistryAddress, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            address,
            transport: Transport::new(tls),
            authorizations: Mutex::default(),
        }
    }

    /// What references name it by.
    pub fn host(&self) -> &str {
        self.address.host()
    }

    /// An index or a manifest, by a tag or by `sha256:DIGEST`, which is compared.
    pub async fn manifest(&self, name: &str, reference: &str) -> Result<Bytes, RegistryError> {
        let document = self.document(name, &format!("manifests/{reference}")).await?;
        match reference.strip_prefix("sha256:").and_then(|digest| digest.parse().ok()) {
            Some(digest) => self.compared(document, digest),
            None => Ok(document),
        }
    }

    /// A small blob: a configuration.
    pub async fn config(&self, name: &str, digest: &Digest) -> Result<Bytes, RegistryError> {
        let document = self.document(name, &format!("blobs/sha256:{digest}")).await?;
        self.compared(document, *digest)
    }

    fn compared(&self, document: Bytes, expected: Digest) -> Result<Bytes, RegistryError> {
        let actual = Digest::of(&document);
        if actual == expected {
            return Ok(document);
        }
        Err(self.unusable(format!("`{expected}` was asked for, and it gave `{actual}`")))
    }

    async fn document(&self, name: &str, path: &str) -> Result<Bytes, RegistryError> {
        let response = self.get(name, path).await?;
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX as usize).collect();
        match timeout(SILENCE_MAX, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(cause)) => Err(self.unreachable(cause)),
            Err(elapsed) => Err(self.unreachable(elapsed)),
        }
    }

    /// Writes a layer of `bytes` bytes to a file, piece by piece, and compares its digest.
    pub async fn layer(
        &self,
        name: &str,
        (digest, bytes): (Digest, u64),
        file: &mut tokio::fs::File,
    ) -> Result<(), RegistryError> {
        let response = self.get(name, &format!("blobs/sha256:{digest}")).await?;
        let mut body = response.into_body();
        let mut hasher = Hasher::default();
        let mut left = bytes;
        loop {
            let frame = timeout(SILENCE_MAX, body.frame()).await;
            let Some(frame) = frame.map_err(|elapsed| self.unreachable(elapsed))? else {
                break;
            };
            let frame = frame.map_err(|cause| self.unreachable(cause))?;
            let Ok(data) = frame.into_data() else { continue };
            let passed = left.checked_sub(data.len() as u64);
            left = passed.ok_or_else(|| self.unusable(format!("layer `{digest}` has more than {bytes} bytes")))?;
            hasher.update(&data);
            file.write_all(&data).await?;
        }
        file.flush().await?;
        let actual = hasher.finish();
        if actual != digest {
            return Err(self.unusable(format!("layer `{digest}` has the digest `{actual}`")));
        }
        Ok(())
    }

    /// A successful answer to a path of a repository, with whatever proof the registry wants, from wherever it sends to.
    async fn get(&self, name: &str, path: &str) -> Result<Response<Incoming>, RegistryError> {
        let own = self.address.target(&format!("/v2/{name}/{path}"));
        let mut proof = self.authorizations.lock().get(name).cloned();
        let mut response = self.ask(&own, proof.clone()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(response.headers()).await?;
            response = self.ask(&own, Some(authorization.clone())).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                self.remember(name, &authorization);
            }
            proof = Some(authorization);
        }
        let mut at = own.clone();
        for _ in 0..REDIRECTS_MAX {
            if !response.status().is_redirection() {
                break;
            }
            let location = response.headers().get(LOCATION).and_then(|text| text.to_str().ok());
            let location = location.ok_or_else(|| self.unusable("it redirects to nowhere".to_owned()))?;
            at = at
                .follow(location)
                .map_err(|reason| self.unusable(reason.to_string()))?;
            // What proves who asks is for the registry alone.
            let is_own = at.authority() == own.authority();
            let authorization = proof.clone().filter(|_| is_own);
            response = self.ask(&at, authorization).await?;
        }
        let registry = self.host().to_owned();
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound { registry }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Denied { registry }),
            status => Err(RegistryError::Status { registry, status }),
        }
    }

    fn remember(&self, name: &str, authorization: &HeaderValue) {
        let mut known = self.authorizations.lock();
        if known.len() == REPOSITORIES_MAX && !known.contains_key(name) {
            known.clear();
        }
        known.insert(name.to_owned(), authorization.clone());
    }

    async fn ask(
        &self,
        target: &Target,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, MANIFESTS);
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let answered = timeout(SILENCE_MAX, self.transport.get(target, headers)).await;
        match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(match transport::distrust(&*cause) {
                // Where it sent to, if it was not asked itself.
                Some(reason) => RegistryError::Distrusted {
                    registry: target.authority().to_string(),
                    reason,
                },
                None => self.unreachable(cause),
            }),
            Err(elapsed) => Err(self.unreachable(elapsed)),
        }
    }

    /// Answers a challenge.
    async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, RegistryError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenges
            .filter_map(|text| Challenge::parse(text.to_str().ok()?))
            .next();
        let denied = || RegistryError::Denied {
            registry: self.host().to_owned(),
        };
        match challenge {
            Some(Challenge::Basic) => self.address.basic().ok_or_else(denied),
            Some(Challenge::Bearer { realm, query }) => self.token(&realm, &query).await,
            None => Err(denied()),
        }
    }

    async fn token(&self, realm: &str, query: &str) -> Result<HeaderValue, RegistryError> {
        let separator = if realm.contains('?') { '&' } else { '?' };
        let target = self.address.target("/").follow(&format!("{realm}{separator}{query}"));
        let target = target.map_err(|reason| self.unusable(reason.to_string()))?;
        let response = self.ask(&target, self.address.basic()).await?;
        if !response.status().is_success() {
            return Err(RegistryError::Denied {
                registry: self.host().to_owned(),
            });
        }
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX as usize).collect();
        let body = timeout(SILENCE_MAX, body)
            .await
            .map_err(|elapsed| self.unreachable(elapsed))?;
        let body = body.map_err(|cause| self.unreachable(cause))?.to_bytes();
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut value = value.ok_or_else(|| self.unusable("it gives no token".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn unusable(&self, reason: String) -> RegistryError {
        RegistryError::Unusable {
            registry: self.host().to_owned(),
            reason,
        }
    }

    fn unreachable(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.host().to_owned(),
            cause: cause.into(),
        }
    }
}
