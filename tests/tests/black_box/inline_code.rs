//! A request has the identifier of code, or a copy of it, and comes by HTTP, by the command line, or as an event.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bowline_tests::artifact::zip_of;
use bowline_tests::{Artifact, Node, node, patience};
use serde_json::{Value, json};

const WAIT_MAX: Duration = Duration::from_secs(60);
const STREAM: &str = "arn:bowline:stream:us-east-1:000000000000:results";

/// The code that all routes run, be it the function's own or the request's.
const DOUBLES: &[u8] = b"import os
def handler(event, context):
    return {'doubled': 2 * event['number'], 'memory': os.environ['AWS_LAMBDA_FUNCTION_MEMORY_SIZE']}
";

/// Some other code: what a function has that lets requests bring theirs.
const OTHER: &[u8] = b"def handler(event, context):\n    return {'other': event}\n";

/// How a request comes.
#[derive(Clone, Copy, Debug)]
enum Route {
    Http,
    CommandLine,
    Event,
}

struct Bench {
    node: Node,
    folder: tempfile::TempDir,
}

impl Bench {
    /// A node with a function that has the code, and one that takes it from its requests.
    fn new() -> Result<Self> {
        let bench = Self {
            node: Node::start()?,
            folder: tempfile::tempdir()?,
        };
        let lambda = bench.node.lambda();
        lambda.post("/v1/streams", &json!({ "name": "results" }))?.expect(201)?;
        lambda.deploy("named", &Artifact::python_source(DOUBLES)?, json!({"MemorySize": 192}))?;
        let takes = json!({"MemorySize": 192, "Environment": {"Variables": {"BOWLINE_CODE": "request"}}});
        lambda.deploy("takes", &Artifact::python_source(OTHER)?, takes)?;
        for name in ["named", "takes"] {
            let path = format!("/2019-09-25/functions/{name}/event-invoke-config");
            let body = json!({"DestinationConfig": {"OnSuccess": {"Destination": STREAM}}});
            lambda.put(&path, &body)?.expect(200)?;
        }
        std::fs::write(bench.source(), DOUBLES)?;
        Ok(bench)
    }

    fn source(&self) -> std::path::PathBuf {
        self.folder.path().join("app.py")
    }

    /// What a request says, by the name of the function that has the code, or with a copy of it.
    fn ask(&self, route: Route, has_copy: bool, event: &Value) -> Result<Value> {
        let name = if has_copy { "takes" } else { "named" };
        let brought = match has_copy {
            true => brought(DOUBLES, event)?,
            false => event.clone(),
        };
        match route {
            Route::Http => Ok(self.node.lambda().invoke(name, &brought)?.expect(200)?.json()),
            Route::CommandLine => self.command_line(name, has_copy.then(|| self.source()).as_deref(), event),
            Route::Event => self.event(name, &brought),
        }
    }

    fn command_line(&self, name: &str, code: Option<&Path>, event: &Value) -> Result<Value> {
        let mut command = Command::new(node::binary()?);
        command.args(["invoke", name, "-d", &event.to_string()]);
        if let Some(code) = code {
            command.arg("--code").arg(code);
        }
        let output = command.env("BOWLINE_ENDPOINT", self.node.endpoint()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Sends an event that nobody waits for, and waits for its outcome.
    fn event(&self, name: &str, event: &Value) -> Result<Value> {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        let headers = [("x-amz-invocation-type", "Event")];
        let before = self.outcomes()?.len();
        let lambda = self.node.lambda();
        lambda
            .send("POST", &path, &headers, event.to_string().as_bytes())?
            .expect(202)?;
        let outcome = patience::until(WAIT_MAX, || self.outcomes().ok()?.get(before).cloned());
        Ok(outcome.context("the event has no outcome")?["responsePayload"].clone())
    }

    fn outcomes(&self) -> Result<Vec<Value>> {
        let page = self
            .node
            .lambda()
            .get("/v1/streams/results/events")?
            .expect(200)?
            .json();
        let events = page["events"].as_array().context("no events")?;
        let bodies = events.iter().map(|event| event["body"].as_str().unwrap_or_default());
        Ok(bodies.map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

/// An event that brings its code.
fn brought(source: &[u8], event: &Value) -> Result<Value> {
    brought_as("app.py", source, event)
}

fn brought_as(file: &str, source: &[u8], event: &Value) -> Result<Value> {
    let code = BASE64_STANDARD.encode(zip_of(&[(file, source)])?);
    Ok(json!({"bowline:code": code, "bowline:event": event}))
}

/// 05/T-E17: a copy of the code, or its identifier, by HTTP, by the command line, as an event: six routes, one result.
#[test]
fn e_t17_a_copy_and_an_identifier_give_the_same_by_every_route() -> Result<()> {
    let bench = Bench::new()?;
    for route in [Route::Http, Route::CommandLine, Route::Event] {
        for has_copy in [false, true] {
            let answer = bench.ask(route, has_copy, &json!({"number": 21}))?;
            let wanted = json!({"doubled": 42, "memory": "192"});
            ensure!(answer == wanted, "{route:?}, with a copy: {has_copy}: {answer}");
        }
    }
    // What came with a request is gone with it: the function is what it was.
    let own = bench
        .node
        .lambda()
        .invoke("takes", &json!({"number": 21}))?
        .expect(200)?;
    ensure!(own.json() == json!({"other": {"number": 21}}), "{}", own.json());
    Ok(())
}

/// The control: a function whose owner has not said so runs its own code, whatever its request brings; and code that is
/// none is refused by name.
#[test]
fn e_t17_control_code_is_taken_where_the_owner_lets_it_and_as_it_must_be() -> Result<()> {
    let bench = Bench::new()?;
    let lambda = bench.node.lambda();
    let own = lambda.invoke("named", &brought(OTHER, &json!({}))?)?.expect(200)?;
    ensure!(
        own.header("x-amz-function-error") == "Unhandled",
        "it knows no `number`: {}",
        own.json()
    );
    let none = json!({"bowline:code": BASE64_STANDARD.encode(b"none"), "bowline:event": {}});
    let refused = lambda.invoke("takes", &none)?;
    ensure!(refused.status == 400, "{} {}", refused.status, refused.json());
    // A package without the function's module is one that cannot begin, as it would be if it were the function's own.
    let strange = lambda
        .invoke("takes", &brought_as("other.py", OTHER, &json!({}))?)?
        .expect(200)?;
    ensure!(
        strange.json()["errorType"] == "Runtime.ImportModuleError",
        "{}",
        strange.json()
    );
    Ok(())
}
