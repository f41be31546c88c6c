//! What is measured: release builds of the node and of the reference, and the functions they run.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use bowline_tests::artifact::zip_of;
use bowline_tests::sign::Key;
use bowline_tests::{Artifact, Node};

use super::progress;
use crate::{fuzz, shell};

/// The builds.
pub struct Subjects {
    pub node: PathBuf,
    reference: PathBuf,
    /// The sandbox crate's own measurement.
    pub instantiate: PathBuf,
    /// The checkpoint crate's own measurement.
    pub checkpoint: PathBuf,
    /// The measurement of virtual machines.
    pub vm: PathBuf,
    /// Loads streams and their peers.
    pub stream_load: PathBuf,
}

impl Subjects {
    /// Builds them in release mode.
    pub fn build() -> Result<Self> {
        progress("building the node and the reference server");
        // One command for the whole workspace: a selection of packages has other features, and builds the
        // WebAssembly engine once more.
        let build = ["build", "--release", "--quiet", "--workspace"];
        let programs = ["--bin", "bowline", "--bin", "reference-server"];
        let examples = ["instantiate_bench", "checkpoint_bench", "vm_bench", "stream_load"];
        let examples = examples.iter().flat_map(|name| ["--example", name]);
        shell::run(shell::cargo().args(build).args(programs).args(examples))?;
        let folder = fuzz::target_dir().join("release");
        Ok(Self {
            node: folder.join("bowline"),
            reference: folder.join("reference-server"),
            instantiate: folder.join("examples/instantiate_bench"),
            checkpoint: folder.join("examples/checkpoint_bench"),
            vm: folder.join("examples/vm_bench"),
            stream_load: folder.join("examples/stream_load"),
        })
    }

    /// Starts a node on an empty data folder.
    pub fn start_node(&self) -> Result<Node> {
        Node::start_program(&self.node)
    }

    /// Makes an access key on a running node, which from then on wants every request signed.
    pub fn create_key(&self, node: &Node) -> Result<Key> {
        let mut create = Command::new(&self.node);
        create.args(["keys", "create", "--json", "--data"]).arg(node.data());
        let made: serde_json::Value = serde_json::from_str(&shell::output(&mut create)?)?;
        let member = |name: &str| made[name].as_str().map(str::to_owned).context("a key without a part");
        Ok(Key {
            id: member("access_key_id")?,
            secret: member("secret_access_key")?,
        })
    }

    /// Starts the reference server.
    pub fn start_reference(&self) -> Result<Reference> {
        let mut child = Command::new(&self.reference)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.reference.display()))?;
        let mut output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        output.read_line(&mut line)?;
        let Some(endpoint) = line.trim().strip_prefix("listening on ") else {
            bail!("the reference server did not say where it listens");
        };
        Ok(Reference {
            endpoint: endpoint.to_owned(),
            child,
            _output: output,
        })
    }
}

/// A running reference server; it ends when dropped.
pub struct Reference {
    pub endpoint: String,
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same Wasm package with a custom section that makes its digest its own.
pub fn distinct(artifact: &Artifact, number: usize) -> Result<Artifact> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&artifact.code))?;
    let mut module = Vec::new();
    archive.by_name("bootstrap.wasm")?.read_to_end(&mut module)?;
    let name = format!("number-{number:06}");
    let length = u8::try_from(name.len()).context("the name is short")?;
    // A custom section: id 0, its size, the size of its name, its name; no content.
    module.extend([0, length + 1, length]);
    module.extend(name.as_bytes());
    Ok(Artifact {
        code: zip_of(&[("bootstrap.wasm", &module)])?,
        ..artifact.clone()
    })
}
