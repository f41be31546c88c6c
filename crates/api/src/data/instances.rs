//! `/v1/instances` and `/v1/instance-files`: virtual servers and what they are made from.
//!
//! A file names programs that run on the machine: all this is the operator's, who may name any account.

pub mod costs;
pub mod files;
pub mod fleets;

use bowline_foundation::id::AccountId;
use bowline_inventory::book::Caller;
use bowline_inventory::model::{Assignment, Event, MachineFacts};
use bowline_inventory::service::{CodeThere, Creation, Inventory, SandboxThere, View};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::list::{self, LIMIT_DEFAULT, LIMIT_MAX, ListPage};
use super::params::{self, Params};
use super::problem::{Code, Problem, ProblemView};
use super::{Ask, created, time};
use crate::body::Body;
use crate::reply;

/// An instance to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInstance {
    /// The identifier of a file that is kept.
    file: String,
    /// The file's identifier if missing.
    #[serde(default)]
    name: Option<String>,
    /// One of the file's roles.
    #[serde(default)]
    role: Option<String>,
}

/// Whether an instance is given new work.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainInstance {
    draining: bool,
}

/// What somebody found out about an instance's server.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportInstance {
    /// What is wrong; missing if only the efficiency is told.
    #[serde(default)]
    error: Option<String>,
    /// Whether it is worth trying to repair it.
    #[serde(default)]
    repairable: bool,
    /// From 0 to 1; strictly below the file's `efficiency_min` the server is replaced.
    #[serde(default)]
    efficiency: Option<f64>,
}

/// An instance as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instance)]
pub struct InstanceView {
    name: String,
    account: String,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    kind: String,
    /// `low`, `high`, or such as `10+`, where the file says which of its account's fleets it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    /// `REQUESTED`, `CONFIGURING`, `SPINNING_UP`, `RUNNING`, `ERROR`, `REPAIRING`, `ACCESS_TERMINATED`, or `HELD`.
    state: String,
    since: String,
    /// Of the server that is used or made now.
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Where its services are reached, at its address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortView>,
    /// How it runs: a process, or a virtual machine with what accelerates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Of a virtual machine that runs, or ran last.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<MachineView>,
    /// What is being done for its server, if that takes long: an image is built, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    revision: u64,
    digest: String,
    memory_mib: u32,
    cpu_millis: u32,
    /// What is wrong, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Why nothing goes on by itself, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    draining: bool,
    sandboxes: u64,
    /// What the limits of its sandboxes add up to.
    held_mib: u64,
    /// The memory that it really uses now, if that is metered: files that its kernel only keeps at hand are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    /// The processor time that its server has used, if that is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_cpu_ms: Option<u64>,
    /// Servers like its own that wait for whoever needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u32>,
    /// How many are to wait now by its file's schedule, or another's of the same configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled: Option<u32>,
    replacements: usize,
    created: String,
}

/// A port that the file names.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstancePort)]
pub struct PortView {
    service: String,
    port: u16,
}

/// How a virtual machine runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceMachine)]
pub struct MachineView {
    /// `microvm` or `q35`.
    kind: String,
    processors: u32,
    /// `kvm`, or `tcg`: QEMU translates its instructions.
    accelerator: String,
    /// Why that is not `kvm`, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_kvm: Option<String>,
    /// Names the golden snapshot that it began from.
    golden_snapshot: String,
    /// Whether the snapshot was there before; otherwise a machine booted to make it.
    golden_was_kept: bool,
    /// From nothing to its first answer, once the snapshot was there.
    ready_ms: u64,
    /// The process of its QEMU.
    process: u32,
}

impl From<MachineFacts> for MachineView {
    fn from(facts: MachineFacts) -> Self {
        Self {
            kind: facts.kind.to_string(),
            processors: facts.processors,
            accelerator: facts.accelerator.to_string(),
            why_not_kvm: facts.why_not_kvm,
            golden_snapshot: facts.golden.to_string(),
            golden_was_kept: facts.golden_was_kept,
            ready_ms: facts.ready_ms,
            process: facts.process,
        }
    }
}

/// Something that happened to an instance.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceEvent)]
pub struct EventView {
    number: u64,
    what: String,
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    at: String,
}

/// Which server had the instance's role when.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Assignment)]
pub struct AssignmentView {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// An instance's events, and who had its role.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceHistory {
    events: Vec<EventView>,
    assignments: Vec<AssignmentView>,
}

/// What is on an instance. Numbers tell the order of what happened there: a greater one is later.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceInventory)]
pub struct InventoryView {
    code: Vec<CodeView>,
    sandboxes: Vec<SandboxView>,
}

/// A package on an instance, or the layers of a version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceCode)]
pub struct CodeView {
    /// SHA-256, in hexadecimal digits.
    digest: String,
    begun: u64,
    /// When it was whole; missing while it is on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    there: Option<u64>,
}

/// A sandbox on an instance.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceSandbox)]
pub struct SandboxView {
    /// When it was asked for, which names it on its instance.
    id: u64,
    function: String,
    version: String,
    /// The digest of its package.
    code: String,
    memory_mib: u32,
    /// When its making began: its code was there. Missing before.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<u64>,
    /// When it was initialised; missing while it is being made.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<u64>,
    /// When its last invocation began.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
}

impl From<Inventory> for InventoryView {
    fn from(inventory: Inventory) -> Self {
        let code = |code: CodeThere| CodeView {
            digest: code.digest.to_string(),
            begun: code.begun,
            there: code.there,
        };
        let sandbox = |sandbox: SandboxThere| SandboxView {
            id: sandbox.begun,
            function: sandbox.function,
            version: sandbox.version,
            code: sandbox.code.to_string(),
            memory_mib: sandbox.memory.0,
            made: sandbox.made,
            ready: sandbox.ready,
            used: sandbox.used,
        };
        Self {
            code: inventory.code.into_iter().map(code).collect(),
            sandboxes: inventory.sandboxes.into_iter().map(sandbox).collect(),
        }
    }
}

impl From<(&str, u16)> for PortView {
    fn from((service, port): (&str, u16)) -> Self {
        Self {
            service: service.to_owned(),
            port,
        }
    }
}

impl From<View> for InstanceView {
    fn from(view: View) -> Self {
        let instance = view.instance;
        let server = instance.current();
        let held = instance.hold.as_ref().map(|hold| match hold {
            bowline_inventory::model::Hold::Storm { replacements } => {
                format!("{replacements} replacements within the window: find out why, then resume it")
            }
            bowline_inventory::model::Hold::File { reason } => format!("{reason}: put the file right, then resume it"),
        });
        Self {
            kind: instance.kind().to_string(),
            fleet: server.effective.fleet.map(|class| class.to_string()),
            state: instance.shown_state(),
            since: time::text(server.since),
            server: server.id.clone(),
            replaces: server.replaces.clone(),
            address: server.address.clone(),
            ports: server.effective.ports().map(PortView::from).collect(),
            detail: server.detail.clone(),
            machine: server.machine.clone().map(MachineView::from),
            progress: view.progress,
            revision: server.revision,
            digest: server.digest.to_string(),
            memory_mib: server.effective.memory_mib,
            cpu_millis: server.effective.cpu_millis,
            error: instance.failure.as_ref().map(ToString::to_string),
            held,
            draining: instance.draining,
            sandboxes: view.sandboxes,
            held_mib: view.held_mib,
            used_bytes: view.used.memory_bytes,
            used_cpu_ms: view
                .used
                .cpu
                .map(|cpu| u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX)),
            waiting: view.waiting.map(|waiting| waiting.ready),
            scheduled: view.waiting.map(|waiting| waiting.scheduled),
            replacements: instance.replaced_at.len(),
            created: time::text(instance.created),
            account: instance.account.to_string(),
            name: instance.name,
            file: instance.file,
            role: instance.role,
        }
    }
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            number: event.number,
            what: event.what,
            server: event.server,
            detail: event.detail,
            at: time::text(event.at),
        }
    }
}

impl From<Assignment> for AssignmentView {
    fn from(assignment: Assignment) -> Self {
        Self {
            server: assignment.server,
            role: assignment.role,
            address: assignment.address,
            from: time::text(assignment.from),
            to: assignment.to.map(time::text),
        }
    }
}

impl Ask<'_> {
    /// What has the instances.
    fn instances(&self) -> Result<&bowline_inventory::Handle, Problem> {
        let handle = self.data.instances.get();
        handle.ok_or_else(|| Problem::new(Code::Unavailable, "this node keeps no instances"))
    }

    /// Whose instances are meant: those of the account in the query, or else of the caller.
    fn owner(&self, params: &Params<'_>) -> Result<Caller, Problem> {
        let named = params.parsed("account", "twelve digits", |text| text.parse::<AccountId>().ok())?;
        Ok(Caller {
            account: named.unwrap_or_else(|| self.call.account.clone()),
            request_id: self.call.request_id.to_string(),
        })
    }

    fn view_of(&self, instance: bowline_inventory::model::Instance) -> InstanceView {
        View {
            instance,
            sandboxes: 0,
            held_mib: 0,
            used: bowline_inventory::service::Reading::default(),
            waiting: None,
            progress: None,
        }
        .into()
    }
}

/// Make an instance from a file that is kept.
#[utoipa::path(post, path = "/v1/instances", tag = "instances", operation_id = "CreateInstance",
    params(
        ("account" = Option<String>, Query, description = "Whose it is; the caller's if missing"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again names the instance it made"),
    ),
    request_body = CreateInstance,
    responses(
        (status = 201, body = InstanceView, description = "On its way"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let request: CreateInstance = params::json(&body)?;
    let creation = Creation {
        file: request.file,
        name: request.name,
        role: request.role,
        token: ask.token(),
    };
    let instance = ask.instances()?.create(&ask.owner(&params)?, &creation).await?;
    let location = format!("/v1/instances/{}", instance.name);
    Ok(created(&location, &ask.view_of(instance)))
}

/// List the instances of an account.
#[utoipa::path(get, path = "/v1/instances", tag = "instances", operation_id = "ListInstances",
    params(
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<InstanceView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account", "limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let found = ask.instances()?.list(&ask.owner(&params)?.account).await?;
    let views: Vec<InstanceView> = found.into_iter().map(InstanceView::from).collect();
    let page = list::cut(views, limit, params.text("next"), |view| view.name.clone());
    Ok(reply::json(StatusCode::OK, &page))
}

/// Show an instance.
#[utoipa::path(get, path = "/v1/instances/{instance}", tag = "instances", operation_id = "ShowInstance",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 200, body = InstanceView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let view = ask
        .instances()?
        .show(&ask.owner(&params)?.account, &ask.call.route.resource)
        .await?;
    Ok(reply::json(StatusCode::OK, &InstanceView::from(view)))
}

/// End an instance for good; answered when nothing of it is left.
#[utoipa::path(delete, path = "/v1/instances/{instance}", tag = "instances", operation_id = "DeleteInstance",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 204, description = "Gone; its volumes stay"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    ask.instances()?
        .remove(&ask.owner(&params)?, &ask.call.route.resource)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Give an instance no new work, or give it work again.
#[utoipa::path(post, path = "/v1/instances/{instance}/drain", tag = "instances", operation_id = "DrainInstance",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    request_body = DrainInstance,
    responses(
        (status = 200, body = InstanceView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn drain(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let request: DrainInstance = params::json(&body)?;
    let (caller, name) = (ask.owner(&params)?, &ask.call.route.resource);
    ask.instances()?.drain(&caller, name, request.draining).await?;
    let view = ask.instances()?.show(&caller.account, name).await?;
    Ok(reply::json(StatusCode::OK, &InstanceView::from(view)))
}

/// Say that something is wrong with an instance's server, or how efficient it is.
#[utoipa::path(post, path = "/v1/instances/{instance}/report", tag = "instances", operation_id = "ReportInstance",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    request_body = ReportInstance,
    responses(
        (status = 200, body = InstanceView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn report(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let request: ReportInstance = params::json(&body)?;
    let (caller, name, handle) = (ask.owner(&params)?, &ask.call.route.resource, ask.instances()?);
    let instance = match (request.error, request.efficiency) {
        (Some(error), None) => handle.report(&caller, name, error, request.repairable).await?,
        (None, Some(efficiency)) => handle.efficiency(&caller, name, efficiency).await?,
        _ => {
            return Err(Problem::new(
                Code::InvalidBody,
                "expected either `error` or `efficiency`",
            ));
        }
    };
    Ok(reply::json(StatusCode::OK, &ask.view_of(instance)))
}

/// Have an instance that was held try again.
#[utoipa::path(post, path = "/v1/instances/{instance}/resume", tag = "instances", operation_id = "ResumeInstance",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 200, body = InstanceView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn resume(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let instance = ask
        .instances()?
        .resume(&ask.owner(&params)?, &ask.call.route.resource)
        .await?;
    Ok(reply::json(StatusCode::OK, &ask.view_of(instance)))
}

/// What happened to an instance, in order, and which servers had its role.
#[utoipa::path(get, path = "/v1/instances/{instance}/history", tag = "instances", operation_id = "ShowInstanceHistory",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 200, body = InstanceHistory),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn history(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let (account, name, handle) = (ask.owner(&params)?.account, &ask.call.route.resource, ask.instances()?);
    let events = handle.events(&account, name).await?;
    let assignments = handle.assignments(&account, name).await?;
    let history = InstanceHistory {
        events: events.into_iter().map(EventView::from).collect(),
        assignments: assignments.into_iter().map(AssignmentView::from).collect(),
    };
    Ok(reply::json(StatusCode::OK, &history))
}

/// What is on an instance now: code, and sandboxes.
#[utoipa::path(get, path = "/v1/instances/{instance}/inventory", tag = "instances",
    operation_id = "ShowInstanceInventory",
    params(
        ("instance" = String, Path, description = "Its name"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 200, body = InventoryView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn inventory(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let account = ask.owner(&params)?.account;
    let found = ask.instances()?.inventory(&account, &ask.call.route.resource).await?;
    Ok(reply::json(StatusCode::OK, &InventoryView::from(found)))
}

impl From<bowline_inventory::service::Error> for Problem {
    fn from(error: bowline_inventory::service::Error) -> Self {
        use bowline_inventory::service::Error;
        let code = match &error {
            Error::File(_) => Code::InvalidFile,
            Error::NoSuchFile(_) => Code::NoSuchFile,
            Error::NoSuchInstance(_) => Code::NoSuchInstance,
            Error::Exists(_) => Code::InstanceExists,
            Error::Invalid(_) => Code::InvalidBody,
            Error::Infeasible(_) => Code::Infeasible,
            Error::TokenReused => Code::TokenReused,
            Error::InUse(..) => Code::FileInUse,
            Error::Elsewhere(_) | Error::Held(_) | Error::Stopping => Code::Unavailable,
            Error::Book(error) if error.is_conflict() => Code::Contended,
            Error::Book(error) => book_code(error),
        };
        Self::new(code, error.to_string())
    }
}

fn book_code(error: &bowline_inventory::book::BookError) -> Code {
    use bowline_inventory::book::BookError;
    use bowline_store::{CommitError, ReadError};
    match error {
        BookError::Commit(CommitError::Unknown(_)) => Code::OutcomeUnknown,
        BookError::Record(_) | BookError::Read(ReadError::Damaged(_)) => Code::Damaged,
        _ => Code::Unavailable,
    }
}
