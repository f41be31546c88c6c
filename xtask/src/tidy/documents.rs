//! Documents say what is: each promise names a test that exists, the map names every crate, and the
//! README's figures are the recorded ones.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Findings, SourceFile, Tree};
use crate::bench::table;

const ARCHITECTURE_LINES_MAX: usize = 300;

pub(super) fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "SPECIFICATION.md",
        "CHANGELOG.md",
        "LICENSE",
    ] {
        if tree.text_of(name).trim().is_empty() {
            findings.error(format!("`{name}` is missing or empty"));
        }
    }
    check_architecture(tree, findings);
    check_promises(tree, findings);
    check_figures(tree, findings)
}

fn check_architecture(tree: &Tree, findings: &mut Findings) {
    let text = tree.text_of("ARCHITECTURE.md");
    let lines = text.lines().count();
    if lines >= ARCHITECTURE_LINES_MAX {
        findings.error(format!(
            "`ARCHITECTURE.md` has {lines} lines; it must stay under {ARCHITECTURE_LINES_MAX}"
        ));
    }
    for package in tree.metadata.workspace_packages() {
        let folder = package.manifest_path.parent().and_then(|folder| folder.file_name());
        let folder = folder.unwrap_or(package.name.as_str());
        if !text.contains(&format!("`{folder}`")) {
            findings.error(format!(
                "`ARCHITECTURE.md` must name the crate `{folder}`, in backticks"
            ));
        }
    }
}

/// Every row of a table in `SPECIFICATION.md` ends with the tests that hold the promise.
fn check_promises(tree: &Tree, findings: &mut Findings) {
    let text = tree.text_of("SPECIFICATION.md");
    let tests = Tests::of(tree);
    let mut promises = 0;
    for (index, line) in text.lines().enumerate() {
        let Some(cell) = test_cell(line) else { continue };
        promises += 1;
        let place = format!("`SPECIFICATION.md:{}`", index + 1);
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !cell.starts_with("pending") {
            findings.error(format!(
                "{place}: the last cell must name tests in backticks (`crate::path::test_name` or a test file's path), \
                 or begin with `pending`"
            ));
        }
        for name in named.iter().filter(|name| !tests.has(tree, name)) {
            findings.error(format!("{place}: there is no test `{name}`"));
        }
    }
    if promises == 0 && !text.is_empty() {
        findings.error("`SPECIFICATION.md` has no promises: expected tables with the columns `| promise | test |`");
    }
}

/// The last cell of a table's row, `None` for other lines, headings and rulers.
fn test_cell(line: &str) -> Option<&str> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cell = row.rsplit('|').next()?.trim();
    let heading = matches!(cell, "test" | "tests" | "held by") || cell.chars().all(|mark| matches!(mark, '-' | ':'));
    (!heading).then_some(cell)
}

/// Which functions exist in which crates: the names of all functions of files that hold tests.
struct Tests<'tree>(BTreeMap<&'tree str, Vec<&'tree str>>);

impl<'tree> Tests<'tree> {
    fn of(tree: &'tree Tree) -> Self {
        let mut functions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for file in tree.files.iter().filter(|file| holds_tests(file)) {
            functions
                .entry(crate_folder(&file.path))
                .or_default()
                .extend(function_names(&file.text));
        }
        Self(functions)
    }

    /// Whether `name` is a file of the tree or `crate::path::function` of a crate that has such a test.
    fn has(&self, tree: &Tree, name: &str) -> bool {
        if name.contains('/') || name.contains('.') {
            return tree.root.join(name).is_file();
        }
        let (Some((owner, _)), Some((_, function))) = (name.split_once("::"), name.rsplit_once("::")) else {
            return false;
        };
        let owner = owner.replace('_', "-");
        let folder = owner.strip_prefix("bowline-").unwrap_or(&owner);
        self.0
            .get(folder)
            .is_some_and(|functions| functions.contains(&function))
    }
}

fn holds_tests(file: &SourceFile) -> bool {
    file.text.contains("#[test]") || file.text.contains("::test") || file.path.contains("conformance")
}

/// `store` for `crates/store/src/lib.rs`, `tests` for `tests/src/lib.rs`.
fn crate_folder(path: &str) -> &str {
    path.strip_prefix("crates/")
        .unwrap_or(path)
        .split('/')
        .next()
        .unwrap_or_default()
}

fn function_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("fn ")?;
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
        Some(&rest[..end])
    })
}

/// The README's table of figures is the one that was recorded, to the letter.
fn check_figures(tree: &Tree, findings: &mut Findings) -> Result<()> {
    let recorded = tree.text_of(table::RECORD);
    if recorded.is_empty() {
        findings.note(format!(
            "no figures are recorded; `cargo xtask bench all --record` writes `{}`",
            table::RECORD
        ));
        return Ok(());
    }
    let expected = table::markdown(&table::parse(&recorded)?);
    if table::between_marks(&tree.text_of("README.md")) != Some(expected.trim()) {
        findings.error(format!(
            "`README.md` must hold, between the lines `{}` and `{}`, the table of `{}`: run `cargo xtask bench --record`",
            table::MARK_BEGIN,
            table::MARK_END,
            table::RECORD
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_headings_and_rulers() {
        assert_eq!(
            test_cell("| a promise | `store::sqlite::tests::holds` |"),
            Some("`store::sqlite::tests::holds`")
        );
        assert_eq!(test_cell("| promise | test |"), None);
        assert_eq!(test_cell("| --- | --- |"), None);
        assert_eq!(test_cell("some text"), None);
    }

    #[test]
    fn function_names_are_found_in_any_form() {
        let text = "fn a() {}\n    async fn b_c<T>() {}\n// no function\npub fn d(x: u8) {}\n";
        assert_eq!(function_names(text).collect::<Vec<_>>(), ["a", "b_c", "d"]);
    }
}
