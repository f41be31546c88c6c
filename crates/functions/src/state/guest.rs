//! The way of a guest to shared state: HTTP on its own loopback, for the resources attached to its function.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/state/NAME/keys/KEY` | `{"value", "version"}` |
//! | `PUT /v1/state/NAME/keys/KEY[?version=N]`, the body JSON | `{"version"}` of the resource; `N` is what the entry must have, 0 for none |
//! | `DELETE /v1/state/NAME/keys/KEY` | `{"version"}` |
//! | `POST /v1/state/NAME/lease` | `{"epoch"}`, once nobody else has it; it ends with the invocation |
//! | `DELETE /v1/state/NAME/lease` | `{}` |

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_sandbox::{Platform, PlatformRequest, PlatformResponse};
use bowline_store::Condition;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::json;

use super::owner::{Found, find};
use super::vault::{Edit, Lease, Vault};
use super::{Access, Attachment, StateError, StateName, Writers, is_key, keys};
use crate::service::Inner;

const PREFIX: &str = "/v1/state/";

/// What a guest wants of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestCall {
    Get {
        state: StateName,
        key: String,
    },
    Put {
        state: StateName,
        key: String,
        version: Option<u64>,
    },
    Delete {
        state: StateName,
        key: String,
    },
    Acquire {
        state: StateName,
    },
    Release {
        state: StateName,
    },
}

/// A request that is none about shared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCall {
    /// The path is another service's.
    #[error("the path does not begin with `{PREFIX}`")]
    Elsewhere,
    #[error("expected `GET|PUT|DELETE {PREFIX}NAME/keys/KEY` or `POST|DELETE {PREFIX}NAME/lease`")]
    Unknown,
}

impl GuestCall {
    /// Reads a request line; total.
    ///
    /// # Errors
    /// If it is none about shared state.
    pub fn parse(method: &str, target: &str) -> Result<Self, InvalidCall> {
        let rest = target.strip_prefix(PREFIX).ok_or(InvalidCall::Elsewhere)?;
        let (path, query) = rest
            .split_once('?')
            .map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut segments = path.splitn(3, '/');
        let mut next = || segments.next().ok_or(InvalidCall::Unknown);
        let state: StateName = next()?.parse().map_err(|_| InvalidCall::Unknown)?;
        let what = next()?;
        let key = segments.next();
        let version = match query {
            None => None,
            Some(query) => {
                let number = query.strip_prefix("version=").and_then(|number| number.parse().ok());
                Some(number.ok_or(InvalidCall::Unknown)?)
            }
        };
        match (method, what, key) {
            (method, "keys", Some(key)) if is_key(key) => {
                let key = key.to_owned();
                match (method, version) {
                    ("GET", None) => Ok(Self::Get { state, key }),
                    ("PUT", version) => Ok(Self::Put { state, key, version }),
                    ("DELETE", None) => Ok(Self::Delete { state, key }),
                    _ => Err(InvalidCall::Unknown),
                }
            }
            ("POST", "lease", None) if version.is_none() => Ok(Self::Acquire { state }),
            ("DELETE", "lease", None) if version.is_none() => Ok(Self::Release { state }),
            _ => Err(InvalidCall::Unknown),
        }
    }

    fn state(&self) -> &StateName {
        match self {
            Self::Get { state, .. }
            | Self::Put { state, .. }
            | Self::Delete { state, .. }
            | Self::Acquire { state }
            | Self::Release { state } => state,
        }
    }

    fn writes(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }
}

/// What one invocation may do.
pub(crate) struct StateAccess {
    inner: Arc<Inner>,
    account: AccountId,
    uses: BTreeMap<StateName, Attachment>,
    /// The invocation's request id.
    holder: String,
    /// When the invocation must have ended.
    until: Timestamp,
    leases: Mutex<Leases>,
    /// Who answers everything else.
    next: Option<Arc<dyn Platform>>,
}

#[derive(Default)]
struct Leases {
    held: BTreeMap<StateName, Lease>,
    /// The invocation is over.
    ended: bool,
}

impl StateAccess {
    pub fn new(
        (inner, account): (Arc<Inner>, AccountId),
        uses: BTreeMap<StateName, Attachment>,
        (holder, until): (String, Timestamp),
        next: Option<Arc<dyn Platform>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            account,
            uses,
            holder,
            until,
            leases: Mutex::default(),
            next,
        })
    }

    /// The invocation is over: whatever lease it holds is given back, in the background.
    pub fn end(self: &Arc<Self>) {
        let held = {
            let mut leases = self.leases.lock();
            leases.ended = true;
            std::mem::take(&mut leases.held)
        };
        if held.is_empty() {
            return;
        }
        let access = self.clone();
        self.inner.runtime.spawn(async move {
            for (state, lease) in held {
                if let Err(error) = access.give_back(&state, &lease).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%state, error, "a lease stays until its time is over");
                }
            }
        });
    }

    async fn give_back(&self, state: &StateName, lease: &Lease) -> Result<(), StateError> {
        let found = self.find(state).await?;
        self.vault(&found).release(lease).await
    }

    /// The resource that is attached under the name; another one that has the name by now is not it.
    async fn find(&self, state: &StateName) -> Result<Found, StateError> {
        let attached = self.uses.get(state);
        let attached = attached.ok_or_else(|| StateError::NotAttached(state.to_string()))?;
        let found = find(&self.inner, &self.account, state).await?;
        if found.record.id != attached.id {
            return Err(StateError::NoSuchState(state.to_string()));
        }
        Ok(found)
    }

    fn vault<'a>(&'a self, found: &'a Found) -> Vault<'a> {
        Vault {
            store: &**self.inner.registry.store(),
            name: found.record.name.as_str(),
            id: &found.record.id,
            writers: found.record.writers,
            anchor: vec![Condition::AtVersion(
                keys::resource(&self.account, &found.record.name),
                found.at,
            )],
        }
    }

    async fn answer(&self, call: GuestCall, body: &Bytes) -> Result<String, StateError> {
        let state = call.state().clone();
        let found = self.find(&state).await?;
        let may_write = self
            .uses
            .get(&state)
            .is_some_and(|attached| attached.access == Access::Write);
        if call.writes() && !may_write {
            return Err(StateError::ReadOnly(state.to_string()));
        }
        let vault = self.vault(&found);
        match call {
            GuestCall::Get { key, .. } => {
                let entry = vault.read(&key).await?;
                // The value as it was written, to the byte.
                Ok(format!(r#"{{"value":{},"version":{}}}"#, entry.value, entry.version))
            }
            GuestCall::Put { key, version, .. } => {
                let edit = Edit::Put(json_text(body)?);
                let version = vault.write(&key, &edit, self.lease(&state).as_ref(), version).await?;
                Ok(json!({ "version": version }).to_string())
            }
            GuestCall::Delete { key, .. } => {
                let version = vault
                    .write(&key, &Edit::Delete, self.lease(&state).as_ref(), None)
                    .await?;
                Ok(json!({ "version": version }).to_string())
            }
            GuestCall::Acquire { .. } => self.acquire(&state, &vault).await,
            GuestCall::Release { .. } => {
                let lease = self.leases.lock().held.remove(&state);
                if let Some(lease) = lease {
                    vault.release(&lease).await?;
                }
                Ok(json!({}).to_string())
            }
        }
    }

    fn lease(&self, state: &StateName) -> Option<Lease> {
        self.leases.lock().held.get(state).cloned()
    }

    async fn acquire(&self, state: &StateName, vault: &Vault<'_>) -> Result<String, StateError> {
        if vault.writers == Writers::Any {
            return Err(StateError::Invalid(format!(
                "`{state}` is written by anybody and has no lease"
            )));
        }
        let lease = match self.lease(state) {
            Some(lease) => lease,
            None => {
                vault
                    .acquire(&self.holder, self.until, || self.inner.clock.now())
                    .await?
            }
        };
        let epoch = lease.epoch;
        let too_late = {
            let mut leases = self.leases.lock();
            if !leases.ended {
                leases.held.insert(state.clone(), lease.clone());
            }
            leases.ended
        };
        if too_late {
            vault.release(&lease).await?;
            return Err(StateError::NoLease(state.to_string()));
        }
        Ok(json!({ "epoch": epoch }).to_string())
    }
}

fn json_text(body: &Bytes) -> Result<String, StateError> {
    let text = std::str::from_utf8(body).ok();
    let text = text.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let text = text.ok_or_else(|| StateError::Invalid("a value is JSON".to_owned()))?;
    Ok(text.to_owned())
}

#[async_trait]
impl Platform for StateAccess {
    async fn ask(&self, request: PlatformRequest) -> PlatformResponse {
        let answered = match GuestCall::parse(&request.method, &request.target) {
            Ok(call) => self.answer(call, &request.body).await,
            Err(InvalidCall::Elsewhere) => {
                if let Some(next) = &self.next {
                    return next.ask(request).await;
                }
                let text = "The sandbox has no invocation that may use this operation.";
                return refused(403, "AccessDeniedException", text);
            }
            Err(error @ InvalidCall::Unknown) => return refused(404, "UnknownOperationException", &error.to_string()),
        };
        match answered {
            Ok(body) => PlatformResponse {
                status: 200,
                exception: None,
                body: body.into(),
            },
            Err(error) => {
                let (status, name) = shape(&error);
                if status >= 500 {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(request_id = self.holder, error, "shared state cannot be used");
                }
                refused(status, name, &error.to_string())
            }
        }
    }
}

fn refused(status: u16, exception: &'static str, message: &str) -> PlatformResponse {
    let body = json!({ "error": exception, "message": message });
    PlatformResponse {
        status,
        exception: Some(exception),
        body: body.to_string().into(),
    }
}

/// The status and the name of a refusal, for programs.
fn shape(error: &StateError) -> (u16, &'static str) {
    match error {
        StateError::Invalid(_) => (400, "Invalid"),
        StateError::NoSuchState(_) => (404, "NoSuchState"),
        StateError::NotAttached(_) => (404, "NotAttached"),
        StateError::NoSuchEntry(_) => (404, "NoSuchEntry"),
        StateError::NoSuchFunction(_) => (404, "NoSuchFunction"),
        StateError::ReadOnly(_) => (403, "ReadOnly"),
        StateError::NoLease(_) => (409, "NoLease"),
        StateError::LeaseBusy(_) => (409, "LeaseBusy"),
        StateError::Exists(_) | StateError::InUse { .. } | StateError::Contended => (409, "Contended"),
        StateError::VersionMismatch { .. } => (412, "VersionMismatch"),
        StateError::TooLarge | StateError::TooMany => (413, "TooLarge"),
        StateError::Unavailable(_) => (503, "Unavailable"),
        StateError::Unknown(_) => (504, "OutcomeUnknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_read_whole_or_refused() {
        let state: StateName = "counter".parse().expect("a good name");
        let key = "n".to_owned();
        let put = |version| GuestCall::Put {
            state: state.clone(),
            key: key.clone(),
            version,
        };
        for (method, target, expected) in [
            ("PUT", "/v1/state/counter/keys/n", put(None)),
            ("PUT", "/v1/state/counter/keys/n?version=0", put(Some(0))),
            (
                "POST",
                "/v1/state/counter/lease",
                GuestCall::Acquire { state: state.clone() },
            ),
            (
                "DELETE",
                "/v1/state/counter/lease",
                GuestCall::Release { state: state.clone() },
            ),
        ] {
            assert_eq!(GuestCall::parse(method, target), Ok(expected), "{method} {target}");
        }
        for (method, target) in [
            ("GET", "/v1/state/"),
            ("GET", "/v1/state/counter"),
            ("GET", "/v1/state/Counter/keys/n"),
            ("GET", "/v1/state/counter/keys/"),
            ("GET", "/v1/state/counter/keys/a/b"),
            ("GET", "/v1/state/counter/keys/a%2fb"),
            ("GET", "/v1/state/counter/keys/n?version=1"),
            ("PUT", "/v1/state/counter/keys/n?version=-1"),
            ("POST", "/v1/state/counter/lease/"),
            ("PATCH", "/v1/state/counter/lease"),
        ] {
            assert_eq!(
                GuestCall::parse(method, target),
                Err(InvalidCall::Unknown),
                "{method} {target}"
            );
        }
        assert_eq!(
            GuestCall::parse("GET", "/2025-12-01/durable-executions/x/state"),
            Err(InvalidCall::Elsewhere)
        );
    }
}
