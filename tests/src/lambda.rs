//! A bare client of the Lambda API: it sends what it is told and hides nothing of the answer.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

use crate::{Artifact, patience};

const ACTIVE_MAX: Duration = Duration::from_secs(60);
const ROLE: &str = "arn:aws:iam::000000000000:role/test";

/// A client of one node.
#[derive(Clone)]
pub struct Lambda {
    endpoint: String,
    agent: Agent,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header's value, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The exception's name, empty for a success.
    pub fn error(&self) -> &str {
        self.header("x-amzn-errortype")
    }

    /// Fails unless the status is `expected`.
    pub fn expect(self, expected: u16) -> Result<Self> {
        if self.status != expected {
            let body = String::from_utf8_lossy(&self.body);
            bail!("expected {expected}, got {} {}: {body}", self.status, self.error());
        }
        Ok(self)
    }
}

impl Lambda {
    /// A client of the node at `endpoint`.
    pub fn new(endpoint: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        Self {
            endpoint: endpoint.to_owned(),
            agent: config.into(),
        }
    }

    /// Sends one request.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = if body.is_empty() && method != "POST" && method != "PUT" {
            self.agent.run(request.body(())?)
        } else {
            self.agent.run(request.body(body)?)
        };
        let response = sent.with_context(|| format!("no answer to `{method} {path}`"))?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(64 << 20).read_to_vec()?;
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    pub fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, &[], &[])
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.send("DELETE", path, &[], &[])
    }

    /// Creates a function and waits until it is active.
    pub fn deploy(&self, name: &str, artifact: &Artifact, settings: Value) -> Result<()> {
        self.create(name, artifact, settings)?.expect(201)?;
        self.wait_until_active(name)
    }

    /// Creates a function; `settings` go over what the artifact says.
    pub fn create(&self, name: &str, artifact: &Artifact, settings: Value) -> Result<Reply> {
        let mut body = json!({
            "FunctionName": name,
            "Runtime": artifact.runtime,
            "Handler": artifact.handler,
            "Role": ROLE,
            "Timeout": 30,
            "Code": { "ZipFile": BASE64_STANDARD.encode(&artifact.code) },
        });
        let fields = body.as_object_mut().expect("it was just made an object");
        fields.extend(settings.as_object().cloned().unwrap_or_default());
        self.post("/2015-03-31/functions", &body)
    }

    /// Waits until neither the function's state nor its last update is pending.
    pub fn wait_until_active(&self, name: &str) -> Result<()> {
        let path = format!("/2015-03-31/functions/{name}");
        let settled = patience::until(ACTIVE_MAX, || {
            let configuration = self.get(&path).ok()?.json()["Configuration"].clone();
            let settled = configuration["State"] != "Pending" && configuration["LastUpdateStatus"] != "InProgress";
            settled.then_some(configuration)
        });
        let configuration = settled.with_context(|| format!("`{name}` did not settle within {ACTIVE_MAX:?}"))?;
        if configuration["State"] != "Active" || configuration["LastUpdateStatus"] != "Successful" {
            bail!("`{name}` is not active: {configuration}");
        }
        Ok(())
    }

    /// Invokes a function, qualified or not, and gives the answer as it came.
    pub fn invoke(&self, name: &str, event: &Value) -> Result<Reply> {
        let (name, qualifier) = name.split_once(':').map_or((name, String::new()), |(name, qualifier)| {
            (name, format!("?Qualifier={qualifier}"))
        });
        let path = format!("/2015-03-31/functions/{name}/invocations{qualifier}");
        self.send(
            "POST",
            &path,
            &[("x-amz-log-type", "Tail")],
            event.to_string().as_bytes(),
        )
    }

    /// The names of all functions.
    pub fn functions(&self) -> Result<Vec<String>> {
        let list = self.get("/2015-03-31/functions")?.expect(200)?.json();
        let functions = list["Functions"].as_array().cloned().unwrap_or_default();
        Ok(functions
            .iter()
            .filter_map(|function| function["FunctionName"].as_str())
            .map(str::to_owned)
            .collect())
    }
}
