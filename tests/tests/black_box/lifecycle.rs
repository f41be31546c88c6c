//! The whole life of a function in each runtime, through boto3 and through the AWS CLI.

use anyhow::Result;
use bowline_tests::artifact::zip_of;
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, place, skip};
use serde_json::{Value, json};

/// What a function is invoked with, and what must come of it.
struct Expectation {
    event: Value,
    /// Stands in the answer.
    answer: &'static str,
    /// Makes the function fail, and what then stands in the error.
    failure: Option<(Value, &'static str)>,
}

/// Puts `artifact` through the whole life, with `second` as its later code.
fn live(name: &str, artifact: &Artifact, second: &Artifact, expectation: &Expectation) -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("second");
    std::fs::create_dir(&other)?;
    let (fail, fail_expect) = match &expectation.failure {
        Some((event, text)) => (event.clone(), *text),
        None => (Value::Null, ""),
    };
    let case = json!({
        "name": name,
        "runtime": artifact.runtime,
        "handler": artifact.handler,
        "zip": artifact.write_to(folder.path())?,
        "zip2": second.write_to(&other)?,
        "event": expectation.event,
        "expect": expectation.answer,
        "fail": fail,
        "fail_expect": fail_expect,
    });
    python.run_script("lifecycle.py", &node.endpoint(), &[&case.to_string()])
}

/// The same package with one more file in it, so that its digest differs.
fn altered(artifact: &Artifact) -> Result<Artifact> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&artifact.code))?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let mut content = Vec::new();
        std::io::copy(&mut file, &mut content)?;
        files.push((file.name()?.into_owned(), content));
    }
    files.push(("NOTE".to_owned(), b"the second version".to_vec()));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    Ok(Artifact {
        code: zip_of(&files)?,
        ..artifact.clone()
    })
}

fn live_altered(name: &str, artifact: &Artifact, expectation: &Expectation) -> Result<()> {
    live(name, artifact, &altered(artifact)?, expectation)
}

#[test]
fn a_python_function_lives_its_whole_life() -> Result<()> {
    if !place::is_installed("python3") {
        skip("there is no python3");
        return Ok(());
    }
    let expectation = Expectation {
        event: json!({"name": "ada"}),
        answer: "\"echo\": {\"name\": \"ada\"}",
        failure: Some((json!({"do": "fail"}), "as you wish")),
    };
    live_altered("snake", &Artifact::python()?, &expectation)
}

#[test]
fn a_node_function_lives_its_whole_life() -> Result<()> {
    if !place::is_installed("node") {
        skip("there is no node");
        return Ok(());
    }
    let expectation = Expectation {
        event: json!({"name": "ada"}),
        answer: "\"echo\":{\"name\":\"ada\"}",
        failure: Some((json!({"do": "fail"}), "as you wish")),
    };
    live_altered("script", &Artifact::node()?, &expectation)
}

#[test]
fn a_wasm_reactor_lives_its_whole_life() -> Result<()> {
    let expectation = Expectation {
        event: json!({"name": "ada"}),
        answer: "hello, ada",
        failure: Some((json!({"name": ""}), "NobodyThere")),
    };
    live_altered("reactor", &Artifact::reactor()?, &expectation)
}

#[test]
fn a_wasm_command_lives_its_whole_life() -> Result<()> {
    let expectation = Expectation {
        event: json!({"name": "ada"}),
        answer: "ada",
        failure: None,
    };
    live_altered("command", &Artifact::command()?, &expectation)
}

#[test]
fn a_wasm_component_lives_its_whole_life() -> Result<()> {
    let event = json!({
        "version": "2.0",
        "rawPath": "/hello",
        "rawQueryString": "name=ada",
        "queryStringParameters": {"name": "ada"},
        "headers": {"host": "example.test"},
        "requestContext": {"http": {"method": "GET", "path": "/hello", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}},
        "isBase64Encoded": false,
    });
    let expectation = Expectation {
        event,
        answer: "GET /hello?name=ada",
        failure: None,
    };
    live_altered("component", &Artifact::component()?, &expectation)
}

#[test]
fn a_native_function_lives_its_whole_life() -> Result<()> {
    let expectation = Expectation {
        event: json!({"name": "ada"}),
        answer: "ada",
        failure: None,
    };
    live_altered("native", &Artifact::native()?, &expectation)
}

#[test]
fn the_aws_command_line_walks_through_a_functions_life() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so the AWS CLI cannot be had");
        return Ok(());
    };
    let node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let artifact = Artifact::python()?;
    let zip = artifact.write_to(folder.path())?;
    python.run_script(
        "command_line.py",
        &node.endpoint(),
        &[&artifact.runtime, &artifact.handler, &zip.to_string_lossy()],
    )
}

#[test]
fn the_public_python_runtime_client_works_unchanged() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3");
        return Ok(());
    };
    let node = Node::start()?;
    python.run_script("public_client.py", &node.endpoint(), &[])
}
