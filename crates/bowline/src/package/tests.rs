//! What each kind of path becomes, and what is said when it becomes nothing.

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("greeter").tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// A request in which the runtimes are given, so that no interpreter is asked.
fn wanted(path: &Path, runtime: Option<&str>) -> Wanted {
    Wanted {
        path: path.to_owned(),
        runtime: runtime.map(str::to_owned),
        ..Wanted::default()
    }
}

fn package(wanted: &Wanted) -> Package {
    assemble(wanted, &Progress::stderr()).unwrap()
}

fn refusal(wanted: &Wanted) -> String {
    format!("{:#}", assemble(wanted, &Progress::stderr()).unwrap_err())
}

fn entries(package: &Package) -> Vec<String> {
    let files = archive::read(&package.code).unwrap();
    files.iter().map(|(path, _)| path.clone()).collect()
}

const PYTHON: &str = "def handler(event, context):\n    return event\n";

#[test]
fn a_python_file_is_entered_where_it_defines_a_handler() {
    let folder = folder(&[
        ("my greeter.py", PYTHON),
        ("bare.py", "x = 1\n"),
        ("two.py", "def handler(e, c): pass\nlambda_handler = handler\n"),
    ]);
    let at = |file: &str| wanted(&folder.path().join(file), Some("python3.11"));
    let made = package(&at("my greeter.py"));
    assert_eq!(
        (made.name.as_str(), made.handler.as_str()),
        ("my-greeter", "my greeter.handler")
    );
    assert_eq!(made.runtime, "python3.11");
    assert_eq!(entries(&made), ["my greeter.py"]);
    assert!(refusal(&at("bare.py")).contains("--handler bare.NAME"));
    assert!(refusal(&at("two.py")).contains("`lambda_handler` or `handler`"));
}

#[test]
fn handlers_in_python_are_top_level_names() {
    for (source, expected) in [
        ("def lambda_handler(e, c):", vec!["lambda_handler"]),
        ("handler = make()", vec!["handler"]),
        ("  def handler(e, c):", vec![]),
        ("def handlers(e, c):", vec![]),
        ("handler == 3", vec![]),
        ("def main():\ndef handler (e, c):", vec!["handler", "main"]),
    ] {
        assert_eq!(python::handlers(source), expected, "{source}");
    }
    assert_eq!(
        detect::handler_in(Language::Python, "a.py", "def main():\ndef handler(e, c):").unwrap(),
        "a.handler"
    );
}

#[test]
fn handlers_in_javascript_are_exports() {
    for (source, expected) in [
        ("export const handler = async (event) => event;", vec!["handler"]),
        ("export async function handler(event) {}", vec!["handler"]),
        ("exports.handler = async () => 1;", vec!["handler"]),
        ("module.exports.handler = f", vec!["handler"]),
        ("module.exports = {\n  handler,\n  other: 1 };", vec!["handler"]),
        ("export { run as handler };", vec!["handler"]),
        ("const handler = 1;", vec![]),
        ("export const handlers = 1;", vec![]),
    ] {
        assert_eq!(node::handlers(source), expected, "{source}");
    }
}

#[test]
fn a_module_in_a_js_file_is_marked_as_one() {
    let folder = folder(&[
        ("esm.js", "export const handler = () => 1;\n"),
        ("cjs.js", "exports.handler = () => 1;\n"),
        ("esm.mjs", "export const handler = () => 1;\n"),
    ]);
    let entries = |file: &str| entries(&package(&wanted(&folder.path().join(file), Some("nodejs20.x"))));
    assert_eq!(entries("esm.js"), ["esm.js", "package.json"]);
    assert_eq!(entries("cjs.js"), ["cjs.js"]);
    assert_eq!(entries("esm.mjs"), ["esm.mjs"]);
}

#[test]
fn a_folder_is_told_by_the_files_at_its_top() {
    let python = folder(&[
        ("app.py", PYTHON),
        ("lib/util.py", "x = 1"),
        ("__pycache__/app.pyc", "x"),
        (".git/HEAD", "x"),
    ]);
    let made = package(&wanted(python.path(), Some("python3.11")));
    assert_eq!(made.handler, "app.handler");
    assert_eq!(entries(&made), ["app.py", "lib/util.py"]);
    assert!(made.name.starts_with("greeter"));

    let bootstrap = folder(&[("bootstrap", "#!/bin/sh\n")]);
    let made = package(&wanted(bootstrap.path(), None));
    assert_eq!(
        (made.runtime.as_str(), made.handler.as_str()),
        ("provided.al2023", "bootstrap")
    );
}

#[test]
fn a_folder_that_is_several_things_needs_a_decision() {
    let both = folder(&[("app.py", PYTHON), ("index.js", "exports.handler = 1")]);
    let refusal = refusal(&wanted(both.path(), None));
    assert!(
        refusal.contains("`app.py`, `index.js`; decide with --runtime and --handler"),
        "{refusal}"
    );
    assert_eq!(
        package(&wanted(both.path(), Some("nodejs20.x"))).handler,
        "index.handler"
    );
    let mut decided = wanted(both.path(), Some("python3.12"));
    decided.handler = Some("elsewhere.run".to_owned());
    assert_eq!(package(&decided).handler, "elsewhere.run");
}

#[test]
fn what_is_nothing_is_refused_with_what_was_looked_for() {
    let folder = folder(&[("notes.txt", "x"), ("fake.wasm", "text"), ("fake.zip", "text")]);
    let refused = refusal(&wanted(folder.path(), None));
    assert!(
        refused.contains("`lambda_function.py`") && refused.contains("--runtime"),
        "{refused}"
    );
    let at = |file: &str| refusal(&wanted(&folder.path().join(file), None));
    assert!(at("notes.txt").contains("nothing that can be deployed"));
    assert!(at("fake.wasm").contains("does not begin with the bytes"));
    assert!(at("fake.zip").contains("as an archive"));
    assert!(at("absent.py").contains("cannot read"));
}

#[test]
fn a_zip_is_sent_as_it_is() {
    let folder = folder(&[("app.py", PYTHON)]);
    let made = package(&wanted(folder.path(), Some("python3.11")));
    let path = folder.path().join("packed.zip");
    std::fs::write(&path, &made.code).unwrap();
    let zipped = package(&wanted(&path, Some("python3.11")));
    assert_eq!(zipped.code, made.code);
    assert_eq!(
        (zipped.name.as_str(), zipped.handler.as_str()),
        ("packed", "app.handler")
    );
}

#[test]
fn a_wasm_file_becomes_a_bootstrap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hello.wasm");
    std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    let made = package(&wanted(&path, None));
    assert_eq!(entries(&made), ["bootstrap.wasm"]);
    assert_eq!(
        (made.name.as_str(), made.runtime.as_str()),
        ("hello", "provided.al2023")
    );
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let files = [("app.py", PYTHON), ("a/b.txt", "b")];
    let (one, two) = (folder(&files), folder(&files));
    let code = |folder: &tempfile::TempDir| package(&wanted(folder.path(), Some("python3.11"))).code;
    assert_eq!(code(&one), code(&two));
    std::fs::write(two.path().join("a/b.txt"), "c").unwrap();
    assert_ne!(code(&one), code(&two));
}

fn manifest(text: &str, sources: &[&str]) -> tempfile::TempDir {
    let mut files = vec![("Cargo.toml", text)];
    files.extend(sources.iter().map(|source| (*source, "")));
    folder(&files)
}

#[test]
fn a_project_without_a_single_entry_is_refused() {
    let head = "[package]\nname = \"p\"\nedition = \"2024\"\n[workspace]\n";
    let library = manifest(head, &["src/lib.rs"]);
    assert!(refusal(&wanted(library.path(), None)).contains("nothing to run"));
    let two = manifest(head, &["src/bin/a.rs", "src/bin/b.rs"]);
    assert!(refusal(&wanted(two.path(), None)).contains("`a`, `b`; decide with --bin"));
    let mut decided = wanted(two.path(), None);
    decided.bin = Some("c".to_owned());
    assert!(refusal(&decided).contains("no program `c`"));
}

#[test]
fn a_workspace_without_a_package_names_its_members() {
    let folder = folder(&[
        ("Cargo.toml", "[workspace]\nmembers = [\"one\"]\nresolver = \"3\"\n"),
        ("one/Cargo.toml", "[package]\nname = \"one\"\nedition = \"2024\"\n"),
        ("one/src/main.rs", "fn main() {}"),
    ]);
    let refused = refusal(&wanted(folder.path(), None));
    assert!(
        refused.contains("give the path of one of its members: one"),
        "{refused}"
    );
}

#[test]
fn a_project_is_built_for_wasm_unless_it_or_the_caller_says_otherwise() {
    let text = "[package]\nname = \"tiny\"\nedition = \"2024\"\n[workspace]\n";
    let project = manifest(text, &[]);
    std::fs::create_dir(project.path().join("src")).unwrap();
    std::fs::write(project.path().join("src/main.rs"), "fn main() {}").unwrap();
    let made = package(&wanted(project.path(), None));
    assert_eq!((made.name.as_str(), made.runtime.as_str()), ("tiny", "provided.al2023"));
    let files = archive::read(&made.code).unwrap();
    assert!(files.get("bootstrap.wasm").unwrap().content.starts_with(WASM_MAGIC));

    let mut native = wanted(&project.path().join("Cargo.toml"), None);
    native.target = Some(Target::native());
    let files = archive::read(&package(&native).code).unwrap();
    let program = files.get("bootstrap").unwrap();
    assert!(program.executable && program.content.starts_with(b"\x7fELF"));

    let chosen = format!("{text}[package.metadata.bowline]\ntarget = \"wasm32-nonsense\"\n");
    std::fs::write(project.path().join("Cargo.toml"), chosen).unwrap();
    let refused = refusal(&wanted(project.path(), None));
    assert!(refused.contains("`wasm32-nonsense` is no target"), "{refused}");
}

#[test]
fn a_project_that_does_not_compile_shows_what_the_compiler_said() {
    let project = manifest(
        "[package]\nname = \"bad\"\nedition = \"2024\"\n[workspace]\n",
        &["src/main.rs"],
    );
    let refused = refusal(&wanted(project.path(), None));
    assert!(refused.contains("E0601"), "{refused}");
}
