//! Signing requests: for the command line, and for links that the node gives out.

use bowline_aws::sign::{Signer, Unsigned, moment, put_encoded};
use bowline_foundation::clock::Timestamp;
use http::HeaderMap;

use super::{ALGORITHM, Paths, SERVICE, Scope, Signable, hash, string_to_sign};
use crate::auth::keys::AccessKey;

/// What a client signs with.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret: String,
    pub region: String,
}

/// A GET that somebody without a key may make for a while.
pub struct Presign<'a> {
    pub host: &'a str,
    /// With its query, if it has one.
    pub target: &'a str,
    pub region: &'a str,
    pub at: Timestamp,
    pub expires_seconds: u32,
}

/// The headers `x-amz-date` and `authorization` of a request; the other headers it has, `host` among them, are
/// signed with it.
pub fn authorization(
    credentials: &Credentials,
    (method, target): (&str, &str),
    headers: &HeaderMap,
    body: &[u8],
    at: Timestamp,
) -> (String, String) {
    authorization_of(credentials, (method, target), headers, &hash(body), at)
}

/// The same for a body that is known by its SHA-256 digest, in hexadecimal.
pub fn authorization_of(
    credentials: &Credentials,
    (method, target): (&str, &str),
    headers: &HeaderMap,
    payload: &str,
    at: Timestamp,
) -> (String, String) {
    let signer = Signer {
        access_key: &credentials.access_key,
        secret: &credentials.secret,
        region: &credentials.region,
        service: SERVICE,
    };
    let request = Unsigned {
        method,
        target,
        headers,
        payload,
        paths: Paths::Normalised,
    };
    signer.authorization(&request, at)
}

/// The target with the signature of `key` in its query.
pub fn presigned_query(key: &AccessKey, presign: &Presign<'_>) -> String {
    let moment = moment(presign.at);
    let scope = Scope {
        date: &moment[..8],
        region: presign.region,
        service: SERVICE,
    };
    let credential = format!("{}/{scope}", key.id());
    let mut encoded = Vec::new();
    put_encoded(&mut encoded, credential.as_bytes(), b"");
    let target = format!(
        "{}{}X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={moment}&X-Amz-Expires={}&\
         X-Amz-SignedHeaders=host",
        presign.target,
        if presign.target.contains('?') { '&' } else { '?' },
        String::from_utf8_lossy(&encoded),
        presign.expires_seconds
    );
    let mut headers = HeaderMap::new();
    if let Ok(host) = presign.host.parse() {
        headers.insert(http::header::HOST, host);
    }
    let request = Signable {
        method: "GET",
        target: &target,
        headers: &headers,
        signed_headers: "host",
        payload: &hash(b""),
        paths: Paths::Normalised,
    };
    let text = string_to_sign(&moment, &scope, &request.canonical());
    let signature = key.signing_key(&scope).sign(text.as_bytes());
    format!("{target}&X-Amz-Signature={signature}")
}
