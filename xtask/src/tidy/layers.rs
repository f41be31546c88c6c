//! The allowed edges between crates, and how many packages the server is built from.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, PackageId};

use super::{Findings, Tree};

/// The layers from the ground up; a crate knows only crates of layers before its own.
const LAYERS: &[&[&str]] = &[
    &["bowline-foundation"],
    &["bowline-capacity"],
    &["bowline-store"],
    &["bowline-stream"],
    &["bowline-aws", "bowline-oci"],
    &["bowline-checkpoint"],
    &["bowline-sandbox"],
    &["bowline-sandbox-wasm", "bowline-sandbox-linux"],
    &["bowline-sandbox-vm"],
    &["bowline-agent"],
    &["bowline-inventory"],
    &["bowline-functions"],
    &["bowline-api"],
    &["bowline"],
];

/// Crates of the layers that know fewer crates than their place allows: policy without I/O.
const PURE: &[(&str, &[&str])] = &[("bowline-capacity", &["bowline-foundation"])];

/// Crates beside the layers, with the crates each may know.
const BESIDE: &[(&str, &[&str])] = &[
    ("bowline-guest", &[]),
    ("bowline-test-postgres", &["bowline-foundation"]),
    (
        "bowline-sim",
        &["bowline-foundation", "bowline-store", "bowline-stream"],
    ),
    ("bowline-replay", &["bowline-foundation", "bowline-capacity"]),
    ("bowline-tests", &["bowline-foundation", "bowline-test-postgres"]),
    (
        "xtask",
        &[
            "bowline-foundation",
            "bowline-store",
            "bowline-stream",
            "bowline-test-postgres",
            "bowline-tests",
        ],
    ),
    (
        "bowline-fuzz",
        &[
            "bowline-foundation",
            "bowline-store",
            "bowline-functions",
            "bowline-agent",
            "bowline-api",
            "bowline-aws",
            "bowline-checkpoint",
            "bowline-inventory",
            "bowline-oci",
            "bowline-sandbox-linux",
            "bowline-sandbox-vm",
            "bowline-sandbox-wasm",
            "bowline-replay",
            "bowline-store",
            "bowline-stream",
        ],
    ),
];

/// Crates of the layers that know a crate beside them: the demo of checkpoints starts a database of its own.
const ALSO: &[(&str, &str)] = &[("bowline", "bowline-test-postgres")];

/// Crates that any other may know, but for its tests alone.
const FOR_TESTS: &[&str] = &["bowline-test-postgres"];

/// The server is built from at most so many packages, its own crates included.
const SERVER_PACKAGES_MAX: usize = 450;

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    check_edges(&tree.metadata, findings);
    let count = server_packages(&tree.metadata);
    if count > SERVER_PACKAGES_MAX {
        findings.error(format!(
            "the server is built from {count} packages, more than {SERVER_PACKAGES_MAX}: find what brought them \
             (`cargo tree -p bowline -e normal`) and switch off its features or do without it"
        ));
    } else {
        findings.note(format!(
            "the server is built from {count} packages, {SERVER_PACKAGES_MAX} are allowed"
        ));
    }
}

fn check_edges(metadata: &Metadata, findings: &mut Findings) {
    let members: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in metadata.workspace_packages() {
        let from = package.name.as_str();
        let Some(allowed) = allowed_for(from) else {
            findings.error(format!(
                "the crate `{from}` has no place yet: add it to `xtask/src/tidy/layers.rs`"
            ));
            continue;
        };
        let known = package.dependencies.iter().filter(|dependency| {
            let is_for_tests = dependency.kind == DependencyKind::Development;
            !(is_for_tests && FOR_TESTS.contains(&dependency.name.as_str()))
        });
        let known = known.map(|dependency| dependency.name.as_str());
        for to in known.filter(|name| members.contains(name) && *name != from) {
            if !allowed.contains(&to) {
                findings.error(format!(
                    "`{from}` must not know `{to}`: it may know {}",
                    if allowed.is_empty() {
                        "no crate of this workspace".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                ));
            }
        }
    }
}

/// The crates that `name` may know, `None` if nobody gave it a place.
fn allowed_for(name: &str) -> Option<Vec<&'static str>> {
    if let Some((_, allowed)) = BESIDE.iter().chain(PURE).find(|(beside, _)| *beside == name) {
        return Some(allowed.to_vec());
    }
    let layer = LAYERS.iter().position(|layer| layer.contains(&name))?;
    let beside = ALSO.iter().filter(|(from, _)| *from == name).map(|(_, to)| *to);
    Some(LAYERS[..layer].concat().into_iter().chain(beside).collect())
}

/// Packages in the server's own tree: ordinary dependencies only, for the platform it runs on.
fn server_packages(metadata: &Metadata) -> usize {
    let Some(resolve) = &metadata.resolve else { return 0 };
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let server = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == "bowline");
    let mut open: Vec<&PackageId> = server.into_iter().map(|package| &package.id).collect();
    let mut seen: BTreeSet<&PackageId> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let ordinary = dependencies.filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind == DependencyKind::Normal)
        });
        open.extend(
            ordinary
                .map(|dependency| &dependency.pkg)
                .filter(|package| seen.insert(package)),
        );
    }
    seen.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_point_one_way() {
        assert!(allowed_for("bowline-functions").unwrap().contains(&"bowline-store"));
        assert!(!allowed_for("bowline-store").unwrap().contains(&"bowline-functions"));
        assert!(
            !allowed_for("bowline-sandbox-wasm")
                .unwrap()
                .contains(&"bowline-sandbox-linux")
        );
        assert!(allowed_for("bowline-functions").unwrap().contains(&"bowline-capacity"));
        assert_eq!(allowed_for("bowline-capacity").unwrap(), ["bowline-foundation"]);
        assert!(allowed_for("bowline-guest").unwrap().is_empty());
        assert!(!allowed_for("bowline-store").unwrap().contains(&"bowline-test-postgres"));
        assert!(allowed_for("bowline-utils").is_none());
    }
}
