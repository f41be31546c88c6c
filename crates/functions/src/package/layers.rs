//! Laying layers over one another, into the one folder that a sandbox sees as `/opt`.
//!
//! A combination has a folder of its own, beside those of its layers, and shares their files by hard links:
//! it costs no second copy, needs no mount, and is whole on any file system.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bowline_foundation::digest::Digest;

/// Names what layers in this order are together: nothing for none, one layer itself.
pub(crate) fn combination(layers: &[Digest]) -> Option<Digest> {
    match layers {
        [] => None,
        [one] => Some(*one),
        several => {
            let mut text = "layers".to_owned();
            for layer in several {
                text.push(' ');
                text.push_str(&layer.to_string());
            }
            Some(Digest::of(text.as_bytes()))
        }
    }
}

/// Lays `layers` over one another in the new folder `target`. Where two have a path, the later one has it;
/// folders are joined.
pub(super) fn overlay(target: &Path, layers: &[PathBuf]) -> io::Result<()> {
    make_folder(target)?;
    layers.iter().try_for_each(|layer| join(layer, target))
}

fn join(layer: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let path = target.join(entry.file_name());
        let is_folder = entry.file_type()?.is_dir();
        // Never through a link: what an earlier layer put there is looked at itself.
        match path.symlink_metadata() {
            Ok(there) if there.is_dir() && is_folder => {}
            Ok(there) => {
                if there.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else {
                    fs::remove_file(&path)?;
                }
                put(&entry.path(), &path, is_folder)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => put(&entry.path(), &path, is_folder)?,
            Err(error) => return Err(error),
        }
        if is_folder {
            join(&entry.path(), &path)?;
        }
    }
    Ok(())
}

fn put(from: &Path, to: &Path, is_folder: bool) -> io::Result<()> {
    if is_folder {
        make_folder(to)
    } else {
        fs::hard_link(from, to)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// What the files of an unpacked package add up to.
pub(super) fn file_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        if metadata.is_dir() {
            bytes += file_bytes(&entry.path())?;
        } else if metadata.is_file() {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn combinations_are_told_apart() {
        let [one, other] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        assert_eq!(combination(&[]), None);
        assert_eq!(combination(&[one]), Some(one));
        let found = [combination(&[one, other]), combination(&[other, one])];
        assert_ne!(found[0], found[1]);
        assert_eq!(found[0], combination(&[one, other]));
    }

    #[test]
    fn the_later_layer_wins() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        write(&first, "both", "first");
        write(&first, "only/first", "first");
        write(&first, "becomes-a-file/deep", "first");
        write(&first, "becomes-a-folder", "first");
        write(&first, "elsewhere/kept", "first");
        symlink("elsewhere", first.join("link")).unwrap();
        write(&second, "both", "second");
        write(&second, "only/second", "second");
        write(&second, "becomes-a-file", "second");
        write(&second, "becomes-a-folder/deep", "second");
        // Where the first has a link the second has a folder: nothing is written through the link.
        write(&second, "link/kept", "second");
        let target = folder.path().join("target");
        overlay(&target, &[first.clone(), second.clone()]).unwrap();
        for (path, text) in [
            ("both", "second"),
            ("only/first", "first"),
            ("only/second", "second"),
            ("becomes-a-file", "second"),
            ("becomes-a-folder/deep", "second"),
            ("link/kept", "second"),
            ("elsewhere/kept", "first"),
        ] {
            assert_eq!(fs::read_to_string(target.join(path)).unwrap(), text, "{path}");
        }
        assert_eq!(
            fs::read_to_string(first.join("both")).unwrap(),
            "first",
            "the layers stay"
        );
        assert_eq!(fs::read_to_string(first.join("elsewhere/kept")).unwrap(), "first");
        let turned = folder.path().join("turned");
        overlay(&turned, &[second, first]).unwrap();
        assert_eq!(fs::read_to_string(turned.join("both")).unwrap(), "first", "by order");
        assert_eq!(fs::read_link(turned.join("link")).unwrap(), Path::new("elsewhere"));
    }

    #[test]
    fn sizes_are_those_of_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a/b", "123");
        write(folder.path(), "c", "4567");
        symlink("c", folder.path().join("d")).unwrap();
        assert_eq!(file_bytes(folder.path()).unwrap(), 7);
    }
}
