//! Shared state: what other runs of the account's functions see too, wherever they run.

use crate::error::Error;
use crate::event::{Answer, Event};
use crate::interface;

/// A resource that is attached to the function.
#[derive(Clone, Copy, Debug)]
pub struct SharedState<'a> {
    name: &'a str,
}

/// A value of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    version: u64,
    value: Vec<u8>,
}

/// The right to write a resource, which one invocation has at a time. It ends when this is dropped, or with the
/// invocation.
#[derive(Debug)]
pub struct Lease<'a> {
    state: SharedState<'a>,
}

impl Event<'_> {
    /// The shared state of this name. Whether it is attached to the function shows at the first use.
    pub fn state<'n>(&self, name: &'n str) -> SharedState<'n> {
        SharedState { name }
    }
}

impl Entry {
    /// The version of the resource with which it was written.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The value, JSON text as it was written.
    pub fn bytes(&self) -> &[u8] {
        &self.value
    }

    /// The value as one of the handler's own type.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::de::Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(&self.value).map_err(|error| Error::new("InvalidEntry", error.to_string()))
    }
}

impl<'a> SharedState<'a> {
    /// The entry of a key, if there is one.
    ///
    /// # Errors
    /// If the resource is not attached to the function or cannot be read; so for all that follow.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        match self.ask("GET", &format!("keys/{key}"), b"")? {
            (200, body) => entry(&body).map(Some),
            (404, body) if kind(&body) == "NoSuchEntry" => Ok(None),
            (_, body) => Err(refusal(&body)),
        }
    }

    /// Writes an entry; returns the version of the resource. Under the lease, unless the resource is written by anybody.
    pub fn put(&self, key: &str, value: impl Answer) -> Result<u64, Error> {
        self.write(&format!("keys/{key}"), value)
    }

    /// The same, if the entry has this version; zero if there must be none.
    pub fn put_if(&self, key: &str, version: u64, value: impl Answer) -> Result<u64, Error> {
        self.write(&format!("keys/{key}?version={version}"), value)
    }

    fn write(&self, path: &str, value: impl Answer) -> Result<u64, Error> {
        match self.ask("PUT", path, &value.into_answer()?)? {
            (200, body) => version(&body),
            (_, body) => Err(refusal(&body)),
        }
    }

    /// Removes an entry; says whether there was one.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        match self.ask("DELETE", &format!("keys/{key}"), b"")? {
            (200, _) => Ok(true),
            (404, body) if kind(&body) == "NoSuchEntry" => Ok(false),
            (_, body) => Err(refusal(&body)),
        }
    }

    /// The keys of all entries, in order.
    pub fn keys(&self) -> Result<Vec<String>, Error> {
        match self.ask("GET", "keys", b"")? {
            (200, body) => keys(&body),
            (_, body) => Err(refusal(&body)),
        }
    }

    /// Waits for the right to write, as long as the invocation may run.
    pub fn lease(&self) -> Result<Lease<'a>, Error> {
        match self.ask("POST", "lease", b"")? {
            (200, _) => Ok(Lease { state: *self }),
            (_, body) => Err(refusal(&body)),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, String), Error> {
        let (status, body) = interface::ask(method, &format!("/v1/state/{}/{path}", self.name), body);
        let body = String::from_utf8(body).map_err(|_| malformed())?;
        Ok((status, body))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // If it cannot be given back now, it ends with the invocation.
        let _ = self.state.ask("DELETE", "lease", b"");
    }
}

fn malformed() -> Error {
    Error::new("Runtime.Interface", "the host sent a malformed answer")
}

// The host's answers have one form each, so that no reader of JSON is needed here.

fn entry(body: &str) -> Result<Entry, Error> {
    let (value, _) = body
        .strip_prefix("{\"value\":")
        .and_then(|rest| rest.rsplit_once(",\"version\":"))
        .ok_or_else(malformed)?;
    Ok(Entry {
        version: version(body)?,
        value: value.as_bytes().to_vec(),
    })
}

fn version(body: &str) -> Result<u64, Error> {
    let (_, number) = body.rsplit_once("\"version\":").ok_or_else(malformed)?;
    number.trim_end_matches('}').parse().map_err(|_| malformed())
}

fn keys(body: &str) -> Result<Vec<String>, Error> {
    let list = body
        .strip_prefix("{\"keys\":[")
        .and_then(|rest| rest.strip_suffix("]}"))
        .ok_or_else(malformed)?;
    // A key has no character that is escaped.
    let keys = list.split(',').filter(|key| !key.is_empty());
    Ok(keys.map(|key| key.trim_matches('"').to_owned()).collect())
}

/// The name of a refusal.
fn kind(body: &str) -> &str {
    let named = body
        .strip_prefix("{\"error\":\"")
        .and_then(|rest| rest.split('"').next());
    named.unwrap_or("Refused")
}

fn refusal(body: &str) -> Error {
    let message = body
        .split_once("\"message\":\"")
        .and_then(|(_, rest)| rest.strip_suffix("\"}"))
        .unwrap_or(body);
    Error::new(kind(body), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_host_are_read() {
        let found = entry(r#"{"value":{"version":1,"a":[2]},"version":34}"#).unwrap();
        assert_eq!((found.version(), found.bytes()), (34, &br#"{"version":1,"a":[2]}"#[..]));
        assert_eq!(version(r#"{"version":7}"#), Ok(7));
        assert_eq!(keys(r#"{"keys":["a","b.c"]}"#).unwrap(), ["a", "b.c"]);
        assert_eq!(keys(r#"{"keys":[]}"#).unwrap(), Vec::<String>::new());
        let refused = refusal(r#"{"error":"NoLease","message":"`n` is written by others"}"#);
        assert_eq!(refused, Error::new("NoLease", "`n` is written by others"));
        for damaged in ["", "{}", r#"{"value":1}"#, r#"{"version":x}"#] {
            assert!(entry(damaged).is_err(), "{damaged}");
        }
    }
}
