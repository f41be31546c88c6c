//! The canonical text of a request.

use http::HeaderMap;
use percent_encoding::percent_decode;

use super::hex;

/// A request as far as a signature covers it.
pub struct Signable<'a> {
    pub method: &'a str,
    /// Path and query as they stand in the request line.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
    /// Names in lower case and in order, with semicolons between.
    pub signed_headers: &'a str,
    /// The body's digest in hexadecimal.
    pub payload: &'a str,
    pub paths: Paths,
}

/// How a path is signed, which is a matter of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Without dot segments and repeated slashes, and encoded once more than it is.
    Normalised,
    /// As it is sent: a key of S3 may hold anything.
    AsSent,
}

/// The parameter that a presigned query's signature stands in; it cannot cover itself.
const SIGNATURE: &str = "X-Amz-Signature";

impl Signable<'_> {
    /// The text whose digest is signed.
    pub fn canonical(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(1024);
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        text.extend_from_slice(self.method.as_bytes());
        text.push(b'\n');
        match self.paths {
            Paths::Normalised => put_path(&mut text, path),
            Paths::AsSent => text.extend_from_slice(path.as_bytes()),
        }
        text.push(b'\n');
        put_query(&mut text, query);
        text.push(b'\n');
        for name in self.signed_headers.split(';') {
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            for (at, value) in self.headers.get_all(name).iter().enumerate() {
                if at > 0 {
                    text.push(b',');
                }
                put_value(&mut text, value.as_bytes());
            }
            text.push(b'\n');
        }
        text.push(b'\n');
        text.extend_from_slice(self.signed_headers.as_bytes());
        text.push(b'\n');
        text.extend_from_slice(self.payload.as_bytes());
        text
    }
}

/// The path without dot segments and repeated slashes, encoded once more than it is.
fn put_path(text: &mut Vec<u8>, path: &str) {
    if !path.contains("/.") && !path.contains("//") {
        return put_encoded(text, path.as_bytes(), b"/");
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    for segment in &kept {
        text.push(b'/');
        put_encoded(text, segment.as_bytes(), b"");
    }
    if kept.is_empty() || path.ends_with('/') {
        text.push(b'/');
    }
}

/// The parameters by name and value, each encoded in the one way that is canonical.
fn put_query(text: &mut Vec<u8>, query: &str) {
    if query.is_empty() {
        return;
    }
    let encode = |part: &str| {
        let mut encoded = Vec::with_capacity(part.len());
        let decoded: Vec<u8> = percent_decode(part.as_bytes()).collect();
        put_encoded(&mut encoded, &decoded, b"");
        encoded
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .filter(|(name, _)| name != SIGNATURE.as_bytes())
        .collect();
    pairs.sort_unstable();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            text.push(b'&');
        }
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(value);
    }
}

/// A header's value without spaces around it, and with one for many within.
fn put_value(text: &mut Vec<u8>, value: &[u8]) {
    let value = value.trim_ascii();
    if !value.windows(2).any(|pair| pair == b"  ") {
        return text.extend_from_slice(value);
    }
    let mut space = false;
    for &byte in value {
        let is_space = byte == b' ';
        if !(space && is_space) {
            text.push(byte);
        }
        space = is_space;
    }
}

/// Encodes everything but what RFC 3986 calls unreserved, and `kept`.
pub fn put_encoded(text: &mut Vec<u8>, bytes: &[u8], kept: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') || kept.contains(&byte) {
            text.push(byte);
        } else {
            text.push(b'%');
            text.extend(hex(&[byte]).bytes().map(|digit| digit.to_ascii_uppercase()));
        }
    }
}
