//! Who asks: signatures of access keys, and what holds where there are none.
//!
//! ```text
//!   head ─▶ Auth::begin ─▶ Proof ─▶ body is read ─▶ Proof::finish ─▶ Identity
//!            known key, scope, time                  payload, signature
//! ```
//! A node on loopback without keys is open: it takes the account from a key id of twelve digits and looks at no
//! signature. As soon as it has a key, every request must be signed by one. A signature is refused before the body
//! is read if the head alone is reason enough, so that strangers cannot make the node hash what they send.

mod access;
pub mod keys;
mod refusal;
pub mod sigv4;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use crate::account;
use crate::route::{Operation, Query, Route};
use keys::{AccessKey, Keys};
use sigv4::claim::Claim;
use sigv4::{Paths, Scope, Signable};

pub use access::Exposure;
pub use refusal::Refusal;

/// Bodies above this are hashed away from the threads that serve.
const HASHED_AT_ONCE_BYTES_MAX: usize = 1024 * 1024;

/// Decides who asks. Shared by all connections; its keys may change at any time.
pub struct Auth {
    keys: ArcSwap<Keys>,
    exposure: Exposure,
    region: String,
    account: AccountId,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this machine.
    Local,
    Remote,
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// None if the request carries no credential, which only an open node answers.
    pub account: Option<AccountId>,
    /// The key whose signature was found good; none on an open node.
    pub key: Option<Arc<AccessKey>>,
}

/// Who a request says it is from, before its body is known.
pub struct Proof {
    identity: Identity,
    claim: Option<Box<Claim>>,
}

impl Auth {
    /// `account` is that of callers who name none, and of the node's operator.
    pub fn new(exposure: Exposure, region: &str, account: AccountId) -> Self {
        Self {
            keys: ArcSwap::default(),
            exposure,
            region: region.to_owned(),
            account,
        }
    }

    /// From now on these keys are known and no others.
    pub fn set_keys(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// Whether requests need no signature.
    pub fn is_open(&self) -> bool {
        self.exposure == Exposure::Loopback && self.keys.load().is_empty()
    }

    /// Whether an account is the one of the node's operator.
    pub fn is_operator(&self, account: &AccountId) -> bool {
        *account == self.account
    }

    /// The region that signatures are made for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Judges the head of a request for an operation: some need no signature, whatever the node is.
    pub fn begin(&self, head: &Parts, route: &Route<'_>, now: Timestamp, peer: Peer) -> Result<Proof, Refusal> {
        match route.operation {
            Operation::Welcome | Operation::Health => Ok(Proof::of_nobody()),
            Operation::Metrics if peer == Peer::Local => Ok(Proof::of_nobody()),
            _ => self.identify(&head.headers, route.query, now),
        }
    }

    /// The same for a request that is no operation, one to a function's URL say.
    pub fn identify(&self, headers: &HeaderMap, query: Query<'_>, now: Timestamp) -> Result<Proof, Refusal> {
        let keys = self.keys.load();
        if keys.is_empty() && self.exposure == Exposure::Loopback {
            return Ok(self.take_at_its_word(headers, query));
        }
        let claim = Claim::of(headers, query)?;
        claim.check_scope(&self.region)?;
        claim.check_time(now)?;
        if headers.contains_key("x-amz-security-token") || query.get("X-Amz-Security-Token").is_some() {
            return Err(Refusal::SessionToken);
        }
        let key = keys.get(&claim.access_key).ok_or(Refusal::UnknownKey)?;
        let identity = Identity {
            account: Some(key.account().clone()),
            key: Some(Arc::clone(key)),
        };
        Ok(Proof {
            identity,
            claim: Some(Box::new(claim)),
        })
    }

    fn take_at_its_word(&self, headers: &HeaderMap, query: Query<'_>) -> Proof {
        let credential = account::credential(headers, query);
        let account = credential.map(|text| account::of(&text).unwrap_or_else(|| self.account.clone()));
        let identity = Identity { account, key: None };
        Proof { identity, claim: None }
    }
}

impl Proof {
    fn of_nobody() -> Self {
        Self {
            identity: Identity::default(),
            claim: None,
        }
    }

    /// Whether the body's digest is needed to judge it.
    pub fn is_signed(&self) -> bool {
        self.claim.is_some()
    }

    /// Judges the signature over head and body; who asks is known only then.
    pub async fn finish(self, head: &Parts, body: &Bytes) -> Result<Identity, Refusal> {
        if !self.is_signed() {
            return Ok(self.identity);
        }
        let payload = if body.len() > HASHED_AT_ONCE_BYTES_MAX {
            let body = body.clone();
            let hashed = tokio::task::spawn_blocking(move || sigv4::hash(&body)).await;
            hashed.expect("hashing does not panic")
        } else {
            sigv4::hash(body)
        };
        self.finish_hashed(head, &payload)
    }

    /// The same for a body that is known by its SHA-256 digest, in hexadecimal.
    pub fn finish_hashed(self, head: &Parts, payload: &str) -> Result<Identity, Refusal> {
        let (Some(claim), Some(key)) = (self.claim, &self.identity.key) else {
            return Ok(self.identity);
        };
        claim.check_payload(&head.headers, payload)?;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Signable {
            method: head.method.as_str(),
            target,
            headers: &head.headers,
            signed_headers: &claim.signed_headers,
            payload,
            paths: Paths::Normalised,
        };
        let scope = Scope {
            date: &claim.date,
            region: &claim.region,
            service: sigv4::SERVICE,
        };
        let text = sigv4::string_to_sign(&claim.moment, &scope, &request.canonical());
        if key.signing_key(&scope).verifies(text.as_bytes(), &claim.signature) {
            Ok(self.identity)
        } else {
            Err(Refusal::Mismatch)
        }
    }
}

#[cfg(test)]
mod tests;
