//! Whose the packages of a data folder are: a store removes what it does not name only where no other store may name it.
//!
//! `DATA/stores` has a line for each store that the folder was used with: its identity, or [`UNKNOWN`] where packages were
//! there before anybody noted whose.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

const FILE: &str = "stores";
/// What is not whole yet.
const STAGED: &str = ".stores";
const UNKNOWN: &str = "unknown";

/// Notes that the folder is used with a store; says whether it never was with another one. `is_strange` says that there are
/// packages and the store knows none of them.
pub(super) fn note(folder: &Path, store: &str, is_strange: bool) -> io::Result<bool> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut stores: Vec<&str> = text.lines().collect();
    if stores.is_empty() && is_strange {
        stores.push(UNKNOWN);
    }
    if !stores.contains(&store) {
        stores.push(store);
        let staged = folder.join(STAGED);
        let mut file = File::create(&staged)?;
        writeln!(file, "{}", stores.join("\n"))?;
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        // The name too is to outlast a crash: without it this store's packages would be another one's to remove.
        File::open(folder)?.sync_all()?;
    }
    Ok(stores == [store])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_stores_own_until_another_one_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let note = |store, is_strange| note(folder.path(), store, is_strange).unwrap();
        assert!(note("a", false) && note("a", false) && note("a", true));
        assert!(!note("b", true) && !note("b", false));
        assert!(!note("a", false), "b may have put something there meanwhile");
    }

    #[test]
    fn packages_that_were_there_before_are_somebodys() {
        let folder = tempfile::tempdir().unwrap();
        let note = |is_strange| note(folder.path(), "a", is_strange).unwrap();
        assert!(!note(true) && !note(false));
    }
}
