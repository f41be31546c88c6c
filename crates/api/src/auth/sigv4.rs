//! AWS Signature Version 4: what is signed, and how.
//!
//! ```text
//!   request ─▶ canonical text ─▶ SHA-256 ─┐
//!   moment, scope ────────────────────────┴▶ string to sign ─▶ HMAC ─▶ signature
//!   secret ─▶ date ─▶ region ─▶ service ─▶ signing key ─────────┘
//! ```
//! The form is the one of all services but S3: paths are encoded twice and normalised. Public description: AWS
//! General Reference, "Signing AWS API requests".

mod canonical;
pub mod claim;
mod sign;

use ring::{digest, hmac};

pub use canonical::Signable;
pub use sign::{Credentials, Presign, authorization, presigned_query};

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The one service that a node is.
pub const SERVICE: &str = "lambda";
pub const TERMINATOR: &str = "aws4_request";

/// What a signing key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// `YYYYMMDD`.
    pub date: &'a str,
    pub region: &'a str,
}

/// A key derived from a secret for one scope.
#[derive(Clone, Debug)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Derives the key of the service [`SERVICE`].
    pub fn derive(secret: &str, scope: &Scope<'_>) -> Self {
        Self::derive_for(secret, scope, SERVICE)
    }

    fn derive_for(secret: &str, scope: &Scope<'_>, service: &str) -> Self {
        let mut first = String::with_capacity(4 + secret.len());
        first.push_str("AWS4");
        first.push_str(secret);
        let parts = [scope.date, scope.region, service, TERMINATOR];
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

/// The SHA-256 digest, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// What is signed in the end.
pub fn string_to_sign(moment: &str, scope: &Scope<'_>, canonical: &[u8]) -> String {
    string_to_sign_for(SERVICE, moment, scope, canonical)
}

fn string_to_sign_for(service: &str, moment: &str, scope: &Scope<'_>, canonical: &[u8]) -> String {
    let Scope { date, region } = scope;
    let hashed = hash(canonical);
    format!("{ALGORITHM}\n{moment}\n{date}/{region}/{service}/{TERMINATOR}\n{hashed}")
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
    text
}

#[cfg(test)]
mod tests;
