//! What the rest of the node calls about durable executions.

use bowline_foundation::clock::Timestamp;

use super::{Handle, InvocationRequest, InvocationResponse};
use crate::durable::{
    Callback, CheckpointAnswer, CheckpointRequest, CheckpointToken, ControlBody, Data, ErrorObject, EventView,
    ExecutionArn, ExecutionFilter, ExecutionName, ExecutionSummary, ExecutionView, OperationView, Paging, Part,
};
use crate::error::Error;
use crate::name::FunctionRef;

impl Handle {
    /// Starts an execution of this name and waits for its end; if there is one, begun with the same event, waits
    /// for that.
    pub async fn invoke_execution(
        &self,
        target: &FunctionRef,
        request: InvocationRequest,
        name: ExecutionName,
    ) -> Result<InvocationResponse, Error> {
        self.inner().invoke_durable(target, request, Some(name)).await
    }

    /// The same without waiting; once this returns, the execution is on disk.
    pub async fn accept_execution(
        &self,
        target: &FunctionRef,
        request: InvocationRequest,
        name: ExecutionName,
    ) -> Result<ExecutionArn, Error> {
        let (inner, target) = (self.inner().clone(), target.clone());
        self.finish(async move { inner.accept_durable(&target, request, Some(name)).await })
            .await
    }

    pub async fn execution(&self, arn: &ExecutionArn, data: Data) -> Result<ExecutionView, Error> {
        self.inner().execution(arn, data).await
    }

    /// Newest first, unless the filter says otherwise; of all versions if the target names none.
    pub async fn executions(
        &self,
        target: &FunctionRef,
        filter: &ExecutionFilter,
        paging: &Paging,
    ) -> Result<Part<ExecutionSummary>, Error> {
        self.inner().executions(target, filter, paging).await
    }

    pub async fn execution_history(
        &self,
        arn: &ExecutionArn,
        data: Data,
        newest_first: bool,
        paging: &Paging,
    ) -> Result<Part<EventView>, Error> {
        self.inner().execution_history(arn, data, newest_first, paging).await
    }

    /// What a function needs to go on; only for the holder of the present checkpoint token.
    pub async fn execution_state(
        &self,
        arn: &ExecutionArn,
        token: CheckpointToken,
        paging: &Paging,
    ) -> Result<Part<OperationView>, Error> {
        self.inner().execution_state(arn, token, paging).await
    }

    /// Applies a checkpoint whole or not at all; once this returns, it is on disk.
    pub async fn checkpoint(&self, arn: &ExecutionArn, request: CheckpointRequest) -> Result<CheckpointAnswer, Error> {
        let (inner, arn) = (self.inner().clone(), arn.clone());
        self.finish(async move { inner.checkpoint(&arn, request).await }).await
    }

    /// Ends an execution; returns when it was stopped. Stopping a stopped one changes nothing.
    pub async fn stop_execution(&self, arn: &ExecutionArn, error: Option<ErrorObject>) -> Result<Timestamp, Error> {
        let (inner, arn) = (self.inner().clone(), arn.clone());
        self.finish(async move { inner.stop_execution(&arn, error).await })
            .await
    }

    pub async fn pause_execution(&self, arn: &ExecutionArn, body: ControlBody) -> Result<(), Error> {
        let (inner, arn) = (self.inner().clone(), arn.clone());
        self.finish(async move { inner.pause_execution(&arn, body).await })
            .await
    }

    pub async fn resume_execution(&self, arn: &ExecutionArn, body: ControlBody) -> Result<(), Error> {
        let (inner, arn) = (self.inner().clone(), arn.clone());
        self.finish(async move { inner.resume_execution(&arn, body).await })
            .await
    }

    /// Removes an execution that is over; returns when that was accepted.
    pub async fn delete_execution(&self, arn: &ExecutionArn) -> Result<Timestamp, Error> {
        let (inner, arn) = (self.inner().clone(), arn.clone());
        self.finish(async move { inner.delete_execution(&arn).await }).await
    }

    pub async fn complete_callback(&self, id: &str, verdict: Callback) -> Result<(), Error> {
        let (inner, id) = (self.inner().clone(), id.to_owned());
        self.finish(async move { inner.complete_callback(&id, verdict).await })
            .await
    }
}
