//! Code that comes with its request: it runs in the place of the function's own, by the function's settings, once.
//!
//! ```text
//!   {"bowline:code": "…", "bowline:event": …} ─▶ check, unpack ─▶ a place of its own ─▶ one invocation ─▶ gone
//! ```
//! A function takes such requests if its owner says so ([`CODE_VARIABLE`]); any other event it gets as ever. Since it is the
//! event that has the code, it may come by every way by which events come. Nothing of it is written down, nothing of it
//! outlasts the invocation, and no other node runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_sandbox::{CheckpointMode, CodeDir, VersionSpec};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::pool::Pool;
use super::run::Job;
use crate::error::Error;
use crate::operations::code::CheckedCode;
use crate::service::Inner;

/// The variable by which a function's owner lets requests bring code.
pub(crate) const CODE_VARIABLE: &str = "BOWLINE_CODE";
/// The only value of it that means anything.
const FROM_REQUEST: &str = "request";

/// Whether a function with these variables takes code from its requests.
pub(super) fn is_asked_for(environment: &BTreeMap<String, String>) -> bool {
    environment
        .get(CODE_VARIABLE)
        .is_some_and(|value| value == FROM_REQUEST)
}

/// An event that brings code.
#[derive(Deserialize)]
struct Brought<'a> {
    /// A zip archive or a WebAssembly module, in base64.
    #[serde(rename = "bowline:code")]
    code: String,
    #[serde(rename = "bowline:event", borrow)]
    event: Option<&'a RawValue>,
}

/// Whether an event brings code.
#[derive(Deserialize)]
struct Maybe {
    #[serde(rename = "bowline:code")]
    code: Option<serde::de::IgnoredAny>,
}

/// Takes an event apart; `None` if it brings no code.
fn read(payload: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
    // An event need not be an object, and an array is not taken for one.
    let is_object = payload.trim_ascii_start().starts_with(b"{");
    if !is_object || !serde_json::from_slice::<Maybe>(payload).is_ok_and(|maybe| maybe.code.is_some()) {
        return Ok(None);
    }
    let refused = |reason: &dyn std::fmt::Display| Error::InvalidRequestContent(format!("`bowline:code`: {reason}"));
    let brought: Brought<'_> = serde_json::from_slice(payload).map_err(|error| refused(&error))?;
    let code = STANDARD.decode(&brought.code).map_err(|error| refused(&error))?;
    let event = brought.event.map_or("{}", RawValue::get);
    Ok(Some((code.into(), Bytes::copy_from_slice(event.as_bytes()))))
}

impl Inner {
    /// Has the code of a request run, if it brings some and its function lets it.
    pub(super) async fn with_own_code(&self, job: Job) -> Result<Job, Error> {
        if !job.pool.takes_code {
            return Ok(job);
        }
        let Some((code, event)) = read(&job.request.payload)? else {
            return Ok(job);
        };
        // Boxed, so that the future of a warm invocation stays small.
        let pool = Box::pin(self.guest_pool(&job.pool, code)).await?;
        let mut job = Job { pool, ..job };
        job.request.payload = event;
        Ok(job)
    }

    /// A place for one run of code that is nobody's.
    async fn guest_pool(&self, of: &Arc<Pool>, code: Bytes) -> Result<Arc<Pool>, Error> {
        let spec = &of.parts.spec;
        if spec.image.is_some() {
            let text = "A function that is a container image takes no code from its requests.";
            return Err(Error::InvalidRequestContent(text.to_owned()));
        }
        if CheckpointMode::of(&spec.environment).ok().flatten().is_some() {
            let text = "A function whose invocations can be suspended takes no code from its requests.";
            return Err(Error::InvalidRequestContent(text.to_owned()));
        }
        let code = CheckedCode::check(code).await?;
        if code.kind(spec.runtime)? != spec.kind {
            let text = "The code of a request must be of the same kind as that of its function.";
            return Err(Error::InvalidRequestContent(text.to_owned()));
        }
        let digest = code.package.digest;
        // What nobody names is collected as soon as nobody holds it.
        let hold = {
            let _kept = self.code_gate.read().await;
            let hold = self.code.hold(&digest);
            let unpacked = self.code.unpack(&digest, code.into_bytes()).await;
            self.garbage.add(digest);
            unpacked.map_err(Error::service)?;
            hold
        };
        let place = CodeDir {
            digest,
            path: self.code.path(&digest),
        };
        let spec = VersionSpec {
            code: place,
            ..VersionSpec::clone(spec)
        };
        let metrics = self.metrics.of_function(of.parts.name.as_str(), spec.kind);
        let pool = of.beside(spec, hold, metrics);
        // What runs there is not used again.
        self.retire(Some(pool.clone()));
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_brings_code_or_is_left_as_it_is() {
        let brought = read(br#"{"bowline:code": "Y29kZQ==", "bowline:event": {"a": [1, 2]}}"#)
            .unwrap()
            .unwrap();
        assert_eq!(
            (&brought.0[..], &brought.1[..]),
            (b"code".as_slice(), br#"{"a": [1, 2]}"#.as_slice())
        );
        let without = read(br#"{"bowline:code": "Y29kZQ=="}"#).unwrap().unwrap();
        assert_eq!(without.1, "{}");
        for event in ["{}", "null", "[1]", "\"bowline:code\"", r#"{"bowline:event": 1}"#] {
            assert!(read(event.as_bytes()).unwrap().is_none(), "{event}");
        }
        for wrong in [r#"{"bowline:code": 1}"#, r#"{"bowline:code": "*"}"#] {
            let refused = read(wrong.as_bytes()).map(drop);
            assert!(matches!(refused, Err(Error::InvalidRequestContent(_))), "{wrong}");
        }
    }

    #[test]
    fn a_function_takes_code_if_its_owner_says_so() {
        let of = |value: &str| is_asked_for(&BTreeMap::from([(CODE_VARIABLE.to_owned(), value.to_owned())]));
        assert!(of("request") && !of("") && !of("own"));
        assert!(!is_asked_for(&BTreeMap::new()));
    }
}
