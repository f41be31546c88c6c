//! Rules on single Rust files: their first line, their size, their name, and where `unsafe` may stand.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Findings, SourceFile, Tree};

/// Files above this are named in a note.
const LINES_SOFT_MAX: usize = 400;
/// Files above this are a fault, unless `EXCEPTIONS` lists them.
const LINES_HARD_MAX: usize = 800;
/// `path lines` a line; a listed file may shrink, and must then be listed with its new size or go.
const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

const BANNED_NAMES: &[&str] = &["utils", "util", "helpers", "common", "misc", "core", "manager", "types"];

/// Where `unsafe` may stand: the sandboxes, whose work is made of system calls and mapped code; the
/// guest's SDK, whose exports have no safe form; and examples, which run inside a sandbox.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/sandbox-linux/",
    "crates/sandbox-vm/",
    "crates/sandbox-wasm/",
    "crates/guest/",
    "examples/",
    // Guests too: they run in the engine alone.
    "crates/checkpoint/tests/guests/",
];

pub(super) fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    for file in &tree.files {
        check_first_line(file, findings);
        check_name(file, findings);
        check_unsafe(file, findings);
    }
    check_sizes(tree, findings)
}

fn check_first_line(file: &SourceFile, findings: &mut Findings) {
    if !file.text.starts_with("//! ") {
        findings.error(format!(
            "`{}` must begin with a `//!` line: one sentence on what the file is for",
            file.path
        ));
    }
}

fn check_name(file: &SourceFile, findings: &mut Findings) {
    let parts = file.path.trim_end_matches(".rs").split('/');
    if let Some(bad) = parts.into_iter().find(|part| BANNED_NAMES.contains(part)) {
        findings.error(format!(
            "`{}`: `{bad}` says nothing; name the module for the one thing in it (banned: {})",
            file.path,
            BANNED_NAMES.join(", ")
        ));
    }
    if file.path.ends_with("/mod.rs") {
        findings.error(format!(
            "`{}`: a module is `name.rs` beside `name/`, never `mod.rs`",
            file.path
        ));
    }
}

fn check_unsafe(file: &SourceFile, findings: &mut Findings) {
    if UNSAFE_ALLOWED.iter().any(|folder| file.path.starts_with(folder)) {
        return;
    }
    for (index, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "(unsafe_code"]
            .iter()
            .any(|form| code.contains(form) && !code.contains(&format!("\"{form}")));
        if opens {
            findings.error(format!(
                "`{}:{}`: `unsafe` may stand only in {}",
                file.path,
                index + 1,
                UNSAFE_ALLOWED.join(", ")
            ));
        }
    }
}

fn check_sizes(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let exceptions = read_exceptions(tree)?;
    for path in exceptions
        .keys()
        .filter(|path| !tree.files.iter().any(|file| file.path == **path))
    {
        findings.error(format!(
            "`{EXCEPTIONS}` lists `{path}`, which does not exist: remove the line"
        ));
    }
    for file in tree.files.iter().filter(|file| !is_test_file(&file.path)) {
        let lines = lines_without_tests(&file.text);
        match exceptions.get(&file.path) {
            Some(&allowed) if lines > allowed => findings.error(format!(
                "`{}` has grown to {lines} lines; `{EXCEPTIONS}` allows {allowed}: split it",
                file.path
            )),
            Some(&allowed) if lines < allowed => findings.error(format!(
                "`{}` has shrunk to {lines} lines: lower its {allowed} in `{EXCEPTIONS}`, or remove it below {LINES_HARD_MAX}",
                file.path
            )),
            None if lines > LINES_HARD_MAX => findings.error(format!(
                "`{}` has {lines} lines without its tests, more than {LINES_HARD_MAX}: split it",
                file.path
            )),
            None if lines > LINES_SOFT_MAX => findings.note(format!(
                "`{}` has {lines} lines without its tests; aim for {LINES_SOFT_MAX}",
                file.path
            )),
            _ => {}
        }
    }
    Ok(())
}

fn read_exceptions(tree: &Tree) -> Result<BTreeMap<String, usize>> {
    let text = tree.text_of(EXCEPTIONS);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (path, count) = line.split_once(' ').context("expected `path lines`")?;
            Ok((path.to_owned(), count.trim().parse()?))
        })
        .collect::<Result<_>>()
        .with_context(|| format!("cannot parse `{EXCEPTIONS}`"))
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Lines before the inline test module.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{'));
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let mut findings = Findings::default();
        check_first_line(&file, &mut findings);
        check_name(&file, &mut findings);
        check_unsafe(&file, &mut findings);
        findings.errors.len()
    }

    #[test]
    fn good_files_pass_and_bad_ones_do_not() {
        assert_eq!(faults("crates/store/src/sqlite.rs", "//! Rows.\nfn a() {}\n"), 0);
        assert_eq!(faults("crates/store/src/sqlite.rs", "fn a() {}\n"), 1);
        assert_eq!(faults("crates/store/src/utils.rs", "//! Rows.\n"), 1);
        assert_eq!(faults("crates/store/src/utils/rows.rs", "//! Rows.\n"), 1);
        assert_eq!(faults("crates/store/src/rows/mod.rs", "//! Rows.\n"), 1);
        let block = format!("//! Rows.\nfn a() {{ {} {{ b() }} }}\n", "unsafe");
        assert_eq!(faults("crates/store/src/sqlite.rs", &block), 1);
        assert_eq!(faults("crates/sandbox-wasm/src/lib.rs", &block), 0);
    }

    #[test]
    fn inline_tests_do_not_count() {
        assert_eq!(
            lines_without_tests("//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n"),
            2
        );
        assert_eq!(lines_without_tests("//! A.\n#[cfg(test)]\nmod tests;\nfn a() {}\n"), 4);
    }
}
