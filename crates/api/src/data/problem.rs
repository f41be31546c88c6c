//! The one error map of this wire: which failure has which code and status.
//!
//! A refusal is a problem document (RFC 9457) with `code`, which never changes its meaning, `status`,
//! `title`, `detail` for people, `retry`, and what the caller needs to go on, such as `available`.

use bowline_functions::suspend::Refused;
use bowline_store::objects::{ChangeError, CreateError as ObjectCreateError, GetError, QueryError, StoreError};
use bowline_stream::session::{
    CreateError as SessionCreateError, DeleteError, ParkingError, ReadError as SessionReadError, SeekError,
    SettleError, ShowError,
};
use bowline_stream::{AlterError, AppendError, CreateError, ListError, ReadError};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::Body;
use crate::reply;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $status:ident $text:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }

            /// The code on the wire.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    InvalidBody BAD_REQUEST "invalid_body";
    InvalidIdentifier BAD_REQUEST "invalid_identifier";
    InvalidParameter BAD_REQUEST "invalid_parameter";
    UnknownParameter BAD_REQUEST "unknown_parameter";
    InvalidFilter BAD_REQUEST "invalid_filter";
    /// A configuration file that cannot be read; the detail names the line and the column.
    InvalidFile BAD_REQUEST "invalid_file";
    NotInSet BAD_REQUEST "not_in_batch";
    /// The request is not signed as it must be.
    NotAuthenticated FORBIDDEN "not_authenticated";
    /// A page of another site asks, or an account that may not.
    Forbidden FORBIDDEN "forbidden";
    /// The node's own streams are read, not written.
    ReservedName FORBIDDEN "reserved_name";
    /// No operation has this path.
    NotFound NOT_FOUND "not_found";
    NoSuchStream NOT_FOUND "no_such_stream";
    NoSuchSession NOT_FOUND "no_such_session";
    NoSuchObject NOT_FOUND "no_such_object";
    NoSuchInstance NOT_FOUND "no_such_instance";
    NoSuchFile NOT_FOUND "no_such_file";
    NotParked NOT_FOUND "not_parked";
    NoSuchState NOT_FOUND "no_such_state";
    NoSuchEntry NOT_FOUND "no_such_entry";
    NoSuchFunction NOT_FOUND "no_such_function";
    NoSuchCheckpoint NOT_FOUND "no_such_checkpoint";
    NoSuchNode NOT_FOUND "no_such_node";
    UnknownStore NOT_FOUND "unknown_store";
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed";
    StreamExists CONFLICT "stream_exists";
    InstanceExists CONFLICT "instance_exists";
    FileInUse CONFLICT "file_in_use";
    /// This node cannot make what is asked for.
    Infeasible CONFLICT "infeasible";
    StreamInUse CONFLICT "stream_in_use";
    StateExists CONFLICT "state_exists";
    StateInUse CONFLICT "state_in_use";
    TokenReused CONFLICT "token_reused";
    StaleToken CONFLICT "stale_token";
    ParkingFull CONFLICT "parking_full";
    /// The invocation does not run here.
    NotRunning CONFLICT "not_running";
    NotSuspended CONFLICT "not_suspended";
    /// No checkpoint could be taken or kept; the invocation goes on.
    NotKept CONFLICT "not_kept";
    /// The invocation needs what this node does not have, and stays suspended.
    Unfit CONFLICT "unfit";
    /// The invocation goes on as it did.
    NotMoved CONFLICT "not_moved";
    NoRoom CONFLICT "no_room";
    Contended CONFLICT "contended";
    SessionExpired GONE "session_expired";
    Trimmed GONE "trimmed";
    VersionMismatch PRECONDITION_FAILED "version_mismatch";
    TooLarge PAYLOAD_TOO_LARGE "too_large";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type";
    Overloaded TOO_MANY_REQUESTS "overloaded";
    /// Nothing was done; the same request may succeed later.
    Unavailable SERVICE_UNAVAILABLE "unavailable";
    /// Done or not, unknown; the same request with the same token or event identifiers is safe.
    OutcomeUnknown GATEWAY_TIMEOUT "outcome_unknown";
    Damaged INTERNAL_SERVER_ERROR "damaged";
    Internal INTERNAL_SERVER_ERROR "internal";
}

impl Code {
    fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Contended | Self::Overloaded | Self::Unavailable | Self::OutcomeUnknown
        )
    }
}

/// A refusal on its way to the caller.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    pub code: Code,
    detail: String,
    /// Of `trimmed`: the position from which events are left.
    available: Option<String>,
    /// Of `version_mismatch`: the version that the object has.
    version: Option<u64>,
    /// Of `method_not_allowed`: what the path takes.
    allow: Option<String>,
}

/// A refusal.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemView<'a> {
    /// What went wrong, for programs; a code never changes its meaning.
    code: &'a str,
    /// The HTTP status.
    status: u16,
    /// The status in words.
    title: &'a str,
    /// What went wrong, for people.
    detail: &'a str,
    /// Whether the same request may succeed later.
    retry: bool,
    /// Of `trimmed`: the position from which events are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<&'a str>,
    /// Of `version_mismatch`: the version that the object has.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            available: None,
            version: None,
            allow: None,
        }
    }

    fn of(code: Code, error: &impl std::fmt::Display) -> Self {
        Self::new(code, error.to_string())
    }

    /// `invalid_identifier` for something in the path or the body that names nothing.
    pub fn identifier(error: impl std::fmt::Display) -> Self {
        Self::of(Code::InvalidIdentifier, &error)
    }

    /// `method_not_allowed` with the methods there are.
    pub fn method(allowed: String) -> Self {
        Self {
            allow: Some(allowed.clone()),
            ..Self::new(Code::MethodNotAllowed, format!("this path takes {allowed}"))
        }
    }

    /// `trimmed` with the position from which events are left.
    pub fn trimmed(available: bowline_stream::Position, error: &impl std::fmt::Display) -> Self {
        Self {
            available: Some(available.to_string()),
            ..Self::of(Code::Trimmed, error)
        }
    }

    /// Whether the node, not the request, is the reason.
    pub fn is_internal(&self) -> bool {
        self.code.status() == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// The document as bytes.
    pub fn document(&self) -> Vec<u8> {
        let status = self.code.status();
        let view = ProblemView {
            code: self.code.text(),
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            detail: &self.detail,
            retry: self.code.is_retryable(),
            available: self.available.as_deref(),
            version: self.version,
        };
        serde_json::to_vec(&view).expect("a problem has string keys")
    }

    /// The answer that carries the refusal.
    pub fn response(&self) -> Response<Body> {
        let mut response = reply::json_bytes(self.code.status(), self.document().into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, MEDIA_TYPE);
        headers.insert(reply::ERROR_TYPE, HeaderValue::from_static(self.code.text()));
        if self.code.is_retryable() {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| allow.parse().ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let code = match &error {
            AppendError::NoSuchStream(_) => Code::NoSuchStream,
            AppendError::TooLarge { .. } => Code::TooLarge,
            AppendError::Empty => Code::InvalidBody,
            AppendError::Overloaded(_) => Code::Overloaded,
            AppendError::Unavailable { .. } | AppendError::ClockSkew(_) | AppendError::Fenced => Code::Unavailable,
            AppendError::Unknown { .. } => Code::OutcomeUnknown,
            AppendError::Damaged { .. } => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        let code = match &error {
            Refused::NoSuchRun(_) | Refused::NoCheckpoint(_) => Code::NoSuchCheckpoint,
            Refused::NotRunning(_) => Code::NotRunning,
            Refused::NotSuspended(_) => Code::NotSuspended,
            Refused::NotKept { .. } => Code::NotKept,
            Refused::Unfit { .. } => Code::Unfit,
            Refused::NoSuchNode(_) => Code::NoSuchNode,
            Refused::NoCluster | Refused::NobodyFits { .. } | Refused::NotTaken { .. } => Code::NotMoved,
            Refused::Contended(_) => Code::Contended,
            Refused::Unavailable(_) => Code::Unavailable,
        };
        Self::of(code, &error)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::NoSuchStream(_) => Self::of(Code::NoSuchStream, &error),
            ReadError::Trimmed { available, .. } => Self::trimmed(*available, &error),
            ReadError::Unavailable { .. } => Self::of(Code::Unavailable, &error),
            ReadError::Damaged { .. } => Self::of(Code::Damaged, &error),
        }
    }
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        let code = match &error {
            CreateError::Exists { .. } => Code::StreamExists,
            CreateError::Unavailable { .. } | CreateError::Fenced => Code::Unavailable,
            CreateError::Unknown { .. } => Code::OutcomeUnknown,
        };
        Self::of(code, &error)
    }
}

impl From<AlterError> for Problem {
    fn from(error: AlterError) -> Self {
        let code = match &error {
            AlterError::NoSuchStream(_) => Code::NoSuchStream,
            AlterError::Unavailable { .. } => Code::Unavailable,
            AlterError::Unknown { .. } => Code::OutcomeUnknown,
            AlterError::Damaged { .. } => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        Self::of(Code::Unavailable, &error)
    }
}

impl From<SessionCreateError> for Problem {
    fn from(error: SessionCreateError) -> Self {
        use bowline_stream::session::InvalidSettings;
        let code = match &error {
            SessionCreateError::Invalid(InvalidSettings::Filter(_)) => Code::InvalidFilter,
            SessionCreateError::Invalid(_) => Code::InvalidBody,
            SessionCreateError::NoSuchStream(_) => Code::NoSuchStream,
            SessionCreateError::TokenReused(_) => Code::TokenReused,
            SessionCreateError::RetryLater(_) => Code::Unavailable,
            SessionCreateError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<SessionReadError> for Problem {
    fn from(error: SessionReadError) -> Self {
        let code = match &error {
            SessionReadError::Trimmed { next_available } => return Self::trimmed(*next_available, &error),
            SessionReadError::Invalid(_) => Code::InvalidBody,
            SessionReadError::NoSuchSession(_) => Code::NoSuchSession,
            SessionReadError::Gone(_) => Code::SessionExpired,
            SessionReadError::NoSuchStream(_) => Code::NoSuchStream,
            SessionReadError::StaleToken(_) => Code::StaleToken,
            SessionReadError::RetryLater(_) => Code::Unavailable,
            SessionReadError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<SettleError> for Problem {
    fn from(error: SettleError) -> Self {
        let code = match &error {
            SettleError::NoSuchSession(_) => Code::NoSuchSession,
            SettleError::StaleToken(_) => Code::StaleToken,
            SettleError::NotInSet(_) => Code::NotInSet,
            SettleError::TooLong { .. } => Code::InvalidBody,
            SettleError::ParkingFull(_) => Code::ParkingFull,
            SettleError::RetryLater(_) => Code::Unavailable,
            SettleError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<SeekError> for Problem {
    fn from(error: SeekError) -> Self {
        let code = match &error {
            SeekError::NoSuchSession(_) => Code::NoSuchSession,
            SeekError::Gone(_) => Code::SessionExpired,
            SeekError::NoSuchStream(_) => Code::NoSuchStream,
            SeekError::RetryLater(_) => Code::Unavailable,
            SeekError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<ShowError> for Problem {
    fn from(error: ShowError) -> Self {
        let code = match &error {
            ShowError::NoSuchSession(_) => Code::NoSuchSession,
            ShowError::RetryLater(_) => Code::Unavailable,
            ShowError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<DeleteError> for Problem {
    fn from(error: DeleteError) -> Self {
        let code = match &error {
            DeleteError::NoSuchSession(_) => Code::NoSuchSession,
            DeleteError::RetryLater(_) => Code::Unavailable,
            DeleteError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

impl From<ParkingError> for Problem {
    fn from(error: ParkingError) -> Self {
        let code = match &error {
            ParkingError::NoSuchSession(_) => Code::NoSuchSession,
            ParkingError::Gone(_) => Code::SessionExpired,
            ParkingError::NotParked(_) => Code::NotParked,
            ParkingError::NoRoom { .. } => Code::NoRoom,
            ParkingError::RetryLater(_) => Code::Unavailable,
            ParkingError::Damaged(_) => Code::Damaged,
        };
        Self::of(code, &error)
    }
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Unknown(_) => Code::UnknownStore,
        StoreError::Unavailable { .. } => Code::Unavailable,
        StoreError::Record { .. } => Code::Damaged,
    }
}

impl From<ObjectCreateError> for Problem {
    fn from(error: ObjectCreateError) -> Self {
        let code = match &error {
            ObjectCreateError::Invalid(_) => Code::InvalidBody,
            ObjectCreateError::Unavailable(_) => Code::Unavailable,
            ObjectCreateError::Unknown(_) => Code::OutcomeUnknown,
            ObjectCreateError::Store(error) => store_code(error),
        };
        Self::of(code, &error)
    }
}

impl From<GetError> for Problem {
    fn from(error: GetError) -> Self {
        let code = match &error {
            GetError::NotFound => Code::NoSuchObject,
            GetError::Invalid(_) => Code::InvalidParameter,
            GetError::Store(error) => store_code(error),
        };
        Self::of(code, &error)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let code = match &error {
            ChangeError::NotFound => Code::NoSuchObject,
            ChangeError::Version { actual, .. } => {
                return Self {
                    version: Some(*actual),
                    ..Self::of(Code::VersionMismatch, &error)
                };
            }
            ChangeError::Invalid(_) => Code::InvalidBody,
            ChangeError::Contended => Code::Contended,
            ChangeError::Unknown(_) => Code::OutcomeUnknown,
            ChangeError::Store(error) => store_code(error),
        };
        Self::of(code, &error)
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let code = match &error {
            QueryError::Invalid(_) => Code::InvalidParameter,
            QueryError::Store(error) => store_code(error),
        };
        Self::of(code, &error)
    }
}
