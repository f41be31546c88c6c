//! `/v1/state`: shared state of an account's functions.

use bowline_foundation::units::Mebibytes;
use bowline_functions::name::FunctionRef;
use bowline_functions::state::{
    Access, Attach, FolderKind, FolderStatus, FolderView, NewFolder, NewState, StateError, StateName,
    StateView as Seen, Writers,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::list::ListPage;
use super::params::{self, Params};
use super::problem::{Code, Problem, ProblemView};
use super::{Ask, created, time};
use crate::body::Body;
use crate::reply;

/// Longest client token.
const TOKEN_CHARS_MAX: usize = 128;

/// Shared state to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateState {
    /// 1 to 64 of `a-z`, `0-9` and `-`.
    name: String,
    #[serde(default)]
    writers: WritersView,
    #[serde(default)]
    kind: KindView,
    /// Of a folder: the most that it holds, in MiB.
    size_mib: Option<u32>,
}

/// `keys`: a set of keys with JSON values. `memory`, `volume`: a folder, in memory or on a disk, that sandboxes for Linux
/// have mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KindView {
    #[default]
    Keys,
    Memory,
    Volume,
}

/// `one`: the holder of the lease writes; `any`: everybody does, and the last one wins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WritersView {
    #[default]
    One,
    Any,
}

/// How a function is to use it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachState {
    #[serde(default)]
    access: AccessView,
    /// Where sandboxes have a folder, `/mnt/` and a name; `/mnt/NAME` if it is left out.
    mount_path: Option<String>,
}

/// What a function may do.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessView {
    Read,
    #[default]
    Write,
}

/// Shared state.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateView {
    name: String,
    id: String,
    kind: KindView,
    /// `detached`: it outlives sandboxes, instances and runs of nodes. `instance`: it ends with the node that has it.
    lifetime: &'static str,
    writers: WritersView,
    created_at: String,
    #[serde(flatten)]
    facts: Facts,
    /// The invocation that holds the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    attached: Vec<AttachedView>,
}

/// What is said of it by its kind.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Facts {
    Keys(KeysView),
    Folder(FolderFacts),
}

/// What is said of a set of keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeysView {
    /// Grows by one with every write.
    version: u64,
    entries: u32,
    bytes: u64,
    /// How often the lease has been given.
    epoch: u64,
}

/// What is said of a folder.
#[derive(Debug, Serialize, ToSchema)]
pub struct FolderFacts {
    size_mib: u32,
    /// The node that has it: its functions run there.
    node: String,
    /// Grows whenever it is made anew, and empty.
    generation: u32,
    /// `ready`, or `away`: the node that has it is not known to run, or cannot mount it.
    status: &'static str,
}

/// A function that it is attached to.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttachedView {
    function: String,
    access: AccessView,
    /// Where its sandboxes have a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_path: Option<String>,
    /// What was attached is gone: invocations are refused until it is attached again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
}

/// An entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    #[schema(value_type = Object)]
    value: Box<RawValue>,
    /// The version with which it was written.
    version: u64,
}

impl From<WritersView> for Writers {
    fn from(view: WritersView) -> Self {
        match view {
            WritersView::One => Self::One,
            WritersView::Any => Self::Any,
        }
    }
}

impl From<Access> for AccessView {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
        }
    }
}

impl From<AccessView> for Access {
    fn from(view: AccessView) -> Self {
        match view {
            AccessView::Read => Self::Read,
            AccessView::Write => Self::Write,
        }
    }
}

impl From<Seen> for StateView {
    fn from(seen: Seen) -> Self {
        let attached = seen.attached.into_iter().map(|one| AttachedView {
            function: one.function,
            access: one.access.into(),
            mount_path: one.at,
            lost: one.is_lost,
        });
        let kind = seen.folder.as_ref().map(|folder| folder.kind);
        let keys = KeysView {
            version: seen.version,
            entries: seen.entries,
            bytes: seen.bytes,
            epoch: seen.epoch,
        };
        Self {
            kind: match kind {
                None => KindView::Keys,
                Some(FolderKind::Memory) => KindView::Memory,
                Some(FolderKind::Volume) => KindView::Volume,
            },
            facts: match seen.folder {
                None => Facts::Keys(keys),
                Some(folder) => Facts::Folder(folder.into()),
            },
            name: seen.name.to_string(),
            id: seen.id,
            lifetime: match kind {
                Some(FolderKind::Memory) => "instance",
                Some(FolderKind::Volume) | None => "detached",
            },
            writers: match seen.writers {
                Writers::One => WritersView::One,
                Writers::Any => WritersView::Any,
            },
            created_at: time::text(seen.created),
            holder: seen.holder,
            attached: attached.collect(),
        }
    }
}

impl From<FolderView> for FolderFacts {
    fn from(folder: FolderView) -> Self {
        Self {
            size_mib: folder.size.0,
            node: folder.node,
            generation: folder.generation,
            status: match folder.status {
                FolderStatus::Ready => "ready",
                FolderStatus::Away => "away",
            },
        }
    }
}

impl CreateState {
    fn folder(&self) -> Result<Option<NewFolder>, Problem> {
        let kind = match self.kind {
            KindView::Keys => None,
            KindView::Memory => Some(FolderKind::Memory),
            KindView::Volume => Some(FolderKind::Volume),
        };
        match (kind, self.size_mib) {
            (None, None) => Ok(None),
            (Some(kind), Some(size)) => Ok(Some(NewFolder {
                kind,
                size: Mebibytes(size),
            })),
            (None, Some(_)) => Err(Problem::new(Code::InvalidBody, "a set of keys has no `size_mib`")),
            (Some(_), None) => Err(Problem::new(Code::InvalidBody, "a folder has a `size_mib`")),
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let code = match &error {
            StateError::Invalid(_) => Code::InvalidBody,
            StateError::NoSuchState(_) => Code::NoSuchState,
            StateError::NoSuchEntry(_) => Code::NoSuchEntry,
            StateError::NoSuchFunction(_) => Code::NoSuchFunction,
            StateError::NotAttached(_) | StateError::ReadOnly(_) | StateError::NoLease(_) => Code::Forbidden,
            StateError::Exists(_) => Code::StateExists,
            StateError::InUse { .. } => Code::StateInUse,
            StateError::TooMany | StateError::NoRoom(_) => Code::NoRoom,
            StateError::Infeasible(_) => Code::Infeasible,
            StateError::TooLarge => Code::TooLarge,
            StateError::VersionMismatch { .. } => Code::VersionMismatch,
            StateError::LeaseBusy(_) | StateError::Contended => Code::Contended,
            StateError::Unavailable(_) => Code::Unavailable,
            StateError::Unknown(_) => Code::OutcomeUnknown,
        };
        Self::new(code, error.to_string())
    }
}

/// Make shared state.
#[utoipa::path(post, path = "/v1/state", tag = "state", operation_id = "CreateState",
    request_body = CreateState,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again gives the first answer")),
    responses(
        (status = 201, body = StateView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let wanted: CreateState = params::json(&body)?;
    let folder = wanted.folder()?;
    let name: StateName = wanted.name.parse().map_err(Problem::identifier)?;
    let token = ask.token();
    if token
        .as_ref()
        .is_some_and(|token| token.is_empty() || token.len() > TOKEN_CHARS_MAX)
    {
        let detail = format!("`Idempotency-Key` has 1 to {TOKEN_CHARS_MAX} characters");
        return Err(Problem::new(Code::InvalidParameter, detail));
    }
    let functions = &ask.call.node.functions;
    let new = NewState {
        name,
        writers: wanted.writers.into(),
        folder,
        token,
    };
    let seen = functions.create_state(&ask.call.caller(), new).await?;
    let view = StateView::from(seen);
    Ok(created(&format!("/v1/state/{}", view.name), &view))
}

/// List the account's shared state, by name.
#[utoipa::path(get, path = "/v1/state", tag = "state", operation_id = "ListStates",
    responses(
        (status = 200, body = ListPage<StateView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let states = ask.call.node.functions.states(&ask.call.caller()).await?;
    let page = ListPage {
        items: states.into_iter().map(StateView::from).collect(),
        next: None,
    };
    Ok(reply::json(StatusCode::OK, &page))
}

/// Show shared state.
#[utoipa::path(get, path = "/v1/state/{state}", tag = "state", operation_id = "ShowState",
    params(("state" = String, Path, description = "The name")),
    responses(
        (status = 200, body = StateView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let seen = ask.call.node.functions.state(&ask.call.caller(), &ask.state()?).await?;
    Ok(reply::json(StatusCode::OK, &StateView::from(seen)))
}

/// Remove shared state with all it holds.
#[utoipa::path(delete, path = "/v1/state/{state}", tag = "state", operation_id = "DeleteState",
    params(("state" = String, Path, description = "The name")),
    responses(
        (status = 204, description = "Gone"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    ask.call
        .node
        .functions
        .delete_state(&ask.call.caller(), ask.state()?)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Show an entry.
#[utoipa::path(get, path = "/v1/state/{state}/keys/{key}", tag = "state", operation_id = "ReadState",
    params(
        ("state" = String, Path, description = "The name"),
        ("key" = String, Path, description = "The entry's key"),
    ),
    responses(
        (status = 200, body = EntryView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn read(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let functions = &ask.call.node.functions;
    let entry = functions
        .state_entry(&ask.call.caller(), &ask.state()?, &ask.call.route.part)
        .await?;
    let view = EntryView {
        value: RawValue::from_string(entry.value).map_err(|error| Problem::new(Code::Damaged, error.to_string()))?,
        version: entry.version,
    };
    Ok(reply::json(StatusCode::OK, &view))
}

/// Let a function use shared state.
#[utoipa::path(put, path = "/v1/state/{state}/functions/{function}", tag = "state", operation_id = "AttachState",
    request_body = AttachState,
    params(
        ("state" = String, Path, description = "The name"),
        ("function" = String, Path, description = "A function of the same account"),
    ),
    responses(
        (status = 200, body = StateView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn attach(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let AttachState { access, mount_path } = if body.is_empty() {
        AttachState::default()
    } else {
        params::json(&body)?
    };
    let (state, target) = (ask.state()?, ask.function()?);
    let functions = &ask.call.node.functions;
    let attach = Attach {
        access: access.into(),
        at: mount_path,
    };
    let seen = functions
        .attach_state(&ask.call.caller(), state, &target, attach)
        .await?;
    Ok(reply::json(StatusCode::OK, &StateView::from(seen)))
}

/// Take shared state from a function.
#[utoipa::path(delete, path = "/v1/state/{state}/functions/{function}", tag = "state", operation_id = "DetachState",
    params(
        ("state" = String, Path, description = "The name"),
        ("function" = String, Path, description = "The function"),
    ),
    responses(
        (status = 204, description = "It does not have it"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn detach(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let (state, target) = (ask.state()?, ask.function()?);
    ask.call
        .node
        .functions
        .detach_state(&ask.call.caller(), state, &target)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

impl Ask<'_> {
    /// The shared state in the path.
    fn state(&self) -> Result<StateName, Problem> {
        self.call.route.resource.parse().map_err(Problem::identifier)
    }

    /// The function in the path.
    fn function(&self) -> Result<FunctionRef, Problem> {
        let target = FunctionRef::parse(&self.call.route.part, None, &self.call.account);
        let target = target.map_err(|invalid| Problem::new(Code::InvalidIdentifier, invalid.to_string()))?;
        if let Err(refused) = self.call.node.reachable(&self.call.route.part) {
            return Err(Problem::new(Code::NoSuchFunction, refused.to_string()));
        }
        if target.qualifier.is_some() {
            let detail = "shared state is attached to a function with all its versions; leave the qualifier out";
            return Err(Problem::new(Code::InvalidIdentifier, detail));
        }
        Ok(target)
    }
}
