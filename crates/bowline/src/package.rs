//! Deployment packages: what a path holds, which runtime and handler it needs, and the archive of it.

mod archive;
mod cargo;
mod detect;
mod files;
pub mod image;
mod interpreter;
mod node;
mod python;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::progress::Progress;
use files::Files;

pub use cargo::Target;

/// The runtime of everything that brings its own `bootstrap`.
const PROVIDED: &str = "provided.al2023";
const WASM_MAGIC: &[u8] = b"\0asm";

/// What is to be packaged, and what the caller has decided already.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub path: PathBuf,
    pub name: Option<String>,
    pub runtime: Option<String>,
    pub handler: Option<String>,
    /// For Cargo projects: what to build for.
    pub target: Option<Target>,
    /// For Cargo projects with several programs: which.
    pub bin: Option<String>,
}

/// A deployment package with what the service must know of it.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    pub runtime: String,
    pub handler: String,
    /// The archive.
    pub code: Vec<u8>,
    /// What it was made of, for people.
    pub origin: String,
}

/// This machine lacks something that the package needs; the text names it and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);

/// Makes the package, building the project first if it is one.
pub fn assemble(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Package> {
    let path = &wanted.path;
    let found = std::fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if found.is_dir() {
        return folder(wanted, progress);
    }
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    match extension {
        "py" => single_file(wanted, Language::Python),
        "js" | "mjs" | "cjs" => single_file(wanted, Language::NodeJs),
        "wasm" => wasm(wanted),
        "zip" => zip(wanted),
        _ if path.file_name().is_some_and(|name| name == "Cargo.toml") => cargo_project(wanted, progress),
        _ if path.file_name().is_some_and(|name| name == "bootstrap") => bootstrap(wanted),
        _ => bail!(
            "`{}` is nothing that can be deployed; expected a Cargo project, a folder, a `.zip`, a `.wasm`, \
             a container image, a `.py`, a `.js`, `.mjs` or `.cjs` file, or a program named `bootstrap`",
            path.display()
        ),
    }
}

/// A language whose code runs on the host's interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    NodeJs,
}

impl Language {
    /// The language a runtime identifier belongs to; none for `provided.*`.
    fn of_runtime(runtime: &str) -> Option<Self> {
        match runtime {
            _ if runtime.starts_with("python") => Some(Self::Python),
            _ if runtime.starts_with("nodejs") => Some(Self::NodeJs),
            _ => None,
        }
    }

    /// The runtime of the interpreter that this host has.
    fn host_runtime(self) -> anyhow::Result<String> {
        match self {
            Self::Python => interpreter::python(),
            Self::NodeJs => interpreter::node(),
        }
    }

    /// The functions of a source text that may be handlers.
    fn handlers(self, source: &str) -> Vec<&'static str> {
        match self {
            Self::Python => python::handlers(source),
            Self::NodeJs => node::handlers(source),
        }
    }
}

/// The archive of a layer: a folder's, or one that is there.
pub fn layer(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.is_dir() {
        return archive::write(&Files::of_folder(path)?);
    }
    let archive = read(path)?;
    archive::read(&archive).with_context(|| format!("cannot read `{}` as an archive", path.display()))?;
    Ok(archive)
}

fn folder(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Package> {
    let is_project = wanted.path.join("Cargo.toml").is_file();
    let interpreted = wanted.runtime.as_deref().and_then(Language::of_runtime).is_some();
    if is_project && !interpreted {
        return cargo_project(wanted, progress);
    }
    let files = Files::of_folder(&wanted.path)?;
    let found = detect::detect(&files, wanted)?;
    Ok(Package {
        name: name(wanted, &wanted.path)?,
        runtime: found.runtime,
        handler: found.handler,
        code: archive::write(&files)?,
        origin: format!("folder with {}", found.what),
    })
}

fn zip(wanted: &Wanted) -> anyhow::Result<Package> {
    let code = read(&wanted.path)?;
    let files =
        archive::read(&code).with_context(|| format!("cannot read `{}` as an archive", wanted.path.display()))?;
    let found = detect::detect(&files, wanted)?;
    Ok(Package {
        name: name(wanted, &wanted.path)?,
        runtime: found.runtime,
        handler: found.handler,
        code,
        origin: format!("archive with {}", found.what),
    })
}

fn single_file(wanted: &Wanted, language: Language) -> anyhow::Result<Package> {
    let path = &wanted.path;
    let source = read(path)?;
    let file = path.file_name().and_then(|name| name.to_str());
    let file = file.with_context(|| format!("the name of `{}` is not valid UTF-8", path.display()))?;
    let text = String::from_utf8_lossy(&source);
    let mut files = Files::default();
    if language == Language::NodeJs && file.ends_with(".js") && node::is_module(&text) {
        // Without this Node.js would take the file for a CommonJS script.
        files.add("package.json", br#"{"type":"module"}"#.to_vec(), false);
    }
    let handler = match &wanted.handler {
        Some(handler) => handler.clone(),
        None => detect::handler_in(language, file, &text)?,
    };
    files.add(file, source, false);
    Ok(Package {
        name: name(wanted, path)?,
        runtime: wanted.runtime.clone().map_or_else(|| language.host_runtime(), Ok)?,
        handler,
        code: archive::write(&files)?,
        origin: file.to_owned(),
    })
}

fn wasm(wanted: &Wanted) -> anyhow::Result<Package> {
    let module = read(&wanted.path)?;
    if !module.starts_with(WASM_MAGIC) {
        bail!(
            "`{}` is no WebAssembly module or component: it does not begin with the bytes `\\0asm`",
            wanted.path.display()
        );
    }
    bring_your_own(
        wanted,
        ("bootstrap.wasm", module),
        name(wanted, &wanted.path)?,
        "module",
    )
}

fn bootstrap(wanted: &Wanted) -> anyhow::Result<Package> {
    let program = read(&wanted.path)?;
    let Some(name) = wanted.name.clone() else {
        bail!(
            "`{}` says nothing about the function's name; give one with --name",
            wanted.path.display()
        );
    };
    bring_your_own(wanted, ("bootstrap", program), name, "program")
}

fn cargo_project(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Package> {
    let built = cargo::build(wanted, progress)?;
    let code = read(&built.artefact)?;
    let entry = if built.target.is_wasm() {
        "bootstrap.wasm"
    } else {
        "bootstrap"
    };
    let name = wanted.name.clone().unwrap_or(sanitised(&built.name));
    let origin = format!("Cargo project built for {}", built.target);
    bring_your_own(wanted, (entry, code), name, &origin)
}

fn bring_your_own(
    wanted: &Wanted,
    (entry, code): (&str, Vec<u8>),
    name: String,
    origin: &str,
) -> anyhow::Result<Package> {
    let mut files = Files::default();
    files.add(entry, code, true);
    Ok(Package {
        name,
        runtime: wanted.runtime.clone().unwrap_or_else(|| PROVIDED.to_owned()),
        handler: wanted.handler.clone().unwrap_or_else(|| "bootstrap".to_owned()),
        code: archive::write(&files)?,
        origin: origin.to_owned(),
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The function's name: as given, or what the path is called.
pub fn name(wanted: &Wanted, path: &Path) -> anyhow::Result<String> {
    if let Some(name) = &wanted.name {
        return Ok(name.clone());
    }
    let full = path
        .canonicalize()
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let stem = if full.is_dir() {
        full.file_name()
    } else {
        full.file_stem()
    };
    let stem = stem.map(|stem| sanitised(&stem.to_string_lossy())).unwrap_or_default();
    if stem.is_empty() {
        bail!(
            "`{}` gives no name for the function; give one with --name",
            path.display()
        );
    }
    Ok(stem)
}

/// A name with everything replaced that function names cannot have.
fn sanitised(name: &str) -> String {
    let replace = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = name.chars().take(64).map(replace).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests;
