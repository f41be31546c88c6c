//! Which runtime and handler a folder or an archive needs, told by the files at its top.

use anyhow::bail;

use super::files::Files;
use super::{Language, PROVIDED, Wanted};

const PYTHON_FILES: [&str; 4] = ["lambda_function.py", "app.py", "main.py", "handler.py"];
const NODE_FILES: [&str; 6] = ["index.mjs", "index.js", "index.cjs", "app.mjs", "app.js", "handler.js"];

/// What a package needs.
#[derive(Debug)]
pub struct Found {
    pub runtime: String,
    pub handler: String,
    /// The file that told.
    pub what: String,
}

/// A way to run the package.
#[derive(Debug)]
struct Candidate {
    file: &'static str,
    language: Option<Language>,
}

/// Tells what the package needs; what the caller has decided is not questioned.
pub fn detect(files: &Files, wanted: &Wanted) -> anyhow::Result<Found> {
    if let (Some(runtime), Some(handler)) = (&wanted.runtime, &wanted.handler) {
        return Ok(Found {
            runtime: runtime.clone(),
            handler: handler.clone(),
            what: handler.clone(),
        });
    }
    let candidate = only(candidates(files, wanted), wanted)?;
    let Some(language) = candidate.language else {
        return Ok(Found {
            runtime: wanted.runtime.clone().unwrap_or_else(|| PROVIDED.to_owned()),
            handler: wanted.handler.clone().unwrap_or_else(|| "bootstrap".to_owned()),
            what: candidate.file.to_owned(),
        });
    };
    let source = files
        .get(candidate.file)
        .map(|file| String::from_utf8_lossy(&file.content));
    let handler = match &wanted.handler {
        Some(handler) => handler.clone(),
        None => handler_in(language, candidate.file, &source.unwrap_or_default())?,
    };
    Ok(Found {
        runtime: wanted.runtime.clone().map_or_else(|| language.host_runtime(), Ok)?,
        handler,
        what: candidate.file.to_owned(),
    })
}

/// The handler that a source file defines, as `module.function`.
pub fn handler_in(language: Language, file: &str, source: &str) -> anyhow::Result<String> {
    let module = file.rsplit_once('.').map_or(file, |(module, _)| module);
    let handlers = language.handlers(source);
    let telling: Vec<_> = handlers.iter().filter(|name| **name != "main").collect();
    match (handlers.as_slice(), telling.as_slice()) {
        ([name], _) => Ok(format!("{module}.{name}")),
        (_, [name]) => Ok(format!("{module}.{name}")),
        ([], _) => bail!(
            "`{file}` has no handler: looked for {} named `handler`, `lambda_handler` or `main`; \
             name another with --handler {module}.NAME",
            match language {
                Language::Python => "a function at the top level",
                Language::NodeJs => "an export",
            }
        ),
        (several, _) => bail!(
            "`{file}` may be entered at {}; decide with --handler {module}.NAME",
            several
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(" or ")
        ),
    }
}

fn candidates(files: &Files, wanted: &Wanted) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut look_for = |names: &[&'static str], language| {
        let present = names.iter().filter(|name| files.get(name).is_some());
        candidates.extend(present.map(|file| Candidate { file, language }));
    };
    look_for(&["bootstrap.wasm", "bootstrap"], None);
    look_for(&PYTHON_FILES, Some(Language::Python));
    look_for(&NODE_FILES, Some(Language::NodeJs));
    if let Some(runtime) = &wanted.runtime {
        candidates.retain(|candidate| candidate.language == Language::of_runtime(runtime));
    }
    if let Some((module, _)) = wanted.handler.as_deref().and_then(|handler| handler.rsplit_once('.')) {
        candidates.retain(|candidate| candidate.file.rsplit_once('.').is_some_and(|(stem, _)| stem == module));
    }
    candidates
}

fn only(mut candidates: Vec<Candidate>, wanted: &Wanted) -> anyhow::Result<Candidate> {
    let path = wanted.path.display();
    if candidates.len() > 1 {
        let files = candidates.iter().map(|candidate| format!("`{}`", candidate.file));
        bail!(
            "`{path}` can be run in several ways: it holds {}; decide with --runtime and --handler",
            files.collect::<Vec<_>>().join(", ")
        );
    }
    let Some(candidate) = candidates.pop() else {
        bail!(
            "`{path}` holds nothing that was looked for: `Cargo.toml`, `bootstrap.wasm`, `bootstrap`, {}, {}; \
             say what it is with --runtime and --handler",
            quoted(&PYTHON_FILES),
            quoted(&NODE_FILES)
        );
    };
    Ok(candidate)
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
