//! A data folder that is used with one store and then with another.

use std::fs;

use anyhow::{Result, ensure};
use bowline_tests::{Artifact, Node};
use serde_json::json;

use crate::mounted_state::{call, can_run, move_store};

/// The packages that a node keeps.
fn packages(node: &Node) -> usize {
    let entries = fs::read_dir(node.data().join("blobs")).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.count()
}

#[test]
fn a_store_that_knows_nothing_of_a_nodes_functions_has_none_of_their_code_removed() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut node = Node::start()?;
    let source =
        |text: &str| Artifact::python_source(format!("def handler(event, context):\n    return '{text}'").as_bytes());
    let answers = |node: &Node, name: &str| call(&node.lambda(), name, &json!({}));
    node.lambda().deploy("first", &source("one")?, json!({}))?;
    let stray = node.data().join("blobs").join("ab".repeat(32));
    node.kill()?;
    fs::write(&stray, b"of a creation that was cut off")?;
    node.start_again()?;
    ensure!(
        !stray.exists(),
        "control: as long as there is one store, what it does not name goes"
    );
    let aside = tempfile::tempdir()?;
    node.kill()?;
    move_store(&node.data(), aside.path())?;
    node.start_again()?;
    ensure!(
        node.lambda().invoke("first", &json!({}))?.status == 404,
        "it has never heard of it"
    );
    node.lambda().deploy("second", &source("two")?, json!({}))?;
    let both = packages(&node);
    ensure!(both == 2, "there are {both} packages");
    node.lambda().delete("/2015-03-31/functions/second")?.expect(200)?;
    for _ in 0..2 {
        node.kill()?;
        node.start_again()?;
        ensure!(packages(&node) == both, "a package is gone");
    }
    let other = tempfile::tempdir()?;
    node.kill()?;
    move_store(&node.data(), other.path())?;
    move_store(aside.path(), &node.data())?;
    node.start_again()?;
    ensure!(answers(&node, "first")? == "one", "its code is there");
    Ok(())
}
