//! The way of a durable function to the platform: two operations, on the execution it works on.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_functions::Handle;
use bowline_functions::durable::{ExecutionArn, Guests};
use bowline_sandbox::{Platform, PlatformRequest, PlatformResponse};
use bytes::Bytes;

use super::checkpoint;
use crate::error::{ApiError, Exception};
use crate::route::{self, Operation};

/// Answers functions; see [`Options::guests`](bowline_functions::durable::Options::guests).
pub struct GuestWire {
    functions: Handle,
}

struct OneExecution {
    functions: Handle,
    arn: ExecutionArn,
}

impl GuestWire {
    pub fn make(functions: Handle) -> Arc<dyn Guests> {
        Arc::new(Self { functions })
    }
}

impl Guests for GuestWire {
    fn of(&self, execution: &ExecutionArn) -> Arc<dyn Platform> {
        Arc::new(OneExecution {
            functions: self.functions.clone(),
            arn: execution.clone(),
        })
    }
}

impl OneExecution {
    async fn answer(&self, request: &PlatformRequest) -> Result<Bytes, ApiError> {
        let route = route::resolve(&request.method, &request.target)?;
        let operation = route.operation;
        if !matches!(
            operation,
            Operation::CheckpointDurableExecution | Operation::GetDurableExecutionState
        ) {
            return Err(ApiError::new(
                Exception::AccessDenied,
                format!(
                    "A function may not perform lambda:{} from within its sandbox.",
                    operation.name()
                ),
            ));
        }
        let arn = super::arn(&route.resource)?;
        if arn != self.arn {
            let text = "A function may work only on the execution that it was invoked for.";
            return Err(ApiError::new(Exception::AccessDenied, text));
        }
        match operation {
            Operation::CheckpointDurableExecution => checkpoint::made(&self.functions, &arn, &request.body).await,
            _ => checkpoint::state_of(&self.functions, &arn, route.query).await,
        }
    }
}

#[async_trait]
impl Platform for OneExecution {
    async fn ask(&self, request: PlatformRequest) -> PlatformResponse {
        match self.answer(&request).await {
            Ok(body) => PlatformResponse {
                status: 200,
                exception: None,
                body,
            },
            Err(error) => {
                if let Some(cause) = error.cause() {
                    tracing::error!(execution = %self.arn, error = ?cause, "a function's request failed");
                }
                let (status, exception, body) = error.parts();
                PlatformResponse {
                    status: status.as_u16(),
                    exception: Some(exception.into()),
                    body,
                }
            }
        }
    }
}
