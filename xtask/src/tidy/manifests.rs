//! Versions stand in one place, and every package comes from the registry.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Findings, Tree};

pub(super) fn check(tree: &Tree, findings: &mut Findings) -> Result<()> {
    for package in tree.metadata.workspace_packages() {
        let path = package.manifest_path.as_std_path();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let manifest: Table = text
            .parse()
            .with_context(|| format!("cannot parse `{}`", path.display()))?;
        let shown = path.strip_prefix(&tree.root).unwrap_or(path).display().to_string();
        check_manifest(&shown, &manifest, findings);
    }
    let lock = tree.text_of("Cargo.lock");
    for line in lock.lines().filter(|line| line.starts_with("source = \"git+")) {
        findings.error(format!(
            "`Cargo.lock` has a git dependency ({line}): use a published version"
        ));
    }
    Ok(())
}

fn check_manifest(path: &str, manifest: &Table, findings: &mut Findings) {
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        check_section(path, section, manifest.get(section), findings);
    }
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    for (target, table) in targets {
        let sections = table.as_table().into_iter().flatten();
        for (section, dependencies) in sections {
            check_section(
                path,
                &format!("target.{target}.{section}"),
                Some(dependencies),
                findings,
            );
        }
    }
    if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
        findings.error(format!(
            "`{path}` must take the workspace's lints: `[lints] workspace = true`"
        ));
    }
}

fn check_section(path: &str, section: &str, dependencies: Option<&Value>, findings: &mut Findings) {
    for (name, dependency) in dependencies.and_then(Value::as_table).into_iter().flatten() {
        if dependency.get("workspace") != Some(&Value::Boolean(true)) {
            findings.error(format!(
                "`{path}`: `{name}` in [{section}] must be `workspace = true`; its version belongs into \
                 [workspace.dependencies] of the root"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(manifest: &str) -> usize {
        let mut findings = Findings::default();
        check_manifest("Cargo.toml", &manifest.parse().unwrap(), &mut findings);
        findings.errors.len()
    }

    #[test]
    fn versions_stand_in_the_root_only() {
        let lints = "[lints]\nworkspace = true\n";
        assert_eq!(faults(&format!("[dependencies]\nserde.workspace = true\n{lints}")), 0);
        assert_eq!(faults(&format!("[dependencies]\nserde = \"1\"\n{lints}")), 1);
        assert_eq!(
            faults(&format!("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n{lints}")),
            1
        );
        assert_eq!(faults("[dependencies]\nserde.workspace = true\n"), 1);
    }
}
