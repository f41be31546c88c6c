//! The way of a guest to shared state: HTTP on its own loopback, or the same requests by an import of a WebAssembly guest,
//! for the resources attached to its function.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/state/NAME/keys/KEY` | `{"value", "version"}` |
//! | `GET /v1/state/NAME/keys` | `{"keys"}`, in order |
//! | `PUT /v1/state/NAME/keys/KEY[?version=N]`, the body JSON | `{"version"}` of the resource; `N` is what the entry must have, 0 for none |
//! | `DELETE /v1/state/NAME/keys/KEY` | `{"version"}` |
//! | `POST /v1/state/NAME/lease` | `{"epoch"}`, once nobody else has it; it ends with the invocation |
//! | `DELETE /v1/state/NAME/lease` | `{}` |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

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
    List {
        state: StateName,
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
    #[error(
        "expected `GET|PUT|DELETE {PREFIX}NAME/keys/KEY`, `GET {PREFIX}NAME/keys` or `POST|DELETE {PREFIX}NAME/lease`"
    )]
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
            ("GET", "keys", None) if version.is_none() => Ok(Self::List { state }),
            ("POST", "lease", None) if version.is_none() => Ok(Self::Acquire { state }),
            ("DELETE", "lease", None) if version.is_none() => Ok(Self::Release { state }),
            _ => Err(InvalidCall::Unknown),
        }
    }

    fn state(&self) -> &StateName {
        match self {
            Self::Get { state, .. }
            | Self::List { state }
            | Self::Put { state, .. }
            | Self::Delete { state, .. }
            | Self::Acquire { state }
            | Self::Release { state } => state,
        }
    }

    fn writes(&self) -> bool {
        !matches!(self, Self::Get { .. } | Self::List { .. })
    }
}

/// What one invocation may do.
pub(crate) struct StateAccess {
    /// Itself, for what goes on though the guest's request has gone.
    this: Weak<Self>,
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
    /// The resources whose lease may be held, whatever became of the attempt to take it.
    tried: BTreeSet<StateName>,
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
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
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
        let tried = {
            let mut leases = self.leases.lock();
            leases.ended = true;
            leases.held.clear();
            std::mem::take(&mut leases.tried)
        };
        if tried.is_empty() {
            return;
        }
        let access = self.clone();
        self.inner.runtime.spawn(async move {
            for state in tried {
                if let Err(error) = access.give_back(&state).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%state, error, "a lease stays until its time is over");
                }
            }
        });
    }

    async fn give_back(&self, state: &StateName) -> Result<(), StateError> {
        let found = self.find(state).await?;
        self.vault(&found).release_all(&self.holder, self.until).await
    }

    /// The resource that is attached under the name; another one that has the name by now is not it.
    async fn find(&self, state: &StateName) -> Result<Found, StateError> {
        let attached = self.uses.get(state);
        let attached = attached.ok_or_else(|| StateError::NotAttached(state.to_string()))?;
        let found = find(&self.inner, &self.account, state).await?;
        if found.record.id != attached.id {
            return Err(StateError::NoSuchState(state.to_string()));
        }
        if let Some(folder) = &attached.folder {
            let at = &folder.at;
            return Err(StateError::Invalid(format!(
                "`{state}` is a folder, at `{at}`, and no set of keys"
            )));
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
        let vault = || self.vault(&found);
        match call {
            GuestCall::Get { key, .. } => {
                let entry = vault().read(&key).await?;
                // The value as it was written, to the byte.
                Ok(format!(r#"{{"value":{},"version":{}}}"#, entry.value, entry.version))
            }
            GuestCall::List { .. } => {
                let keys = vault().keys().await?;
                Ok(json!({ "keys": keys }).to_string())
            }
            GuestCall::Put { key, version, .. } => {
                let edit = Edit::Put(json_text(body)?);
                let lease = self.lease(&state);
                let version = vault().write(&key, &edit, lease.as_ref(), version).await?;
                Ok(json!({ "version": version }).to_string())
            }
            GuestCall::Delete { key, .. } => {
                let lease = self.lease(&state);
                let version = vault().write(&key, &Edit::Delete, lease.as_ref(), None).await?;
                Ok(json!({ "version": version }).to_string())
            }
            GuestCall::Acquire { .. } => {
                let this = self.this();
                self.to_its_end(async move { this.acquire(&state, &found).await }).await
            }
            GuestCall::Release { .. } => {
                let this = self.this();
                self.to_its_end(async move { this.release(&state, &found).await }).await
            }
        }
    }

    fn this(&self) -> Arc<Self> {
        self.this.upgrade().expect("whoever asks it holds it in an `Arc`")
    }

    /// Does what must not stop in the middle, though whoever waits for it goes away.
    async fn to_its_end(
        &self,
        body: impl Future<Output = Result<String, StateError>> + Send + 'static,
    ) -> Result<String, StateError> {
        let ended = self.inner.runtime.spawn(body).await;
        ended.unwrap_or_else(|error| Err(StateError::Unknown(Box::new(error))))
    }

    fn lease(&self, state: &StateName) -> Option<Lease> {
        self.leases.lock().held.get(state).cloned()
    }

    async fn acquire(&self, state: &StateName, found: &Found) -> Result<String, StateError> {
        if found.record.writers == Writers::Any {
            return Err(StateError::Invalid(format!(
                "`{state}` is written by anybody and has no lease"
            )));
        }
        let epoch = match self.lease(state) {
            Some(lease) => lease.epoch,
            None => self.take_lease(state, found).await?,
        };
        Ok(json!({ "epoch": epoch }).to_string())
    }

    /// Takes the lease; returns its epoch. An invocation that has ended meanwhile has none.
    async fn take_lease(&self, state: &StateName, found: &Found) -> Result<u64, StateError> {
        self.leases.lock().tried.insert(state.clone());
        let vault = self.vault(found);
        let now = || self.inner.clock.now();
        let taken = vault
            .acquire(&self.holder, self.until, now, |about| self.pause(about))
            .await;
        if let Some(kept) = self.keep(state, taken) {
            return kept;
        }
        vault.release_all(&self.holder, self.until).await?;
        Err(StateError::NoLease(state.to_string()))
    }

    /// Keeps a lease that was taken, and returns the epoch; of two that the invocation took at once it has the later
    /// one. Nothing if the invocation has ended.
    fn keep(&self, state: &StateName, taken: Result<Lease, StateError>) -> Option<Result<u64, StateError>> {
        let mut leases = self.leases.lock();
        if leases.ended {
            return None;
        }
        Some(taken.map(|lease| {
            let held = leases.held.entry(state.clone()).or_insert_with(|| lease.clone());
            if held.epoch < lease.epoch {
                *held = lease;
            }
            held.epoch
        }))
    }

    /// How long to wait before the lease is asked for again; not at all once the invocation has ended.
    fn pause(&self, about: Duration) -> Option<Duration> {
        let ended = self.leases.lock().ended;
        (!ended).then(|| about.mul_f64(0.5 + self.inner.entropy.unit() / 2.0))
    }

    async fn release(&self, state: &StateName, found: &Found) -> Result<String, StateError> {
        if let Some(lease) = self.lease(state) {
            self.vault(found).release(&lease).await?;
            let mut leases = self.leases.lock();
            if leases.held.get(state) == Some(&lease) {
                leases.held.remove(state);
            }
        }
        Ok(json!({}).to_string())
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
        exception: Some(exception.into()),
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
        StateError::NoRoom(_) => (409, "NoRoom"),
        StateError::Infeasible(_) => (409, "Infeasible"),
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
            (
                "GET",
                "/v1/state/counter/keys",
                GuestCall::List { state: state.clone() },
            ),
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
            ("GET", "/v1/state/counter/keys?version=1"),
            ("DELETE", "/v1/state/counter/keys"),
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
