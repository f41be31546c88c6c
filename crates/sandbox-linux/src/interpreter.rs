//! Finds the host's interpreters and says exactly what is missing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_sandbox::Runtime;

/// Folders that are searched even if `PATH` does not name them.
const USUAL_FOLDERS: [&str; 2] = ["/usr/local/bin", "/usr/bin"];
const ASK_PYTHON: &str = "import os, sys; print(sys.version_info[1], os.path.realpath(getattr(sys, '_base_executable', sys.executable)), sys.base_prefix, sep='\\n')";
const ASK_NODE: &str = "console.log(process.versions.node.split('.')[0] + '\\n' + process.execPath)";

/// An interpreter of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// The program itself, not a shim.
    pub(crate) program: PathBuf,
    /// The folder it needs, if that lies outside the system's.
    pub(crate) prefix: Option<PathBuf>,
}

/// No interpreter serves the runtime; the text says what was looked for and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(String);

/// The runtimes this host can serve: `provided.*` always, the others by the interpreters that are found.
/// Runs each interpreter once, so it takes a moment.
pub fn available_runtimes() -> Vec<Runtime> {
    let mut runtimes = vec![Runtime::ProvidedAl2023, Runtime::ProvidedAl2];
    runtimes.extend(pythons().into_keys().map(|minor| Runtime::Python { minor }));
    runtimes.extend(nodes().into_keys().map(|major| Runtime::NodeJs { major }));
    runtimes
}

/// The interpreter that serves `runtime`; `None` for the runtimes that need none.
pub(crate) fn find(runtime: Runtime) -> Result<Option<Interpreter>, Missing> {
    match runtime {
        Runtime::ProvidedAl2023 | Runtime::ProvidedAl2 => Ok(None),
        Runtime::Python { minor } => find_python(minor).map(Some),
        Runtime::NodeJs { major } => find_node(major).map(Some),
    }
}

fn find_python(minor: u8) -> Result<Interpreter, Missing> {
    let name = format!("python3.{minor}");
    if minor < Runtime::PYTHON_MINOR_MIN {
        let first = Runtime::PYTHON_MINOR_MIN;
        let text = format!("runtime `{name}` is not supported: `python3.{first}` is the first that is");
        return Err(Missing(text));
    }
    let candidates = folders().into_iter().map(|folder| folder.join(&name));
    let found = candidates.filter_map(|program| ask_python(&program));
    if let Some((_, interpreter)) = found.into_iter().find(|(found, _)| *found == minor) {
        return Ok(interpreter);
    }
    let here = pythons().into_keys().map(|minor| format!("python3.{minor}"));
    Err(missing(
        &format!("runtime `{name}` needs the program `{name}`"),
        "Python",
        here.collect(),
    ))
}

fn find_node(major: u8) -> Result<Interpreter, Missing> {
    let mut nodes = nodes();
    if let Some(interpreter) = nodes.remove(&major) {
        return Ok(interpreter);
    }
    let here = nodes.into_keys().map(|major| format!("nodejs{major}.x"));
    let need = format!("runtime `nodejs{major}.x` needs the program `node` of version {major}");
    Err(missing(&need, "Node.js", here.collect()))
}

fn missing(need: &str, language: &str, here: Vec<String>) -> Missing {
    let folders = folders();
    let folders: Vec<_> = folders.iter().map(|folder| folder.to_string_lossy()).collect();
    let advice = if here.is_empty() {
        format!("no {language} was found at all: install it, and deploy again")
    } else {
        format!("install it, or choose a runtime that is here: `{}`", here.join("`, `"))
    };
    Missing(format!("{need}, which is not in {}; {advice}", folders.join(", ")))
}

/// The folders in which programs are looked for, each once.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&path).chain(USUAL_FOLDERS.map(PathBuf::from)) {
        if folder.is_absolute() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn pythons() -> BTreeMap<u8, Interpreter> {
    let mut programs = Vec::new();
    for folder in folders() {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let minors = names.filter_map(|name| name.strip_prefix("python3.")?.parse::<u8>().ok());
        let minors = minors.filter(|minor| *minor >= Runtime::PYTHON_MINOR_MIN);
        programs.extend(minors.map(|minor| folder.join(format!("python3.{minor}"))));
    }
    // Some are slow to answer, being shims in shell: ask all at once.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = programs
            .iter()
            .map(|program| scope.spawn(|| ask_python(program)))
            .collect();
        asked.into_iter().map(|answer| answer.join().ok().flatten()).collect()
    });
    let mut found = BTreeMap::new();
    for (minor, interpreter) in answers.into_iter().flatten() {
        found.entry(minor).or_insert(interpreter);
    }
    found
}

fn nodes() -> BTreeMap<u8, Interpreter> {
    let mut found = BTreeMap::new();
    for folder in folders() {
        if let Some((major, interpreter)) = ask_node(&folder.join("node"))
            && major >= Runtime::NODE_MAJOR_MIN
        {
            found.entry(major).or_insert(interpreter);
        }
    }
    found
}

/// A program of the right name may be a shim, or of another version: only it can tell.
fn ask_python(program: &Path) -> Option<(u8, Interpreter)> {
    let answer = ask(program, &["-I", "-S", "-c", ASK_PYTHON])?;
    let [minor, program, prefix] = lines(&answer)?;
    Some((minor.parse().ok()?, interpreter(program, Path::new(prefix))?))
}

fn ask_node(program: &Path) -> Option<(u8, Interpreter)> {
    let answer = ask(program, &["-e", ASK_NODE])?;
    let [major, program] = lines(&answer)?;
    let prefix = Path::new(program).parent()?.parent()?;
    Some((major.parse().ok()?, interpreter(program, prefix)?))
}

fn interpreter(program: &str, prefix: &Path) -> Option<Interpreter> {
    let program = PathBuf::from(program);
    let in_system = |path: &Path| path.starts_with("/usr");
    if in_system(&program) && in_system(prefix) {
        return Some(Interpreter { program, prefix: None });
    }
    // A prefix of `/` or `/opt` would show the sandbox far more than an interpreter.
    let bindable = program.starts_with(prefix) && prefix.components().count() > 2;
    bindable.then(|| Interpreter {
        program,
        prefix: Some(prefix.to_owned()),
    })
}

fn lines<const N: usize>(text: &str) -> Option<[&str; N]> {
    let lines: Vec<&str> = text.lines().collect();
    lines.try_into().ok()
}

fn ask(program: &Path, arguments: &[&str]) -> Option<String> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program)
        .args(arguments.iter().map(OsStr::new))
        .env_remove("NODE_OPTIONS")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_python_is_named_with_what_is_here() {
        let Err(Missing(text)) = find(Runtime::Python { minor: 98 }) else {
            panic!("nobody has it");
        };
        assert!(text.contains("`python3.98`"), "{text}");
        assert!(text.contains("/usr/bin"), "{text}");
        assert!(text.contains("install it"), "{text}");
        for runtime in available_runtimes() {
            let named = text.contains(&format!("`{runtime}`"));
            assert_eq!(named, matches!(runtime, Runtime::Python { .. }), "{runtime}: {text}");
        }
    }

    #[test]
    fn what_is_available_is_found() {
        let runtimes = available_runtimes();
        assert!(runtimes.contains(&Runtime::ProvidedAl2023));
        for runtime in runtimes {
            assert!(find(runtime).is_ok(), "{runtime}");
        }
    }

    #[test]
    fn an_old_python_is_refused_by_name() {
        let Err(Missing(text)) = find(Runtime::Python { minor: 6 }) else {
            panic!("it is too old");
        };
        assert!(text.contains("`python3.6`") && text.contains("`python3.9`"), "{text}");
    }
}
