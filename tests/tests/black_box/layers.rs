//! Layers through boto3 and real sandboxes.

use anyhow::Result;
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, place, skip};

#[test]
fn functions_have_layers() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let node = Node::start()?;
    let script = match place::is_installed("node") {
        true => Artifact::node()?.runtime,
        false => "-".to_owned(),
    };
    let runtime = Artifact::python()?.runtime;
    python.run_script("layers.py", &node.endpoint(), &[&runtime, &script])
}
