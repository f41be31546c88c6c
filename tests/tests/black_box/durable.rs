//! Durable executions by the public SDK for Python and without it, through boto3; and across kill -9.

use anyhow::Result;
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, node_packages, skip};
use serde_json::json;

fn python() -> Result<Option<Python>> {
    let python = Python::find()?;
    if python.is_none() {
        skip("there is no python3, so the durable execution SDK cannot run");
    }
    Ok(python)
}

#[test]
fn the_public_sdk_works_unchanged() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_string_lossy().into_owned();
    python.run_script("durable.py", &node.endpoint(), &["all", &folder])
}

#[test]
fn the_public_sdk_for_node_works_unchanged() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let Some(packages) = node_packages::of("durable", &["@aws/durable-execution-sdk-js@2.4.0"])? else {
        skip("the durable execution SDK for Node.js cannot be had: npm is missing, or cannot install it");
        return Ok(());
    };
    let node = Node::start()?;
    let runtime = Artifact::node()?.runtime;
    let folder = packages.to_string_lossy();
    python.run_script("durable.py", &node.endpoint(), &["node", &folder, &runtime])
}

#[test]
fn executions_go_on_after_kill_9() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_string_lossy().into_owned();
    python.run_script("durable.py", &node.endpoint(), &["before", &folder])?;
    node.kill()?;
    node.start_again()?;
    python.run_script("durable.py", &node.endpoint(), &["after", &folder])
}

/// A WebAssembly function has no network: it answers with the envelope alone.
#[test]
fn a_wasm_function_answers_with_the_envelope() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    let durable = json!({"DurableConfig": {"ExecutionTimeout": 60}});
    lambda
        .create(
            "f",
            &Artifact::answering(r#"{"Status":"SUCCEEDED","Result":"[7]"}"#)?,
            durable.clone(),
        )?
        .expect(201)?;
    lambda
        .create("g", &Artifact::answering(r#"{"hello":"world"}"#)?, durable)?
        .expect(201)?;
    for name in ["f", "g"] {
        lambda.wait_until_active(name)?;
    }
    let path = |name: &str| format!("/2015-03-31/functions/{name}/invocations?Qualifier=%24LATEST");
    let good = lambda.post(&path("f"), &json!({}))?.expect(200)?;
    assert_eq!(good.json(), json!([7]));
    assert!(
        good.header("x-amz-durable-execution-arn")
            .contains(":f:$LATEST/durable-execution/")
    );
    let bad = lambda.post(&path("g"), &json!({}))?.expect(200)?;
    assert_eq!(bad.header("x-amz-function-error"), "Unhandled");
    assert_eq!(bad.json()["errorType"], "InvalidParameterValueException");
    Ok(())
}
