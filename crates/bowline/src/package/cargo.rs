//! Cargo projects: which target they are for, and building them.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Missing, Wanted};
use crate::progress::{Progress, Step, size};

/// What a project is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// Modules of WASI preview 1: what a project is built for unless told otherwise.
    pub fn wasm() -> Self {
        Self("wasm32-wasip1".to_owned())
    }

    /// Static programs for this machine's processor.
    pub fn native() -> Self {
        Self(format!("{}-unknown-linux-musl", std::env::consts::ARCH))
    }

    /// A target by its triple.
    pub fn named(triple: &str) -> Self {
        Self(triple.to_owned())
    }

    /// Whether programs for it are WebAssembly.
    pub fn is_wasm(&self) -> bool {
        self.0.starts_with("wasm32-")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A project that was built.
#[derive(Debug)]
pub struct Built {
    /// The package's name.
    pub name: String,
    pub target: Target,
    pub artefact: PathBuf,
}

/// A project as Cargo describes it.
struct Project {
    name: String,
    manifest: PathBuf,
    folder: PathBuf,
    /// `package.metadata.bowline.target`.
    target: Option<Target>,
    /// The target within the package: `--lib`, or `--bin` and its name.
    entry: Entry,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Library,
    Program(String),
}

/// Builds the project in release mode.
pub fn build(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Built> {
    let project = Project::read(wanted)?;
    let target = wanted
        .target
        .clone()
        .or(project.target.clone())
        .unwrap_or_else(Target::wasm);
    install(&target, &project.folder, progress)?;
    let step = progress.step(&format!("building {} for {target}", project.name));
    let artefact = project.build(&target, &step)?;
    let bytes = std::fs::metadata(&artefact).map_or(0, |found| found.len());
    step.done(&format!("built {} for {target}: {}", project.name, size(bytes)));
    Ok(Built {
        name: project.name,
        target,
        artefact,
    })
}

/// Installs the target's standard library if it is missing.
fn install(target: &Target, folder: &Path, progress: &Progress) -> anyhow::Result<()> {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "target-libdir", "--target", &target.0])
        .current_dir(folder);
    let output = rustc.output().map_err(|error| no_rust("rustc", &error))?;
    if !output.status.success() {
        bail!("`{target}` is no target that `rustc` knows");
    }
    let libraries = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if Path::new(&libraries).is_dir() {
        return Ok(());
    }
    progress.say(&format!(
        "the Rust target {target} is missing: running `rustup target add {target}`"
    ));
    let added = Command::new("rustup")
        .args(["target", "add", &target.0])
        .current_dir(folder)
        .output();
    let added = added.map_err(|error| {
        Missing(format!(
            "cannot run `rustup` ({error}); install the standard library of {target} as your distribution does it"
        ))
    })?;
    if !added.status.success() {
        let said = String::from_utf8_lossy(&added.stderr);
        return Err(Missing(format!("`rustup target add {target}` failed: {}", said.trim())).into());
    }
    Ok(())
}

fn no_rust(program: &str, error: &std::io::Error) -> Missing {
    Missing(format!(
        "cannot run `{program}` ({error}); install Rust with rustup to build Cargo projects"
    ))
}

impl Project {
    fn read(wanted: &Wanted) -> anyhow::Result<Self> {
        let path = wanted
            .path
            .canonicalize()
            .with_context(|| format!("cannot read `{}`", wanted.path.display()))?;
        let manifest = if path.is_dir() { path.join("Cargo.toml") } else { path };
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .map_err(|error| no_rust("cargo", &error))?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed:\n{}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata = serde_json::from_slice(&output.stdout).context("cannot read what `cargo metadata` says")?;
        Self::choose(&metadata, manifest, wanted.bin.as_deref())
    }

    fn choose(metadata: &Value, manifest: PathBuf, bin: Option<&str>) -> anyhow::Result<Self> {
        let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let package = packages
            .iter()
            .find(|package| package["manifest_path"].as_str().map(Path::new) == Some(&manifest));
        let Some(package) = package else {
            let names = packages.iter().filter_map(|package| package["name"].as_str());
            bail!(
                "`{}` is a workspace without a package of its own; give the path of one of its members: {}",
                manifest.display(),
                names.collect::<Vec<_>>().join(", ")
            );
        };
        let target = package["metadata"]["bowline"]["target"].as_str().map(Target::named);
        Ok(Self {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            manifest,
            target,
            entry: Entry::of(package, bin)?,
        })
    }

    fn build(&self, target: &Target, step: &Step) -> anyhow::Result<PathBuf> {
        let mut command = cargo();
        command
            .args([
                "build",
                "--release",
                "--message-format=json-render-diagnostics",
                "--target",
                &target.0,
            ])
            .arg("--manifest-path")
            .arg(&self.manifest)
            .args(self.entry.flags())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run `cargo`")?;
        let stderr = child.stderr.take().context("cargo's standard error is not a pipe")?;
        let stdout = child.stdout.take().context("cargo's standard output is not a pipe")?;
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = BufReader::new(stderr).read_to_string(&mut said);
            said
        });
        let artefact = self.follow(BufReader::new(stdout), target, step);
        let status = child.wait()?;
        let said = said.join().unwrap_or_default();
        if !status.success() {
            bail!("`cargo build` for {target} failed ({status}):\n{}", said.trim_end());
        }
        artefact.with_context(|| {
            format!(
                "`cargo build` made no program for {target}; a function is a `bin`, or a `lib` with crate-type `cdylib`"
            )
        })
    }

    /// Reads Cargo's messages to their end and keeps this package's artefact.
    fn follow(&self, messages: impl BufRead, target: &Target, step: &Step) -> Option<PathBuf> {
        let mut artefact = None;
        let mut crates = 0;
        for line in messages.lines().map_while(Result::ok) {
            let Ok(message) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if message["reason"] != "compiler-artifact" {
                continue;
            }
            crates += 1;
            step.note(&format!("building {} for {target}: {crates} crates done", self.name));
            if message["manifest_path"].as_str().map(Path::new) == Some(&self.manifest) {
                artefact = self.entry.artefact(&message).or(artefact);
            }
        }
        artefact
    }
}

impl Entry {
    /// What of a package is the function: its `cdylib`, or its only program, or the one named.
    fn of(package: &Value, bin: Option<&str>) -> anyhow::Result<Self> {
        let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is = |target: &Value, kind: &str| {
            let types = target["crate_types"].as_array();
            types.is_some_and(|types| types.iter().any(|of| of == kind))
        };
        let is_program = |target: &&Value| {
            target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
        };
        let programs: Vec<&str> = targets
            .iter()
            .filter(is_program)
            .filter_map(|target| target["name"].as_str())
            .collect();
        let library = targets.iter().any(|target| is(target, "cdylib"));
        let default = bin.or(package["default_run"].as_str());
        if let Some(name) = default {
            if programs.contains(&name) {
                return Ok(Self::Program(name.to_owned()));
            }
            bail!("the package has no program `{name}`; it has {}", listed(&programs));
        }
        match (library, programs.as_slice()) {
            (true, []) => Ok(Self::Library),
            (false, [name]) => Ok(Self::Program((*name).to_owned())),
            (false, []) => {
                bail!("the package has nothing to run: looked for a `bin` and for a `lib` with crate-type `cdylib`")
            }
            (true, several) => bail!(
                "the package has a `cdylib` and also {}; decide with --bin, or remove one",
                listed(several)
            ),
            (false, several) => bail!(
                "the package has several programs, {}; decide with --bin",
                listed(several)
            ),
        }
    }

    fn flags(&self) -> Vec<&str> {
        match self {
            Self::Library => vec!["--lib"],
            Self::Program(name) => vec!["--bin", name],
        }
    }

    fn artefact(&self, message: &Value) -> Option<PathBuf> {
        let files = message["filenames"].as_array()?;
        let wasm = files
            .iter()
            .filter_map(Value::as_str)
            .find(|file| file.ends_with(".wasm"));
        match self {
            Self::Library => wasm.map(PathBuf::from),
            Self::Program(_) => wasm.or(message["executable"].as_str()).map(PathBuf::from),
        }
    }
}

fn listed(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Cargo, as the environment names it when this program itself was started by it.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
