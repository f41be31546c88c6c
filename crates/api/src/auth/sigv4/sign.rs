//! Signing requests: for the command line, and for links that the node gives out.

use bowline_foundation::clock::Timestamp;
use http::HeaderMap;

use super::canonical::put_encoded;
use super::claim::moment;
use super::{ALGORITHM, SERVICE, Scope, Signable, SigningKey, TERMINATOR, hash, string_to_sign};
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
    let moment = moment(at);
    let mut headers = headers.clone();
    headers.insert("x-amz-date", moment.parse().expect("digits and letters"));
    let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let signed_headers = names.join(";");
    let request = Signable {
        method,
        target,
        headers: &headers,
        signed_headers: &signed_headers,
        payload: &hash(body),
    };
    let scope = Scope {
        date: &moment[..8],
        region: &credentials.region,
    };
    let text = string_to_sign(&moment, &scope, &request.canonical());
    let signature = SigningKey::derive(&credentials.secret, &scope).sign(text.as_bytes());
    let value = format!(
        "{ALGORITHM} Credential={}/{}/{}/{SERVICE}/{TERMINATOR}, SignedHeaders={signed_headers}, Signature={signature}",
        credentials.access_key, scope.date, scope.region
    );
    (moment, value)
}

/// The target with the signature of `key` in its query.
pub fn presigned_query(key: &AccessKey, presign: &Presign<'_>) -> String {
    let moment = moment(presign.at);
    let scope = Scope {
        date: &moment[..8],
        region: presign.region,
    };
    let credential = format!("{}/{}/{}/{SERVICE}/{TERMINATOR}", key.id(), scope.date, scope.region);
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
    };
    let text = string_to_sign(&moment, &scope, &request.canonical());
    let signature = key.signing_key(&scope).sign(text.as_bytes());
    format!("{target}&X-Amz-Signature={signature}")
}
