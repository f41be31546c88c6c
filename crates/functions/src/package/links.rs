//! Which symbolic links a package may hold.

/// Whether a link at `path` to `target` stays in the package, whatever other links lie in it.
///
/// The folders above an entry are real folders. `..` is taken only at the beginning of a target, where it
/// climbs through those; after a name it could climb out of wherever another link led to.
pub(super) fn target_stays_inside(path: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains(['\\', '\0']) {
        return false;
    }
    let mut depth = path.matches('/').count();
    let mut named = false;
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." {
            named = true;
        } else if named || depth == 0 {
            return false;
        } else {
            depth -= 1;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_never_lead_out() {
        for (path, target) in [("a", "b"), ("x/a", "../b/c"), ("x/y/a", "../../z"), ("a", "./b")] {
            assert!(target_stays_inside(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", "/etc"),
            ("a", "../b"),
            ("x/a", "../../b"),
            ("x/a", "b/../../c"),
            ("a", ""),
        ] {
            assert!(!target_stays_inside(path, target), "{path} -> {target}");
        }
    }
}
