//! The product's own command line against a running node: deploy, invoke, list, remove.

use std::process::{Command, Output};

use anyhow::{Result, bail, ensure};
use bowline_tests::{Node, node, place, skip};
use serde_json::Value;

fn bowline(node: &Node, words: &[&str]) -> Result<Output> {
    let output = Command::new(node::binary()?)
        .args(words)
        .env("BOWLINE_ENDPOINT", node.endpoint())
        .output()?;
    Ok(output)
}

fn succeed(node: &Node, words: &[&str]) -> Result<String> {
    let output = bowline(node, words)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "`bowline {}` ended with {}: {text}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}

#[test]
fn a_python_file_is_deployed_invoked_and_removed() -> Result<()> {
    if !place::is_installed("python3") {
        skip("there is no python3");
        return Ok(());
    }
    let node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("greeter.py");
    std::fs::write(
        &source,
        "def handler(event, context):\n    print('greeting')\n    return {'hello': event['name']}\n",
    )?;
    succeed(&node, &["deploy", &source.to_string_lossy()])?;
    let answer: Value = serde_json::from_str(&succeed(&node, &["invoke", "greeter", "-d", r#"{"name": "ada"}"#])?)?;
    ensure!(answer["hello"] == "ada", "{answer}");
    let listed: Value = serde_json::from_str(&succeed(&node, &["functions", "ls", "--json"])?)?;
    ensure!(listed.to_string().contains("greeter"), "{listed}");
    let log = succeed(&node, &["logs", "greeter"])?;
    ensure!(log.contains("greeting") && log.contains("REPORT RequestId:"), "{log}");
    succeed(&node, &["functions", "rm", "greeter"])?;
    let gone = bowline(&node, &["invoke", "greeter"])?;
    ensure!(!gone.status.success(), "a removed function answered");
    ensure!(
        String::from_utf8_lossy(&gone.stderr).starts_with("error: "),
        "{:?}",
        gone
    );
    Ok(())
}

/// Runs `bowline invoke --local` on a Python file in an empty folder; no node runs.
fn invoke_locally(source: &str, words: &[&str]) -> Result<(Output, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("once.py"), source)?;
    let output = Command::new(node::binary()?)
        .args(["invoke", "--local", "once.py"])
        .args(words)
        .current_dir(folder.path())
        .env("BOWLINE_ENDPOINT", "http://127.0.0.1:1")
        .output()?;
    Ok((output, folder))
}

#[test]
fn a_file_is_invoked_once_without_a_node() -> Result<()> {
    if !place::is_installed("python3") {
        skip("there is no python3");
        return Ok(());
    }
    let source =
        "import os\ndef handler(event, context):\n    print('seen')\n    return [event, os.environ['SHADE']]\n";
    let (output, folder) = invoke_locally(source, &["-d", "7", "--env", "SHADE=blue"])?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{log}");
    ensure!(output.stdout == b"[7, \"blue\"]\n", "{output:?}");
    ensure!(log.contains("seen") && log.contains("REPORT RequestId:"), "{log}");
    let left: Vec<_> = std::fs::read_dir(folder.path())?.collect();
    ensure!(left.len() == 1, "more than the source is left: {left:?}");
    let (failed, _folder) = invoke_locally("def handler(event, context):\n    raise KeyError('no')\n", &[])?;
    ensure!(!failed.status.success(), "a failing function must fail the command");
    ensure!(
        String::from_utf8_lossy(&failed.stdout).contains("KeyError"),
        "{failed:?}"
    );
    Ok(())
}
