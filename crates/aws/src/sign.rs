//! AWS Signature Version 4: what is signed, and how; for requests of ours, and for those that are verified.
//!
//! ```text
//!   request ─▶ canonical text ─▶ SHA-256 ─┐
//!   moment, scope ────────────────────────┴▶ string to sign ─▶ HMAC ─▶ signature
//!   secret ─▶ date ─▶ region ─▶ service ─▶ signing key ─────────┘
//! ```
//! Public description: AWS General Reference, "Signing AWS API requests".

mod canonical;

use std::fmt;

use bowline_foundation::clock::Timestamp;
use http::HeaderMap;
use ring::{digest, hmac};
use time::OffsetDateTime;

pub use canonical::{Paths, Signable, put_encoded};

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
pub const TERMINATOR: &str = "aws4_request";
const DATE: &str = "x-amz-date";

/// Keys of an account at a service.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// What a signing key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// `YYYYMMDD`.
    pub date: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, region, service } = self;
        write!(f, "{date}/{region}/{service}/{TERMINATOR}")
    }
}

/// A key derived from a secret for one scope.
#[derive(Clone, Debug)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    pub fn derive(secret: &str, scope: &Scope<'_>) -> Self {
        let mut first = String::with_capacity(4 + secret.len());
        first.push_str("AWS4");
        first.push_str(secret);
        let parts = [scope.date, scope.region, scope.service, TERMINATOR];
        let key = parts
            .iter()
            .fold(hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes()), |key, part| {
                hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
            });
        Self(key)
    }

    /// The signature of a string, in hexadecimal.
    pub fn sign(&self, text: &[u8]) -> String {
        hex(hmac::sign(&self.0, text).as_ref())
    }

    /// Whether this is the signature of a string; takes the same time wherever it differs.
    pub fn verifies(&self, text: &[u8], signature: &[u8; 32]) -> bool {
        hmac::verify(&self.0, text, signature).is_ok()
    }
}

/// Who signs, and for whom.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    pub access_key: &'a str,
    pub secret: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// A request that is to be signed.
#[derive(Clone, Copy)]
pub struct Unsigned<'a> {
    pub method: &'a str,
    /// Path and query as they stand in the request line.
    pub target: &'a str,
    /// All of them but the date; each is signed.
    pub headers: &'a HeaderMap,
    /// The SHA-256 digest of the body, in hexadecimal: see [`hash`].
    pub payload: &'a str,
    pub paths: Paths,
}

impl Signer<'_> {
    /// The values of the headers `x-amz-date` and `authorization`.
    pub fn authorization(&self, request: &Unsigned<'_>, at: Timestamp) -> (String, String) {
        let moment = moment(at);
        let mut headers = request.headers.clone();
        headers.insert(DATE, moment.parse().expect("digits and letters"));
        let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let signed_headers = names.join(";");
        let signable = Signable {
            method: request.method,
            target: request.target,
            headers: &headers,
            signed_headers: &signed_headers,
            payload: request.payload,
            paths: request.paths,
        };
        let scope = Scope {
            date: &moment[..8],
            region: self.region,
            service: self.service,
        };
        let text = string_to_sign(&moment, &scope, &signable.canonical());
        let signature = SigningKey::derive(self.secret, &scope).sign(text.as_bytes());
        let value = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed_headers}, Signature={signature}",
            self.access_key
        );
        (moment, value)
    }
}

/// What is signed in the end.
pub fn string_to_sign(moment: &str, scope: &Scope<'_>, canonical: &[u8]) -> String {
    let Scope { date, region, service } = *scope;
    let digest = hash(canonical);
    // Formatting would take longer than the digest.
    [
        ALGORITHM, "\n", moment, "\n", date, "/", region, "/", service, "/", TERMINATOR, "\n", &digest,
    ]
    .concat()
}

/// The SHA-256 digest, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// A moment as signatures write it: `YYYYMMDDTHHMMSSZ`.
pub fn moment(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second()
    )
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    let text = digits.map(|digit| DIGITS[usize::from(digit)]).collect();
    String::from_utf8(text).expect("digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(target: &str, paths: Paths) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("host", "example.amazonaws.com".parse().expect("a value"));
        let request = Unsigned {
            method: "GET",
            target,
            headers: &headers,
            payload: &hash(b""),
            paths,
        };
        let signer = Signer {
            access_key: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "service",
        };
        let (moment, value) = signer.authorization(&request, Timestamp::from_micros(1_440_938_160_000_000));
        assert_eq!(moment, "20150830T123600Z");
        let (_, signature) = value.rsplit_once("Signature=").expect("a signature");
        signature.to_owned()
    }

    /// The cases `get-vanilla` and `get-relative` of the public test suite.
    #[test]
    fn signatures_are_as_the_public_suite_has_them() {
        let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        for paths in [Paths::Normalised, Paths::AsSent] {
            assert_eq!(signature("/", paths), vanilla);
        }
        assert_eq!(signature("/example/..", Paths::Normalised), vanilla);
        assert_ne!(
            signature("/example/..", Paths::AsSent),
            vanilla,
            "a key may be called so"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI".to_owned(),
            session_token: Some("wJalrXUtnFEMI".to_owned()),
        };
        assert!(!format!("{keys:?}").contains("wJalr"), "a secret is shown");
    }
}
