//! A durable function that runs a small program by checkpoints, as an SDK would.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_functions::Handle;
use bowline_functions::durable::{
    CheckpointBody, CheckpointRequest, Data, ExecutionArn, OperationStatus, OperationType, Paging,
};
use serde_json::{Value, json};

use crate::fake::{DurableGuest, Fake, PATIENCE};

/// Lets the durable functions of a backend run programs.
pub fn serve(fake: &Fake, handle: &Handle) {
    let handle = handle.clone();
    let guest: DurableGuest = Arc::new(move |event| {
        let handle = handle.clone();
        Box::pin(async move { run(&handle, event).await })
    });
    fake.durable.send_replace(Some(guest));
}

struct Run<'a> {
    handle: &'a Handle,
    arn: ExecutionArn,
    token: String,
}

impl Run<'_> {
    /// Makes a checkpoint; an error is the function's answer.
    async fn checkpoint(&mut self, updates: Value) -> Result<Value, Value> {
        let body = json!({ "CheckpointToken": self.token, "Updates": updates });
        let body: CheckpointBody = serde_json::from_value(body).unwrap();
        let failed = |error: bowline_functions::error::Error| {
            let text = error.to_string();
            if text.starts_with("Invalid checkpoint token") {
                return json!({ "Status": "PENDING" });
            }
            json!({ "Status": "FAILED", "Error": { "ErrorMessage": text } })
        };
        let request = CheckpointRequest::read(body).map_err(failed)?;
        let answer = self.handle.checkpoint(&self.arn, request).await.map_err(failed)?;
        match answer.token {
            Some(token) => self.token = token.to_string(),
            None => return Err(json!({ "Status": "PENDING" })),
        }
        let failed = answer.news.items.iter().find(|view| {
            view.operation.kind == OperationType::ChainedInvoke && view.operation.status == OperationStatus::Failed
        });
        Ok(failed
            .and_then(|view| view.error.as_ref())
            .map_or(Value::Null, |error| serde_json::from_str(error.get()).unwrap()))
    }
}

async fn run(handle: &Handle, event: Value) -> Value {
    let operations = event["InitialExecutionState"]["Operations"].as_array().unwrap().clone();
    let input = operations[0]["ExecutionDetails"]["InputPayload"].as_str().unwrap();
    let input: Value = serde_json::from_str(input).unwrap();
    let mut run = Run {
        handle,
        arn: event["DurableExecutionArn"].as_str().unwrap().parse().unwrap(),
        token: event["CheckpointToken"].as_str().unwrap().to_owned(),
    };
    match lines(&mut run, &input["program"], &operations).await {
        Ok(results) => json!({ "Status": "SUCCEEDED", "Result": json!(results).to_string() }),
        Err(answer) => answer,
    }
}

async fn lines(run: &mut Run<'_>, program: &Value, operations: &[Value]) -> Result<Vec<Value>, Value> {
    let pending = || Err(json!({ "Status": "PENDING" }));
    let mut results = Vec::new();
    for (at, line) in program.as_array().into_iter().flatten().enumerate() {
        let id = format!("l{at}");
        let known = operations.iter().find(|operation| operation["Id"] == id.as_str());
        let status = known.map_or("", |operation| operation["Status"].as_str().unwrap());
        if status == "SUCCEEDED" {
            let known = known.unwrap();
            let details = ["StepDetails", "CallbackDetails", "ChainedInvokeDetails", "WaitDetails"];
            let result = details.iter().find_map(|details| known.get(details)?.get("Result"));
            results.push(result.cloned().unwrap_or_default());
            continue;
        }
        if line == "step" || line.get("large").is_some() {
            let fresh = format!("{at}-{:016x}", Entropy::system().number());
            let result = line["large"].as_u64().map_or(fresh, |bytes| "x".repeat(bytes as usize));
            if status.is_empty() {
                run.checkpoint(json!([{ "Id": id, "Type": "STEP", "Action": "START" }]))
                    .await?;
            }
            let end = json!([{ "Id": id, "Type": "STEP", "Action": "SUCCEED", "Payload": result }]);
            run.checkpoint(end).await?;
            results.push(result.into());
            continue;
        }
        if !status.is_empty() {
            return pending();
        }
        let begin = match line.get("chain") {
            Some(function) => json!({
                "Id": id, "Type": "CHAINED_INVOKE", "Action": "START",
                "Payload": line.get("event").cloned().unwrap_or_else(|| json!({})).to_string(),
                "ChainedInvokeOptions": { "FunctionName": function },
            }),
            None if line == "wait" => {
                json!({ "Id": id, "Type": "WAIT", "Action": "START", "WaitOptions": { "WaitSeconds": 1 } })
            }
            None => json!({ "Id": id, "Type": "CALLBACK", "Action": "START" }),
        };
        let error = run.checkpoint(json!([begin])).await?;
        if !error.is_null() {
            return Err(json!({ "Status": "FAILED", "Error": error }));
        }
        return pending();
    }
    Ok(results)
}

/// Waits until an execution has a callback; returns its id.
pub async fn callback_id(handle: &Handle, arn: &ExecutionArn) -> String {
    let looking = async {
        loop {
            let found = handle
                .execution_history(arn, Data::Left, false, &Paging::default())
                .await
                .unwrap();
            let id = found.items.iter().find_map(|view| view.event.facts.callback_id.clone());
            if let Some(id) = id {
                return id;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("a callback begins")
}
