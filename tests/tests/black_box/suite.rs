//! A foreign suite, written for another implementation of the same interface.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::python::Python;
use bowline_tests::{Node, place, skip, suite};

use crate::sources::Services;

/// The regions that the suite's tests are in; a node is in one.
const REGIONS: [&str; 5] = ["us-west-2", "us-east-1", "us-east-2", "us-west-1", "ap-southeast-1"];
/// So many of its tests pass, at least: the control of the exclusions.
const PASSED_MIN: usize = 79;

#[test]
fn the_suite_of_another_implementation_passes() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so the suite cannot be run");
        return Ok(());
    };
    let tests = suite::find(&python)?;
    let services = Services::start(&python, None)?;
    let mut nodes = Vec::new();
    for region in REGIONS {
        nodes.push((region, node_in(region, &services)?));
    }
    let addresses = nodes
        .iter()
        .map(|(region, node)| format!("{region}={}", node.endpoint()));
    let addresses = addresses.collect::<Vec<_>>().join(",");
    let own = place::root().join("tests/python/suite");
    let output = python
        .command("python", &services.endpoint)
        .args(["-m", "pytest", "-p", "on_node", "-p", "no:cacheprovider", "-q", "-rs"])
        .args([
            "tests/test_awslambda",
            "--ignore",
            "tests/test_awslambda/test_awslambda_cloudformation.py",
        ])
        .env_remove("AWS_ENDPOINT_URL")
        .env("PYTHONPATH", format!("{}:{}", own.display(), tests.display()))
        .env("AWS_DEFAULT_REGION", REGIONS[0])
        .env("TEST_SERVER_MODE", "true")
        .env("TEST_SERVER_MODE_ENDPOINT", &services.endpoint)
        .env("NODES", addresses)
        .env("EXCLUSIONS", own.join("exclusions.txt"))
        .current_dir(&tests)
        .output()?;
    let passed = passed(&output)?;
    println!("{passed} tests of the suite pass");
    ensure!(passed >= PASSED_MIN, "only {passed} tests pass, not {PASSED_MIN}");
    Ok(())
}

/// How many tests have passed, if none has failed.
fn passed(output: &Output) -> Result<usize> {
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary = text.lines().last().unwrap_or_default();
    println!("{summary}");
    let words: Vec<&str> = summary.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| *word == "passed");
    let count = at.and_then(|at| words[..at].last()).context("no summary")?;
    Ok(count.parse()?)
}

fn node_in(region: &str, services: &Services) -> Result<Node> {
    let variable = |name: &str, value: &str| (name.into(), value.into());
    Node::start_with(Settings {
        environment: vec![
            variable("BOWLINE_REGION", region),
            variable("BOWLINE_S3_ENDPOINT", &services.endpoint),
            variable("BOWLINE_SQS_ENDPOINT", &services.endpoint),
            variable("AWS_ACCESS_KEY_ID", "123456789012"),
            variable("AWS_SECRET_ACCESS_KEY", "any"),
        ],
        ..Settings::default()
    })
}
