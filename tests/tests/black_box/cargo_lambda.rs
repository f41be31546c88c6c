//! `cargo lambda`: a program over the public Rust runtime client is deployed, invoked and deployed anew.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use bowline_tests::artifact::{public_rust_program, public_rust_project};
use bowline_tests::python::Python;
use bowline_tests::{Node, skip};
use serde_json::{Value, json};

const ROLE: &str = "arn:aws:iam::123456789012:role/any";

/// The tool, speaking to one node.
struct Tool<'a> {
    python: &'a Python,
    node: &'a Node,
}

impl Tool<'_> {
    fn run(&self, command: &str, words: &[&str]) -> Result<Output> {
        let endpoint = self.node.endpoint();
        let mut tool = self.python.command("cargo-lambda", &endpoint);
        tool.args(["lambda", command, "--endpoint-url", &endpoint])
            .args(words)
            .current_dir(public_rust_project());
        tool.output().context("cannot run `cargo-lambda`")
    }

    fn succeed(&self, command: &str, words: &[&str]) -> Result<Value> {
        let output = self.run(command, words)?;
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(output.status.success(), "`{command} {words:?}`: {out}{error}");
        // What it does comes first, in lines of its own.
        let document = out.find('{').map_or("", |at| &out[at..]);
        serde_json::from_str(document).with_context(|| format!("`{command}` printed no JSON: {out}{error}"))
    }
}

#[test]
fn a_program_is_deployed_invoked_and_deployed_anew() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so cargo-lambda cannot be had");
        return Ok(());
    };
    let Some(program) = public_rust_program()? else {
        skip("the crates of the public Rust client cannot be had");
        return Ok(());
    };
    let program = program.to_str().context("a path of text")?;
    let node = Node::start()?;
    let tool = Tool {
        python: &python,
        node: &node,
    };
    let deploy = [
        "--binary-path",
        program,
        "--role",
        ROLE,
        "--alias",
        "live",
        "--output-format",
        "json",
    ];
    let first = [
        "--enable-function-url",
        "--memory",
        "256",
        "--tag",
        "team=knots",
        "greeter",
    ];
    let made = tool.succeed("deploy", &[&deploy[..], &first].concat())?;
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:greeter";
    ensure!(
        made["function_arn"] == arn && made["version"] == "1" && made["alias"] == "live",
        "{made}"
    );

    // It grants both permissions that its URL needs.
    let url = made["function_url"].as_str().context("no URL")?;
    let id = url.trim_start_matches("http://").split('.').next().unwrap_or_default();
    let called = node.lambda().send("GET", &format!("/lambda-url/{id}/"), &[], &[])?;
    ensure!(called.expect(200)?.json()["name"] == "greeter");

    let invoke = ["--remote", "--output-format", "json", "--data-ascii"];
    let event = json!({ "knot": "bowline" });
    let text = event.to_string();
    for alias in [&[][..], &["--alias", "live"]] {
        let words = [&invoke[..], &[&*text], alias, &["greeter"]].concat();
        let answer = tool.succeed("invoke", &words)?;
        ensure!(answer["event"] == event && answer["name"] == "greeter", "{answer}");
    }
    let failed = tool.run(
        "invoke",
        &[&invoke[..], &[r#"{"fail": "as you wish"}"#, "greeter"]].concat(),
    )?;
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(!failed.status.success() && told.contains("as you wish"), "{failed:?}");

    let again = ["--memory", "512", "--description", "the second", "greeter"];
    let updated = tool.succeed("deploy", &[&deploy[..], &again].concat())?;
    ensure!(updated["function_arn"] == format!("{arn}:2"), "{updated}");
    let owner = [("authorization", "AWS4-HMAC-SHA256 Credential=123456789012/any")];
    let shown = node
        .lambda()
        .send("GET", "/2015-03-31/functions/greeter:live", &owner, &[])?;
    let shown = shown.expect(200)?.json();
    let configuration = &shown["Configuration"];
    ensure!(configuration["MemorySize"] == 512, "the alias stayed behind: {shown}");
    ensure!(shown["Tags"]["team"] == "knots", "{shown}");
    Ok(())
}
