//! A backend whose functions do what their event says.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_sandbox::{
    AnswerSink, Backend, CreateError, FunctionError, Invocation, LogSink, Outcome, PrepareError, Report, Sandbox,
    SandboxKind, Usage, VersionSpec,
};
use bytes::Bytes;
use tokio::sync::Semaphore;

/// Echoes events. `{"fail": true}` fails, `{"say": "x"}` logs x, `{"wait": true}` waits for the gate,
/// `{"pieces": ["a", "b"]}` streams them, waiting for the gate before each but the first, and then does the
/// rest (`fail`, `break`); `{"context": true}` answers with what the runtime was told beside the event. An
/// event of a URL is answered with its body if its path is `/answer`, and fails if that is `/fail`.
pub struct Scripted {
    pub gate: Arc<Semaphore>,
    /// One permit for each invocation that began to wait.
    pub waiting: Arc<Semaphore>,
}

struct ScriptedSandbox {
    gate: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    log: Arc<dyn LogSink>,
}

#[async_trait]
impl Backend for Scripted {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Wasm
    }

    async fn check(&self, _version: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn prepare(&self, _version: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn create(&self, _version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        Ok(Box::new(ScriptedSandbox {
            gate: Arc::clone(&self.gate),
            waiting: Arc::clone(&self.waiting),
            log,
        }))
    }
}

#[async_trait]
impl Sandbox for ScriptedSandbox {
    async fn invoke(&mut self, mut invocation: Invocation) -> Report {
        let event: serde_json::Value = serde_json::from_slice(&invocation.payload).unwrap_or_default();
        if event["wait"] == true {
            self.waiting.add_permits(1);
            self.gate.acquire().await.expect("the gate is never closed").forget();
        }
        if let Some(words) = event["say"].as_str() {
            self.log.write(format!("{words}\n").as_bytes());
        }
        let path = event["rawPath"].as_str();
        let streamed = match (event["pieces"].as_array(), invocation.sink.take()) {
            (Some(pieces), Some(sink)) => {
                self.stream(pieces, sink).await;
                true
            }
            _ => false,
        };
        let outcome = if event["break"] == true {
            Outcome::Broken("it broke".to_owned())
        } else if streamed && event["fail"] != true {
            Outcome::Success(Bytes::new())
        } else if event["fail"] == true || path == Some("/fail") {
            Outcome::Failed(FunctionError::new("Sad", "it failed"))
        } else if path == Some("/answer") {
            Outcome::Success(event["body"].as_str().unwrap_or_default().to_owned().into())
        } else if event["context"] == true {
            Outcome::Success(context(&invocation))
        } else {
            Outcome::Success(invocation.payload)
        };
        Report {
            outcome,
            usage: Usage::default(),
            reusable: true,
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(self: Box<Self>) {}
}

impl ScriptedSandbox {
    async fn stream(&self, pieces: &[serde_json::Value], mut sink: AnswerSink) {
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                self.gate.acquire().await.expect("the gate is never closed").forget();
            }
            let piece = piece.as_str().unwrap_or_default().to_owned();
            sink.send(piece.into()).await.expect("it is small");
        }
    }
}

fn context(invocation: &Invocation) -> Bytes {
    let seen = serde_json::json!({
        "arn": invocation.invoked_arn,
        "client": invocation.client_context,
        "trace": invocation.trace_id,
        "request": invocation.request_id.to_string(),
    });
    seen.to_string().into()
}
