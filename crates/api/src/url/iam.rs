//! Who calls a URL with `AWS_IAM`.

use bowline_foundation::id::AccountId;
use bytes::Bytes;

use super::UrlRequest;
use super::refusal::Refusal;
use crate::account;
use crate::auth::Proof;
use crate::route::Query;

/// The caller as the event shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub access_key: String,
    pub account: AccountId,
}

/// Judges the head of a request.
pub fn begin(request: &UrlRequest<'_>) -> Result<Proof, Refusal> {
    let node = request.node;
    let proof = node
        .auth
        .identify(&request.head.headers, query(request), node.clock.now());
    proof.map_err(Refusal::from)
}

/// Judges the signature over head and body. Somebody must have signed, on an open node too.
pub async fn finish(request: &UrlRequest<'_>, proof: Proof, body: &Bytes) -> Result<Identity, Refusal> {
    let identity = proof.finish(request.head, body).await;
    let identity = identity.map_err(Refusal::from)?;
    let account = identity.account.ok_or(Refusal::Forbidden)?;
    let credential = account::credential(&request.head.headers, query(request)).ok_or(Refusal::Forbidden)?;
    let access_key = credential.split('/').next().unwrap_or_default().trim().to_owned();
    Ok(Identity { access_key, account })
}

fn query<'a>(request: &UrlRequest<'a>) -> Query<'a> {
    Query::new(request.head.uri.query().unwrap_or_default())
}
