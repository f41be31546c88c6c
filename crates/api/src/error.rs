//! Refusals as Lambda's clients know them: the exception's name, the status, and the key its message
//! has in the body.

use bowline_functions::error::{Error, Throttle};
use bowline_functions::name::InvalidName;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;
use crate::reply;
use crate::route::{Operation, RouteError};

/// Seconds a throttled caller is asked to wait.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// The exceptions this node raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    AccessDenied,
    CallbackTimeout,
    CodeSigningConfigNotFound,
    CodeStorageExceeded,
    DurableExecutionAlreadyStarted,
    EfsMountFailure,
    IncompleteSignature,
    InvalidParameterValue,
    InvalidRequestContent,
    InvalidRuntime,
    InvalidSignature,
    InvalidZipFile,
    MissingAuthenticationToken,
    PolicyLengthExceeded,
    PreconditionFailed,
    ProvisionedConcurrencyConfigNotFound,
    RequestEntityTooLarge,
    RequestTooLarge,
    ResourceConflict,
    ResourceNotFound,
    Serialization,
    Service,
    ServiceUnavailable,
    TooManyRequests,
    UnknownOperation,
    UnrecognizedClient,
    Validation,
}

impl Exception {
    /// The status, and the name in `x-amzn-ErrorType`.
    pub fn told(self) -> (StatusCode, &'static str) {
        let (status, name, _) = self.shape();
        (status, name)
    }

    /// The status, the name in `x-amzn-ErrorType`, and whether the body's key is `Message`.
    fn shape(self) -> (StatusCode, &'static str, bool) {
        const LOWER: bool = false;
        const UPPER: bool = true;
        match self {
            Self::AccessDenied => (StatusCode::FORBIDDEN, "AccessDeniedException", UPPER),
            Self::CallbackTimeout => (StatusCode::BAD_REQUEST, "CallbackTimeoutException", UPPER),
            Self::CodeSigningConfigNotFound => (StatusCode::NOT_FOUND, "CodeSigningConfigNotFoundException", UPPER),
            Self::CodeStorageExceeded => (StatusCode::BAD_REQUEST, "CodeStorageExceededException", LOWER),
            Self::DurableExecutionAlreadyStarted => {
                (StatusCode::CONFLICT, "DurableExecutionAlreadyStartedException", UPPER)
            }
            Self::EfsMountFailure => (StatusCode::FORBIDDEN, "EFSMountFailureException", UPPER),
            Self::IncompleteSignature => (StatusCode::FORBIDDEN, "IncompleteSignatureException", LOWER),
            Self::InvalidParameterValue => (StatusCode::BAD_REQUEST, "InvalidParameterValueException", LOWER),
            Self::InvalidRequestContent => (StatusCode::BAD_REQUEST, "InvalidRequestContentException", LOWER),
            Self::InvalidRuntime => (StatusCode::BAD_GATEWAY, "InvalidRuntimeException", UPPER),
            Self::InvalidSignature => (StatusCode::FORBIDDEN, "InvalidSignatureException", LOWER),
            Self::InvalidZipFile => (StatusCode::BAD_GATEWAY, "InvalidZipFileException", UPPER),
            Self::MissingAuthenticationToken => (StatusCode::FORBIDDEN, "MissingAuthenticationTokenException", LOWER),
            Self::PolicyLengthExceeded => (StatusCode::BAD_REQUEST, "PolicyLengthExceededException", LOWER),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "PreconditionFailedException", LOWER),
            Self::ProvisionedConcurrencyConfigNotFound => (
                StatusCode::NOT_FOUND,
                "ProvisionedConcurrencyConfigNotFoundException",
                LOWER,
            ),
            Self::RequestEntityTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", LOWER),
            Self::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", LOWER),
            Self::ResourceConflict => (StatusCode::CONFLICT, "ResourceConflictException", LOWER),
            Self::ResourceNotFound => (StatusCode::NOT_FOUND, "ResourceNotFoundException", UPPER),
            Self::Serialization => (StatusCode::BAD_REQUEST, "SerializationException", UPPER),
            Self::Service => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", UPPER),
            // The name that clients know, with a status that all of them try again.
            Self::ServiceUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", UPPER),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", LOWER),
            Self::UnknownOperation => (StatusCode::NOT_FOUND, "UnknownOperationException", UPPER),
            Self::UnrecognizedClient => (StatusCode::FORBIDDEN, "UnrecognizedClientException", LOWER),
            Self::Validation => (StatusCode::BAD_REQUEST, "ValidationException", LOWER),
        }
    }
}

/// A refusal on its way to the caller.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    exception: Exception,
    message: String,
    /// Which limit throttled the caller.
    reason: Option<&'static str>,
    /// For the node's log only.
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    #[serde(rename = "Type")]
    fault: &'a str,
    #[serde(rename = "Message", skip_serializing_if = "Option::is_none")]
    upper: Option<&'a str>,
    #[serde(rename = "message", skip_serializing_if = "Option::is_none")]
    lower: Option<&'a str>,
    #[serde(rename = "Reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl ApiError {
    /// A refusal of one kind with the text the caller sees.
    pub fn new(exception: Exception, message: impl Into<String>) -> Self {
        Self {
            exception,
            message: message.into(),
            reason: None,
            cause: None,
        }
    }

    /// `InvalidParameterValueException`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Exception::InvalidParameterValue, message)
    }

    /// `ResourceNotFoundException` for something that functions may have and none here has.
    pub fn no_such_resource() -> Self {
        Self::new(
            Exception::ResourceNotFound,
            "The resource you requested does not exist.",
        )
    }

    /// For a body of more than `bytes_max` bytes: the model has a name of its own for invocations.
    pub fn too_large(operation: Operation, bytes_max: usize) -> Self {
        let exception = match operation {
            Operation::Invoke | Operation::InvokeWithResponseStream => Exception::RequestTooLarge,
            _ => Exception::RequestEntityTooLarge,
        };
        Self::new(
            exception,
            format!(
                "Request must be smaller than {bytes_max} bytes for the {} operation",
                operation.action()
            ),
        )
    }

    /// What went wrong inside the node, if that is why.
    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        self.cause.as_deref()
    }

    /// Package faults are the caller's when a package is uploaded, and the service's when it is run.
    pub fn on_upload(self) -> Self {
        let exception = match self.exception {
            Exception::InvalidZipFile | Exception::InvalidRuntime => Exception::InvalidParameterValue,
            other => other,
        };
        Self { exception, ..self }
    }

    /// The refusal's status, its name and its body.
    pub fn parts(&self) -> (StatusCode, &'static str, Bytes) {
        let (status, name, upper) = self.exception.shape();
        let body = ErrorBody {
            fault: if status.is_server_error() { "Service" } else { "User" },
            upper: upper.then_some(&self.message),
            lower: (!upper).then_some(&self.message),
            reason: self.reason,
        };
        let body = serde_json::to_vec(&body).expect("texts always serialise");
        (status, name, body.into())
    }

    /// The answer that carries the refusal.
    pub fn response(&self) -> Response<Body> {
        let (status, name, body) = self.parts();
        let mut response = reply::json_bytes(status, body);
        let headers = response.headers_mut();
        headers.insert(reply::ERROR_TYPE, HeaderValue::from_static(name));
        if self.exception == Exception::TooManyRequests {
            headers.insert(http::header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let exception = match &error {
            Error::AlreadyStarted(_) => Exception::DurableExecutionAlreadyStarted,
            Error::CallbackTimeout(_) => Exception::CallbackTimeout,
            Error::InvalidParameter(_) | Error::Durable => Exception::InvalidParameterValue,
            Error::InvalidRequestContent(_) => Exception::InvalidRequestContent,
            Error::Validation(_) => Exception::Validation,
            Error::AccessDenied(_) => Exception::AccessDenied,
            Error::CodeStorageExceeded(_) => Exception::CodeStorageExceeded,
            Error::PolicyLengthExceeded(_) => Exception::PolicyLengthExceeded,
            Error::NotFound(_) => Exception::ResourceNotFound,
            Error::ProvisionedNotFound(_) => Exception::ProvisionedConcurrencyConfigNotFound,
            Error::Conflict(_) => Exception::ResourceConflict,
            Error::PreconditionFailed(_) => Exception::PreconditionFailed,
            Error::RequestTooLarge(_) => Exception::RequestTooLarge,
            Error::Throttled(_) | Error::MountBusy(_) => Exception::TooManyRequests,
            Error::MountFailed(_) => Exception::EfsMountFailure,
            Error::InvalidRuntime(_) => Exception::InvalidRuntime,
            Error::InvalidZip(_) => Exception::InvalidZipFile,
            Error::Lost(_) | Error::Away(_) => Exception::ServiceUnavailable,
            Error::Service(_) => Exception::Service,
        };
        let message = error.to_string();
        let reason = match &error {
            Error::Throttled(Throttle::AccountConcurrency | Throttle::Memory) | Error::MountBusy(_) => {
                Some("ConcurrentInvocationLimitExceeded")
            }
            Error::Throttled(Throttle::ReservedConcurrency) => {
                Some("ReservedFunctionConcurrentInvocationLimitExceeded")
            }
            Error::Throttled(Throttle::EventQueue) => Some("CallerRateLimitExceeded"),
            _ => None,
        };
        let cause = match error {
            Error::Service(cause) => Some(cause),
            _ => None,
        };
        Self {
            exception,
            message,
            reason,
            cause,
        }
    }
}

impl From<InvalidName> for ApiError {
    fn from(invalid: InvalidName) -> Self {
        Error::from(invalid).into()
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Unknown | RouteError::Method => Self::new(
                Exception::UnknownOperation,
                "The requested operation is not recognized by the service.",
            ),
            RouteError::Encoding => Self::new(Exception::Serialization, error.to_string()),
        }
    }
}
