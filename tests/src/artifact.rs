//! Functions to deploy: the examples, built once and shared, and small sources of the tests' own.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::place;

/// A deployment package with what must be said when creating a function from it.
#[derive(Clone)]
pub struct Artifact {
    pub runtime: String,
    pub handler: String,
    pub code: Vec<u8>,
}

/// Appends one section of a WebAssembly module.
fn section(id: u8, content: &[u8], module: &mut Vec<u8>) {
    module.push(id);
    module.extend(leb128(u32::try_from(content.len()).expect("sections are short")));
    module.extend_from_slice(content);
}

fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// What a Cargo project is built for.
#[derive(Clone, Copy)]
enum Target {
    /// A WASI preview 1 command or reactor.
    WasiModule,
    /// A WASI preview 2 component.
    WasiComponent,
    /// A static Linux binary.
    Static,
}

impl Target {
    fn triple(self) -> &'static str {
        match self {
            Self::WasiModule => "wasm32-wasip1",
            Self::WasiComponent => "wasm32-wasip2",
            Self::Static => "x86_64-unknown-linux-musl",
        }
    }
}

impl Artifact {
    /// `examples/rust-hello`: a reactor with warm state.
    pub fn reactor() -> Result<Self> {
        Self::wasm(&build_example("rust-hello", Target::WasiModule)?)
    }

    /// `examples/rust-counter`: a reactor that counts in shared state.
    pub fn counter() -> Result<Self> {
        Self::wasm(&build_example("rust-counter", Target::WasiModule)?)
    }

    /// `examples/rust-command`: a command, one instance an invocation.
    pub fn command() -> Result<Self> {
        Self::wasm(&build_example("rust-command", Target::WasiModule)?)
    }

    /// `examples/rust-http`: a component behind Invoke.
    pub fn component() -> Result<Self> {
        Self::wasm(&build_example("rust-http", Target::WasiComponent)?)
    }

    /// `examples/native-hello`: a static binary that speaks the Runtime API.
    pub fn native() -> Result<Self> {
        let program = build_example("native-hello", Target::Static)?;
        let code = std::fs::read(&program)?;
        Ok(Self::provided(zip_of(&[("bootstrap", &code)])?))
    }

    /// A WebAssembly command that answers with `text`, whatever it is sent.
    pub fn answering(text: &str) -> Result<Self> {
        // `fd_write(1, iovec at 8, 1, 0)`; the iovec points at 16, where the text lies.
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        section(1, b"\x02\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\0\0", &mut module);
        section(2, b"\x01\x16wasi_snapshot_preview1\x08fd_write\0\0", &mut module);
        section(3, b"\x01\x01", &mut module);
        section(5, b"\x01\0\x01", &mut module);
        section(7, b"\x02\x06_start\0\x01\x06memory\x02\0", &mut module);
        let code = b"\x01\x0d\0\x41\x01\x41\x08\x41\x01\x41\0\x10\0\x1a\x0b";
        section(10, code, &mut module);
        let length = u32::try_from(text.len())?;
        let mut data = b"\x01\0\x41\x08\x0b".to_vec();
        data.extend(leb128(length + 8));
        data.extend(16u32.to_le_bytes());
        data.extend(length.to_le_bytes());
        data.extend(text.as_bytes());
        section(11, &data, &mut module);
        Ok(Self::provided(zip_of(&[("bootstrap.wasm", &module)])?))
    }

    /// The tests' own Python function, for the interpreter this machine has.
    pub fn python() -> Result<Self> {
        let source = std::fs::read(place::root().join("tests/functions/python/app.py"))?;
        Self::python_source(&source)
    }

    /// A Python function from one source, `app.handler`.
    pub fn python_source(source: &[u8]) -> Result<Self> {
        let version = text_of(Command::new("python3").args(["-c", "import sys; print(sys.version_info.minor)"]))?;
        Ok(Self {
            runtime: format!("python3.{}", version.trim()),
            handler: "app.handler".to_owned(),
            code: zip_of(&[("app.py", source)])?,
        })
    }

    /// The tests' own Node.js function, for the interpreter this machine has.
    pub fn node() -> Result<Self> {
        let source = std::fs::read(place::root().join("tests/functions/node/index.js"))?;
        Self::node_source(&source)
    }

    /// A Node.js function from one source, `index.handler`.
    pub fn node_source(source: &[u8]) -> Result<Self> {
        let version = text_of(Command::new("node").args(["-p", "process.versions.node.split('.')[0]"]))?;
        Ok(Self {
            runtime: format!("nodejs{}.x", version.trim()),
            handler: "index.handler".to_owned(),
            code: zip_of(&[("index.js", source)])?,
        })
    }

    /// A function over the public Rust runtime client, streaming if the variable `STREAM` is set; `None`
    /// where its crates cannot be had.
    pub fn public_rust_client() -> Result<Option<Self>> {
        let Some(program) = public_rust_program()? else {
            return Ok(None);
        };
        let program = std::fs::read(program)?;
        Ok(Some(Self::provided(zip_of(&[("bootstrap", &program)])?)))
    }

    /// The static program in the tests' container images.
    pub fn image_guest() -> Result<PathBuf> {
        build(&place::root().join("tests/functions/image"), Target::Static)
    }

    /// A package for `provided.al2023`.
    pub fn provided(code: Vec<u8>) -> Self {
        Self {
            runtime: "provided.al2023".to_owned(),
            handler: "bootstrap".to_owned(),
            code,
        }
    }

    fn wasm(module: &Path) -> Result<Self> {
        let code = std::fs::read(module).with_context(|| format!("cannot read `{}`", module.display()))?;
        Ok(Self::provided(zip_of(&[("bootstrap.wasm", &code)])?))
    }

    /// The package as a file, for clients that take a path; kept as long as the folder.
    pub fn write_to(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("code.zip");
        std::fs::write(&path, &self.code)?;
        Ok(path)
    }
}

/// The project of the function over the public Rust runtime client.
pub fn public_rust_project() -> PathBuf {
    place::root().join("crates/sandbox-linux/tests/public-client")
}

/// Its program; `None` where its crates cannot be had.
pub fn public_rust_program() -> Result<Option<PathBuf>> {
    let target = place::shared("public-client")?;
    let cargo = |words: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(words).current_dir(public_rust_project());
        command.env("CARGO_TARGET_DIR", &target);
        command
    };
    place::exclusively("public-client", || {
        if text_of(&mut cargo(&["fetch", "--quiet"])).is_err() {
            return Ok(None);
        }
        // What can be had must build.
        text_of(&mut cargo(&["build", "--quiet"]))?;
        Ok(Some(target.join("debug/public-client")))
    })
}

/// A zip archive of executable files.
pub fn zip_of(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(*name, SimpleFileOptions::default().unix_permissions(0o755))?;
        archive.write_all(content)?;
    }
    Ok(archive.finish()?.into_inner())
}

fn build_example(example: &str, target: Target) -> Result<PathBuf> {
    build(&place::root().join("examples").join(example), target)
}

/// Builds a project and returns the module or program it gives.
fn build(project: &Path, target: Target) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command
        .args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
            "--target",
            target.triple(),
        ])
        .current_dir(project)
        .env("CARGO_TARGET_DIR", place::shared("examples")?)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let messages = place::exclusively("examples", || text_of(&mut command))
        .with_context(|| format!("cannot build `{}`", project.display()))?;
    let mut files = messages.lines().filter_map(|line| built_file(line, project, target));
    files
        .next_back()
        .with_context(|| format!("`{}` gave nothing to deploy", project.display()))
}

/// The file of cargo's message about an artifact of `project`, if it is one to deploy.
fn built_file(message: &str, project: &Path, target: Target) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let manifest = message["manifest_path"].as_str()?;
    let ours = message["reason"] == "compiler-artifact" && Path::new(manifest).parent() == Some(project);
    if !ours {
        return None;
    }
    let mut files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    let found = match target {
        Target::Static => message["executable"].as_str(),
        Target::WasiModule | Target::WasiComponent => files.find(|file| file.ends_with(".wasm")),
    };
    found.map(PathBuf::from)
}

fn text_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}",
            command.get_program().to_string_lossy(),
            output.status
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
