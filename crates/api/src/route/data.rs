//! The paths of streams, sessions, objects, nodes, shared state and checkpoints: one table for the router and for the
//! OpenAPI document.

use super::{Operation, RouteError};

/// A path with the operation that a method means there. Segments in braces stand for any one segment.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub operation: Operation,
    pub method: &'static str,
    /// After `/v1`.
    pub segments: &'static [&'static str],
}

/// What the second segment of all these paths is.
const BEGINNINGS: [&str; 12] = [
    "streams",
    "sessions",
    "objects",
    "stores",
    "nodes",
    "state",
    "checkpoints",
    "instances",
    "instance-files",
    "fleets",
    "roles",
    "openapi.json",
];

macro_rules! rows {
    ($($operation:ident $method:ident [$($segment:literal),+];)*) => {
        /// Every path of this wire; the busiest first.
        pub const ROWS: &[Row] = &[$(Row {
            operation: Operation::$operation,
            method: stringify!($method),
            segments: &[$($segment),+],
        },)*];
    };
}

rows! {
    AppendEvents POST ["streams", "{stream}", "events"];
    ReadEvents GET ["streams", "{stream}", "events"];
    ReadBatch POST ["sessions", "{session}", "batches"];
    AckBatch POST ["sessions", "{session}", "batches", "{token}", "ack"];
    NackBatch POST ["sessions", "{session}", "batches", "{token}", "nack"];
    ExtendBatch POST ["sessions", "{session}", "batches", "{token}", "extend"];
    CreateObject POST ["objects"];
    GetObject GET ["objects", "{object}"];
    UpdateObject PUT ["objects", "{object}"];
    DeleteObject DELETE ["objects", "{object}"];
    QueryObjects GET ["objects"];
    ListObjectEvents GET ["objects", "{object}", "events"];
    CreateStream POST ["streams"];
    ListStreams GET ["streams"];
    ShowStream GET ["streams", "{stream}"];
    SetStream PATCH ["streams", "{stream}"];
    DeleteStream DELETE ["streams", "{stream}"];
    TrimStream POST ["streams", "{stream}", "trim"];
    CreateSession POST ["sessions"];
    ListSessions GET ["sessions"];
    ShowSession GET ["sessions", "{session}"];
    DeleteSession DELETE ["sessions", "{session}"];
    SeekSession POST ["sessions", "{session}", "seek"];
    ListParked GET ["sessions", "{session}", "parked"];
    RedriveParked POST ["sessions", "{session}", "parked", "redrive"];
    DropParked POST ["sessions", "{session}", "parked", "drop"];
    ListStores GET ["stores"];
    ListNodes GET ["nodes"];
    CreateState POST ["state"];
    ListStates GET ["state"];
    ShowState GET ["state", "{state}"];
    DeleteState DELETE ["state", "{state}"];
    ReadState GET ["state", "{state}", "keys", "{key}"];
    AttachState PUT ["state", "{state}", "functions", "{function}"];
    DetachState DELETE ["state", "{state}", "functions", "{function}"];
    ListCheckpoints GET ["checkpoints"];
    ShowCheckpoint GET ["checkpoints", "{run}"];
    ReadCheckpoint GET ["checkpoints", "{run}", "content"];
    ReadOutcome GET ["checkpoints", "{run}", "outcome"];
    TakeCheckpoint POST ["checkpoints", "{run}", "take"];
    ResumeCheckpoint POST ["checkpoints", "{run}", "resume"];
    MoveCheckpoint POST ["checkpoints", "{run}", "move"];
    DeleteCheckpoint DELETE ["checkpoints", "{run}"];
    CreateInstance POST ["instances"];
    ListInstances GET ["instances"];
    ShowInstance GET ["instances", "{instance}"];
    DeleteInstance DELETE ["instances", "{instance}"];
    DrainInstance POST ["instances", "{instance}", "drain"];
    ReportInstance POST ["instances", "{instance}", "report"];
    ResumeInstance POST ["instances", "{instance}", "resume"];
    ShowInstanceHistory GET ["instances", "{instance}", "history"];
    ShowInstanceInventory GET ["instances", "{instance}", "inventory"];
    PutInstanceFile PUT ["instance-files", "{file}"];
    GetInstanceFile GET ["instance-files", "{file}"];
    ListInstanceFiles GET ["instance-files"];
    DeleteInstanceFile DELETE ["instance-files", "{file}"];
    ShowFleets GET ["fleets"];
    SetFleets PUT ["fleets"];
    PutCost POST ["roles", "{role}", "costs"];
    ListCosts GET ["roles", "{role}", "costs"];
    GetOpenApi GET ["openapi.json"];
}

impl Row {
    /// The path as OpenAPI writes it.
    pub fn template(&self) -> String {
        format!("/v1/{}", self.segments.join("/"))
    }

    fn is_at(&self, segments: &[&str]) -> bool {
        let fits = |(wanted, segment): (&&str, &&str)| wanted.starts_with('{') || wanted == segment;
        self.segments.len() == segments.len() && self.segments.iter().zip(segments).all(fits)
    }
}

/// Whether a path, without `/v1`, belongs to this wire, known or not.
pub fn begins(segments: &[&str]) -> bool {
    segments.first().is_some_and(|first| BEGINNINGS.contains(first))
}

/// Whether the target of a request belongs to this wire, known or not.
pub fn is_target(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let first = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
    first.is_some_and(|first| BEGINNINGS.contains(&first))
}

/// The operation of a method on a path without `/v1`.
pub fn resolve(method: &str, segments: &[&str]) -> Result<Operation, RouteError> {
    let mut error = RouteError::Unknown;
    for row in ROWS.iter().filter(|row| row.is_at(segments)) {
        if row.method == method {
            return Ok(row.operation);
        }
        error = RouteError::Method;
    }
    Err(error)
}

/// The methods of a path, as the header `Allow` lists them.
pub fn allowed(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.trim_matches('/').split('/').skip(1).collect();
    let methods = ROWS.iter().filter(|row| row.is_at(&segments)).map(|row| row.method);
    methods.collect::<Vec<_>>().join(", ")
}

/// Whether an operation belongs to this wire.
pub fn has(operation: Operation) -> bool {
    ROWS.iter().any(|row| row.operation == operation)
}

/// Whether an operation is about what belongs to an account, so that not the operator alone may ask for it.
pub fn is_of_accounts(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        CreateState | ListStates | ShowState | DeleteState | ReadState | AttachState | DetachState
    )
}

/// Whether an operation moves events, so that a line of log for each would drown all others.
pub fn is_frequent(operation: Operation) -> bool {
    use Operation::*;
    matches!(
        operation,
        AppendEvents | ReadEvents | ReadBatch | AckBatch | NackBatch | ExtendBatch
    )
}

/// Whether an operation waits on behalf of its caller alone, so that it ends when the caller goes away.
pub fn ends_with_its_caller(operation: Operation) -> bool {
    matches!(operation, Operation::ReadEvents | Operation::ReadBatch)
}
