//! Streamed answers of the real node: public clients, slow readers, readers that go away, the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::artifact::zip_of;
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, node, patience, place, skip};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// Streams `pieces`, pausing before each but the first, then fails if asked to.
const NODE_STREAM: &str = r#"
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  for (const [index, piece] of event.pieces.entries()) {
    if (index > 0) await pause(event.pause ?? 0);
    stream.write(piece);
  }
  if (event.fail) throw new RangeError('in the middle');
  stream.end();
});
"#;

fn case(event: Value, contains: &str) -> Value {
    json!({"event": event, "contains": contains, "bytes": contains.len(), "error": null, "gap": 0})
}

fn with(mut case: Value, name: &str, value: Value) -> Value {
    case[name] = value;
    case
}

/// Puts a function through its cases with boto3.
fn stream(name: &str, artifact: &Artifact, environment: Value, cases: &[Value]) -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let case = json!({
        "name": name,
        "runtime": artifact.runtime,
        "handler": artifact.handler,
        "zip": artifact.write_to(folder.path())?,
        "environment": environment,
        "cases": cases,
    });
    python.run_script("streaming.py", &node.endpoint(), &[&case.to_string()])
}

#[test]
fn boto3_streams_a_wasm_command() -> Result<()> {
    let good = case(json!({"name": "ada"}), r#"{"message":"hello, ada"}"#);
    stream("command", &Artifact::command()?, json!({}), &[good])
}

#[test]
fn boto3_streams_a_wasm_component() -> Result<()> {
    let event = json!({
        "rawPath": "/knots", "headers": {"host": "example.test"}, "body": "x".repeat(60_000),
        "requestContext": {"http": {"method": "PUT", "path": "/knots"}}, "isBase64Encoded": false,
    });
    // A head of JSON with the status, eight zero bytes, the body; Invoke wraps the same body in JSON.
    let good = with(case(event, "PUT /knots"), "bytes", json!(60_000));
    stream("component", &Artifact::component()?, json!({}), &[good])
}

#[test]
fn boto3_streams_a_wasm_reactor_that_answers_in_one_piece() -> Result<()> {
    let good = case(json!({"name": "ada"}), "hello, ada");
    let bad = with(case(json!({"name": ""}), ""), "error", json!("NobodyThere"));
    stream("reactor", &Artifact::reactor()?, json!({}), &[good, bad])
}

#[test]
fn boto3_streams_a_node_function() -> Result<()> {
    if !place::is_installed("node") {
        skip("there is no node");
        return Ok(());
    }
    let good = case(json!({"pieces": ["one ", "two ", "three"]}), "one two three");
    let slow = json!({"pieces": ["early", "late"], "pause": 1500});
    let slow = with(case(slow, "earlylate"), "gap", json!(1.0));
    let bad = with(
        case(json!({"pieces": ["half"], "fail": true}), "half"),
        "error",
        json!("RangeError"),
    );
    let artifact = Artifact::node_source(NODE_STREAM.as_bytes())?;
    stream("script", &artifact, json!({}), &[good, slow, bad])
}

#[test]
fn boto3_streams_a_function_over_the_public_rust_client() -> Result<()> {
    let Some(artifact) = Artifact::public_rust_client()? else {
        skip("the public Rust client cannot be built here");
        return Ok(());
    };
    let small = case(json!({"pieces": 3, "bytes": 5}), "\0\0\0\0\0\0\0\0xxxxxxxxxxxxxxx");
    let large = with(
        case(json!({"pieces": 80, "bytes": 65_536}), "statusCode"),
        "bytes",
        json!(80 << 16),
    );
    stream("native", &artifact, json!({"STREAM": "1"}), &[small, large])
}

/// A command that writes 64 KiB so many times.
fn writer(times: u32) -> Result<Artifact> {
    let module = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 3)
        (func (export "_start") (local $left i32)
            (i32.store (i32.const 0) (i32.const 65536))
            (i32.store (i32.const 4) (i32.const 65536))
            (local.set $left (i32.const {times}))
            (loop $again
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#
    );
    let module = wat::parse_str(module)?;
    Ok(Artifact::provided(zip_of(&[("bootstrap.wasm", &module)])?))
}

/// Begins a streamed invocation and reads no further than the head of the answer.
fn begin(node: &Node, name: &str, event: &Value) -> Result<BufReader<TcpStream>> {
    let mut connection = TcpStream::connect(node.address())?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let event = event.to_string();
    write!(
        connection,
        "POST /2021-11-15/functions/{name}/response-streaming-invocations HTTP/1.1\r\nHost: {}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{event}",
        node.address(),
        event.len()
    )?;
    let mut reader = BufReader::with_capacity(1024, connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "the answer begins with `{line}`");
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    Ok(reader)
}

#[test]
fn a_slow_reader_holds_the_guest_back_and_the_node_stays_small() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("flood", &writer(1600)?, json!({"Timeout": 60}))?;
    // Once to its end: the control, and whatever the node needs for it is there.
    let mut answer = begin(&node, "flood", &json!({}))?;
    let bytes = std::io::copy(&mut answer, &mut std::io::sink())?;
    ensure!(bytes > 1600 * 65_536, "only {bytes} bytes came");
    let before = node.resident_bytes()?;
    let mut answer = begin(&node, "flood", &json!({}))?;
    let limit = before + 16 * 1024 * 1024;
    let grown = patience::until(Duration::from_secs(2), || {
        node.resident_bytes().ok().filter(|bytes| *bytes > limit)
    });
    ensure!(grown.is_none(), "the node grew from {before} to {grown:?} bytes");
    let bytes = std::io::copy(&mut answer, &mut std::io::sink())?;
    ensure!(bytes > 1600 * 65_536, "only {bytes} bytes came to the slow reader");
    Ok(())
}

#[test]
fn a_reader_that_goes_away_stops_no_invocation() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("flood", &writer(1600)?, json!({"Timeout": 60}))?;
    let limit = json!({"ReservedConcurrentExecutions": 1});
    lambda
        .put("/2017-10-31/functions/flood/concurrency", &limit)?
        .expect(200)?;
    let mut answer = begin(&node, "flood", &json!({}))?;
    answer.read_exact(&mut [0; 1000])?;
    let invoke = || lambda.invoke("flood", &json!({}));
    ensure!(
        invoke()?.status == 429,
        "the control: the invocation waits for its reader"
    );
    drop(answer);
    // The whole answer of the next one is too large, which it can only be if it may run.
    let next = patience::until(PATIENCE, || invoke().ok().filter(|reply| reply.status == 200));
    next.context("the abandoned invocation never ended")?;
    Ok(())
}

#[test]
fn the_command_line_prints_as_it_comes() -> Result<()> {
    if !place::is_installed("node") {
        skip("there is no node");
        return Ok(());
    }
    let node = Node::start()?;
    let artifact = Artifact::node_source(NODE_STREAM.as_bytes())?;
    node.lambda().deploy("script", &artifact, json!({"Timeout": 30}))?;
    let run = |event: &Value| {
        Command::new(node::binary()?)
            .args(["invoke", "--stream", "--tail", "script", "--endpoint", &node.endpoint()])
            .args(["--data", &event.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("the command does not start")
    };
    let mut child = run(&json!({"pieces": ["early", "late"], "pause": 3000}))?;
    let mut first = [0; 5];
    let out = child.stdout.as_mut().context("it has an output")?;
    out.read_exact(&mut first)?;
    ensure!(
        &first == b"early" && child.try_wait()?.is_none(),
        "it printed before the end"
    );
    let output = child.wait_with_output()?;
    ensure!(output.status.success() && output.stdout == b"late", "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("REPORT RequestId: "),
        "{output:?}"
    );

    let output = run(&json!({"pieces": ["half"], "fail": true}))?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && output.stdout == b"half", "{output:?}");
    ensure!(said.contains("RangeError") && said.contains("in the middle"), "{said}");
    Ok(())
}
