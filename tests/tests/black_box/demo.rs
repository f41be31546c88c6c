//! The demonstration: every example builds, deploys and answers.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::node::binary;
use serde_json::Value;

/// What no machine lacks that can build the project.
const NEVER_SKIPPED: [&str; 3] = ["rust-hello", "rust-command", "rust-http"];

#[test]
fn the_demo_shows_every_example() -> Result<()> {
    let output = Command::new(binary()?).args(["demo", "--once", "--json"]).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let shown: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    ensure!(shown["right"] == true, "{shown}");
    let rows = shown["functions"].as_array().context("no list of examples")?;
    for row in rows {
        match row["outcome"].as_str() {
            Some("answered") => ensure!(row["right"] == true, "{row}"),
            Some("skipped") => println!("SKIPPED: {row}"),
            _ => bail!("{row}"),
        }
    }
    for name in NEVER_SKIPPED {
        let answered = |row: &Value| row["function"] == name && row["outcome"] == "answered";
        ensure!(rows.iter().any(answered), "`{name}` did not answer: {shown}");
    }
    Ok(())
}
