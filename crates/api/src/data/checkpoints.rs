//! `/v1/checkpoints`: invocations that run or are suspended, and their last checkpoints.
//!
//! A run is named by its request id, which its caller sees in `X-Amzn-RequestId`.

use std::collections::BTreeMap;

use bowline_functions::suspend::{Decision, MoveRequest, Phase, RunView, TakeRequest};
use bowline_sandbox::MachineNeeds;
use bowline_store::blob::Naming;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::list::{LIMIT_DEFAULT, LIMIT_MAX, ListPage, cut};
use super::params::{self, Params};
use super::problem::{Problem, ProblemView};
use super::{Ask, time};
use crate::body::Body;
use crate::reply;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Carries the type of a function's error, as in the answer of an invocation.
const FUNCTION_ERROR: &str = "x-amz-function-error";
const REASON_CHARS_MAX: usize = 256;

/// How a checkpoint is to be taken.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TakeCheckpoint {
    /// Whether the invocation gives up its place until it is resumed; otherwise it goes on at once.
    suspend: bool,
    /// For the record.
    reason: Option<String>,
}

/// Where an invocation is to go on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MoveCheckpoint {
    /// A node, by its identifier or its address; without it the least busy one that fits, which may be the one that
    /// has it.
    to: Option<String>,
    /// For the record.
    reason: Option<String>,
}

/// An invocation with its last checkpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunBody {
    /// The request id.
    run: String,
    account: String,
    function: String,
    version: String,
    /// `running`, `suspended` or `finished`.
    phase: &'static str,
    /// Whether this node has it in hand.
    here: bool,
    /// The node that has it, or had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Rises whenever somebody goes on with the run.
    epoch: u64,
    started: String,
    deadline: String,
    /// Missing while none was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointBody>,
    /// Why the last attempt to keep one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    decisions: Vec<DecisionBody>,
}

/// A checkpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct CheckpointBody {
    /// The first of a run is 1.
    number: u64,
    /// Of the signed bytes, in hexadecimal digits.
    digest: String,
    /// `blake3`; of checkpoints that older nodes have kept, `sha256`.
    digest_kind: &'static str,
    bytes: u64,
    /// Of the guest's memory, what is not zero.
    resident_bytes: u64,
    taken: String,
    /// Microseconds from the guest's stop until the bytes were there.
    took_us: u64,
    reason: String,
    /// `wasm`: a WebAssembly guest alone; `vm`: the whole virtual machine that a native one runs in.
    kind: &'static str,
    /// What a virtual machine needs where it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<MachineBody>,
}

/// A virtual machine that goes on only where it finds all of this.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MachineNeeds)]
pub struct MachineBody {
    /// `microvm` or `q35`.
    machine: String,
    processors: u32,
    memory_mib: u32,
    /// `kvm` or `tcg`.
    accelerator: String,
    processor: String,
    /// What a processor must be able to do; none for a translated machine, which brings its own.
    features: Vec<String>,
    /// The version of QEMU.
    qemu: String,
    /// The digest of the image.
    image: String,
}

/// Why something was done with a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Decision)]
pub struct DecisionBody {
    time: String,
    what: String,
    why: String,
    /// What was looked at.
    values: BTreeMap<String, String>,
}

/// One invocation, and what its checkpoint holds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunDetail)]
pub struct RunDetail {
    #[serde(flatten)]
    run: RunBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<ContentBody>,
}

/// What a checkpoint says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointContent)]
pub struct ContentBody {
    /// SHA-256 of the original module.
    module: String,
    format_version: u32,
    pass_version: u32,
    memory_bytes: u64,
    /// Pages of 4 KiB that are not zero.
    pages: u64,
    frames: u64,
    globals: u64,
}

fn millis(millis: u64) -> String {
    time::text(bowline_foundation::clock::Timestamp::from_micros(
        millis.saturating_mul(1_000),
    ))
}

impl RunBody {
    fn of(view: RunView) -> Self {
        Self {
            run: view.run,
            account: view.account,
            function: view.function,
            version: view.version,
            phase: match view.phase {
                Phase::Running => "running",
                Phase::Suspended => "suspended",
                Phase::Finished => "finished",
            },
            here: view.is_here,
            node: view.node,
            epoch: view.epoch,
            started: time::text(view.started),
            deadline: time::text(view.deadline),
            checkpoint: view.checkpoint.map(|kept| CheckpointBody {
                number: kept.number,
                digest: kept.digest.to_string(),
                digest_kind: match kept.naming {
                    Naming::Sha256 => "sha256",
                    Naming::Blake3 => "blake3",
                },
                bytes: kept.bytes,
                resident_bytes: kept.resident_bytes,
                taken: millis(kept.taken_ms),
                took_us: kept.took_us,
                reason: kept.reason,
                kind: if kept.machine.is_some() { "vm" } else { "wasm" },
                needs: kept.machine.map(MachineBody::of),
            }),
            failure: view.failure,
            decisions: view.decisions.into_iter().map(DecisionBody::of).collect(),
        }
    }
}

impl MachineBody {
    fn of(needs: MachineNeeds) -> Self {
        Self {
            machine: needs.machine,
            processors: needs.processors,
            memory_mib: needs.memory_mib,
            accelerator: needs.accelerator,
            processor: needs.processor,
            features: needs.features,
            qemu: needs.qemu,
            image: needs.image,
        }
    }
}

impl DecisionBody {
    fn of(decision: Decision) -> Self {
        Self {
            time: millis(decision.at_ms),
            what: decision.what,
            why: decision.why,
            values: decision.values,
        }
    }
}

impl Ask<'_> {
    fn run(&self) -> &str {
        &self.call.route.resource
    }
}

/// Lists invocations that can be suspended: those that run here, and all that have a checkpoint.
#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", operation_id = "ListCheckpoints",
    params(
        ("limit" = Option<usize>, Query, description = "Items of a page, from 1 to 1000; 100 if not given"),
        ("next" = Option<String>, Query, description = "What the page before gave"),
    ),
    responses((status = 200, body = ListPage<RunBody>), (status = "default", body = ProblemView)))]
pub async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let runs = ask.call.node.functions.list_runs().await?;
    let runs = runs.into_iter().map(RunBody::of).collect();
    let page = cut(runs, limit, params.text("next"), |run: &RunBody| run.run.clone());
    Ok(reply::json(StatusCode::OK, &page))
}

/// Shows an invocation and what its last checkpoint holds.
#[utoipa::path(get, path = "/v1/checkpoints/{run}", tag = "checkpoints", operation_id = "ShowCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    responses((status = 200, body = RunDetail), (status = "default", body = ProblemView)))]
pub async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let functions = &ask.call.node.functions;
    let view = functions.show_run(ask.run()).await?;
    let content = match &view.checkpoint {
        None => None,
        Some(_) => functions
            .read_checkpoint(ask.run())
            .await
            .ok()
            .and_then(|(_, facts)| facts),
    };
    let detail = RunDetail {
        run: RunBody::of(view),
        content: content.map(|facts| ContentBody {
            module: facts.module,
            format_version: facts.format_version,
            pass_version: facts.pass_version,
            memory_bytes: facts.memory_bytes,
            pages: facts.pages,
            frames: facts.frames,
            globals: facts.globals,
        }),
    };
    Ok(reply::json(StatusCode::OK, &detail))
}

/// Gives the last checkpoint as signed bytes, in the format that `docs/checkpoint-format.md` describes.
#[utoipa::path(get, path = "/v1/checkpoints/{run}/content", tag = "checkpoints", operation_id = "ReadCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    responses(
        (status = 200, content_type = "application/octet-stream", body = String),
        (status = "default", body = ProblemView)))]
pub async fn content(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let (bytes, _) = ask.call.node.functions.read_checkpoint(ask.run()).await?;
    Ok(reply::whole(StatusCode::OK, OCTETS, bytes))
}

/// Gives the answer of an invocation that has finished while its caller was gone; the header `X-Amz-Function-Error`
/// has the type of the function's error, if it failed.
#[utoipa::path(get, path = "/v1/checkpoints/{run}/outcome", tag = "checkpoints", operation_id = "ReadOutcome",
    params(("run" = String, Path, description = "The request id")),
    responses((status = 200, body = Object), (status = "default", body = ProblemView)))]
pub async fn outcome(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let (bytes, error_type) = ask.call.node.functions.read_outcome(ask.run()).await?;
    let mut response = reply::whole(StatusCode::OK, JSON, bytes);
    if let Some(value) = error_type.and_then(|error_type| HeaderValue::try_from(error_type).ok()) {
        response.headers_mut().insert(FUNCTION_ERROR, value);
    }
    Ok(response)
}

/// Takes a checkpoint of a running invocation; answers when it is kept.
#[utoipa::path(post, path = "/v1/checkpoints/{run}/take", tag = "checkpoints", operation_id = "TakeCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    request_body = TakeCheckpoint,
    responses((status = 200, body = RunBody), (status = "default", body = ProblemView)))]
pub async fn take(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let request: TakeCheckpoint = params::json(&body)?;
    let reason = request.reason.as_deref().unwrap_or("operator");
    let request = TakeRequest {
        suspend: request.suspend,
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
    };
    let view = ask.call.node.functions.take_checkpoint(ask.run(), request).await?;
    Ok(reply::json(StatusCode::OK, &RunBody::of(view)))
}

/// Lets a suspended invocation go on.
#[utoipa::path(post, path = "/v1/checkpoints/{run}/resume", tag = "checkpoints", operation_id = "ResumeCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    responses((status = 200, body = RunBody), (status = "default", body = ProblemView)))]
pub async fn resume(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let view = ask.call.node.functions.resume_run(ask.run()).await?;
    Ok(reply::json(StatusCode::OK, &RunBody::of(view)))
}

/// Takes an invocation to another node of the cluster; answers when it goes on there. If it does not, it goes on here as
/// it did.
#[utoipa::path(post, path = "/v1/checkpoints/{run}/move", tag = "checkpoints", operation_id = "MoveCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    request_body = MoveCheckpoint,
    responses((status = 200, body = RunBody), (status = "default", body = ProblemView)))]
pub async fn relocate(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let request: MoveCheckpoint = params::json(&body)?;
    let reason = request.reason.as_deref().unwrap_or("operator");
    let request = MoveRequest {
        to: request.to,
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
        values: Default::default(),
    };
    let view = ask.call.node.functions.move_run(ask.run(), request).await?;
    Ok(reply::json(StatusCode::OK, &RunBody::of(view)))
}

/// Removes a suspended invocation, which ends with an error, or the outcome of one that has finished.
#[utoipa::path(delete, path = "/v1/checkpoints/{run}", tag = "checkpoints", operation_id = "DeleteCheckpoint",
    params(("run" = String, Path, description = "The request id")),
    responses((status = 204), (status = "default", body = ProblemView)))]
pub async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    ask.call.node.functions.remove_run(ask.run()).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
