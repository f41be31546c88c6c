//! Turns the ways a guest can end into what its caller sees.

use bowline_foundation::id::RequestId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{FunctionError, Outcome};
use wasmtime::{Error, PoolConcurrencyLimitError, Trap};

use crate::preview1::Exit;

/// The guest ended itself with an error of its own, through the SDK.
#[derive(Debug, thiserror::Error)]
#[error("the guest failed: {}", .0.error_type)]
pub(crate) struct GuestFailure(pub(crate) FunctionError);

/// The guest broke the rules of the SDK's interface.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProtocolViolation(pub(crate) &'static str);

/// What is known of the guest when it failed.
pub(crate) struct Scene {
    pub(crate) request_id: RequestId,
    pub(crate) memory: Mebibytes,
    pub(crate) memory_refused: bool,
}

impl Scene {
    /// The outcome of an invocation that ended with `error`.
    pub(crate) fn outcome(&self, error: Error) -> Outcome {
        if is_exhaustion(&error) {
            return Outcome::Broken(format!("no room for another WebAssembly instance: {error}"));
        }
        Outcome::Failed(self.function_error(error))
    }

    /// The function error for `error`.
    pub(crate) fn function_error(&self, error: Error) -> FunctionError {
        let error = match error.downcast::<GuestFailure>() {
            Ok(GuestFailure(error)) => return error,
            Err(error) => error,
        };
        if let Some(exit) = error.downcast_ref::<Exit>() {
            return FunctionError::exited(self.request_id, &exit.to_string());
        }
        if self.memory_refused {
            return out_of_memory(self.request_id, self.memory);
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return FunctionError::exited(self.request_id, &format!("trap: {trap}"));
        }
        FunctionError::exited(self.request_id, &format!("{:#}", error))
    }
}

/// Whether the engine has no slot left.
pub(crate) fn is_exhaustion(error: &Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
}

fn out_of_memory(request_id: RequestId, limit: Mebibytes) -> FunctionError {
    let message = format!(
        "RequestId: {request_id} Error: Runtime ran out of memory: the limit is {} MB",
        limit.0
    );
    FunctionError::new("Runtime.OutOfMemory", &message)
}
