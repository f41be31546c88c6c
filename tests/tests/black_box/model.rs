//! What boto3's service model says, held against the node: every operation, and the shape of every answer.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use anyhow::{Context, Result};
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, skip};

/// The status of a process that got an answer which the model does not know.
const FAULTY: i32 = 70;

fn python() -> Result<Option<Python>> {
    let found = Python::find()?;
    if found.is_none() {
        skip("there is no python3, so boto3 cannot be had");
    }
    Ok(found)
}

#[test]
fn every_operation_of_the_model_is_known() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let node = Node::start()?;
    python.run_script("routes.py", &node.endpoint(), &[])
}

#[test]
fn every_tier_one_operation_paginator_and_waiter_works() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let node = Node::start()?;
    let made = node
        .lambda()
        .post("/v1/streams", &serde_json::json!({ "name": "orders" }))?;
    anyhow::ensure!(made.status < 300, "no stream: {made:?}");
    run_with_a_package(&python, "tier_one.py", &node)
}

#[test]
fn terraforms_reads_and_retries_find_what_they_look_for() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    run_with_a_package(&python, "terraform.py", &Node::start()?)
}

fn run_with_a_package(python: &Python, script: &str, node: &Node) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let artifact = Artifact::python()?;
    let zip = artifact.write_to(folder.path())?.to_string_lossy().into_owned();
    python.run_script(script, &node.endpoint(), &[&artifact.runtime, &artifact.handler, &zip])
}

#[test]
fn control_each_way_to_be_wrong_is_found() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    python.run_script("wire_control.py", "http://127.0.0.1:1", &[])
}

/// A script that is content with a wrong answer fails all the same, and with a right one it does not.
#[test]
fn control_a_wrong_answer_fails_whatever_got_it() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let node = Node::start()?;
    python.run_script("wire_fault.py", &node.endpoint(), &[])?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let server = std::thread::spawn(move || answer_wrongly(&listener));
    let output = python.command("python", &endpoint).arg("wire_fault.py").output()?;
    server.join().expect("the server does not panic")?;
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("the client is content"), "{out}{error}");
    assert!(error.contains("AccountMood is not in the model"), "{error}");
    assert_eq!(output.status.code(), Some(FAULTY), "{out}{error}");
    Ok(())
}

/// One answer with a member that the model lacks.
fn answer_wrongly(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept().context("no request")?;
    let mut request = [0; 8192];
    let _ = stream.read(&mut request)?;
    let body = r#"{"AccountLimit": {}, "AccountUsage": {}, "AccountMood": "fine"}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-amzn-requestid: id\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{body}",
        body.len()
    );
    Ok(stream.write_all(answer.as_bytes())?)
}
