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
/// rest (`fail`, `break`), as `"type"` if that is given; `{"context": true}` answers with what the runtime was told
/// beside the event. An event of a URL is answered with its body if its path is `/answer`, fails if that is `/fail`,
/// and does what its body says if that is `/do`. Where nothing can be streamed the pieces are one answer.
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
        let mut event: serde_json::Value = serde_json::from_slice(&invocation.payload).unwrap_or_default();
        if event["rawPath"] == "/do" {
            event = serde_json::from_str(event["body"].as_str().unwrap_or_default()).unwrap_or_default();
        }
        if event["wait"] == true {
            self.waiting.add_permits(1);
            self.gate.acquire().await.expect("the gate is never closed").forget();
        }
        if let Some(words) = event["say"].as_str() {
            self.log.write(format!("{words}\n").as_bytes());
        }
        let path = event["rawPath"].as_str();
        let mut sink = invocation.sink.take();
        if let (Some(sink), Some(kind)) = (&mut sink, event["type"].as_str()) {
            sink.begin(kind);
        }
        let streamed = match (event["pieces"].as_array(), sink) {
            (Some(pieces), sink) => Some(self.stream(pieces, sink).await),
            _ => None,
        };
        let outcome = if event["break"] == true {
            Outcome::Broken("it broke".to_owned())
        } else if let Some(rest) = streamed.filter(|_| event["fail"] != true) {
            Outcome::Success(rest.into())
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
    /// Returns what could not be streamed.
    async fn stream(&self, pieces: &[serde_json::Value], mut sink: Option<AnswerSink>) -> String {
        let mut rest = String::new();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                self.waiting.add_permits(1);
                self.gate.acquire().await.expect("the gate is never closed").forget();
            }
            let piece = piece.as_str().unwrap_or_default();
            match &mut sink {
                Some(sink) => sink.send(piece.to_owned().into()).await.expect("it is small"),
                None => rest.push_str(piece),
            }
        }
        rest
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
