//! Code that is laid beside an agent: a folder of its own, with links to the node's files.
//!
//! An instance so sees the code that it was given, and none of anybody else's, without a second copy on the disk; what the node
//! made of it too, a compiled module say, without making it again. Where files cannot be linked they are copied.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use bowline_foundation::digest::Digest;
use bowline_sandbox::CodeDir;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

/// Nobody else lays or removes code there meanwhile, though whoever asked may have gone.
type Alone = OwnedMutexGuard<()>;

/// Lays code into a folder, unless it is there, with what was `made` of it. It gets its name when it is whole, and last.
pub(super) async fn lay(alone: Alone, code: &CodeDir, (folder, made): (PathBuf, PathBuf)) -> io::Result<()> {
    let code = code.clone();
    let laying = spawn_blocking(move || {
        let _alone = alone;
        let place = folder.join(code.digest.to_string());
        if place.exists() {
            return Ok(());
        }
        let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&folder)?;
        let whole = partial.path().join("code");
        lay_folder(&code.path, &whole)?;
        let prefix = format!("{}-", code.digest);
        // Most code is run as it is, and a node that compiles nothing has no such folder.
        for entry in fs::read_dir(&made).into_iter().flatten() {
            let (name, source) = entry.map(|entry| (entry.file_name(), entry.path()))?;
            if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
                let file = partial.path().join(&name);
                lay_file(&source, &file)?;
                fs::rename(file, folder.join(name))?;
            }
        }
        fs::rename(whole, place)
    });
    laying.await.map_err(io::Error::other)?
}

/// Removes what is not in use.
pub(super) async fn clear(alone: Alone, folder: PathBuf, in_use: Vec<Digest>) -> io::Result<()> {
    let clearing = spawn_blocking(move || {
        let _alone = alone;
        super::keep(&folder, &in_use)
    });
    clearing.await.map_err(io::Error::other)?
}

fn lay_folder(source: &Path, target: &Path) -> io::Result<()> {
    let facts = fs::symlink_metadata(source)?;
    fs::create_dir(target)?;
    for entry in fs::read_dir(source)? {
        let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
        let place = target.join(entry.file_name());
        match kind.is_dir() {
            true => lay_folder(&entry.path(), &place)?,
            false => lay_file(&entry.path(), &place)?,
        }
    }
    let made = fs::symlink_metadata(target)?;
    if (made.uid(), made.gid()) != (facts.uid(), facts.gid()) {
        chown(target, Some(facts.uid()), Some(facts.gid()))?;
    }
    // Last: it may be one that nobody writes.
    fs::set_permissions(target, facts.permissions())
}

fn lay_file(source: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(source, target) {
        Err(error) if cannot_link(&error) => copy(source, target),
        linked => linked,
    }
}

/// Whether the file system, or its rules, have no link here.
fn cannot_link(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(
        error.kind(),
        CrossesDevices | PermissionDenied | TooManyLinks | Unsupported
    )
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(source)?.is_symlink() {
        return symlink(fs::read_link(source)?, target);
    }
    fs::copy(source, target).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use super::*;

    async fn alone() -> Alone {
        Arc::new(tokio::sync::Mutex::new(())).lock_owned().await
    }

    /// A package with a file, a link and a folder that nobody writes.
    fn code(folder: &Path) -> CodeDir {
        let path = folder.join("package");
        fs::create_dir_all(path.join("lib")).unwrap();
        fs::write(path.join("lib/one"), "one").unwrap();
        symlink("lib/one", path.join("two")).unwrap();
        fs::set_permissions(path.join("lib"), fs::Permissions::from_mode(0o555)).unwrap();
        CodeDir {
            digest: Digest::of(b"package"),
            path,
        }
    }

    #[tokio::test]
    async fn what_is_laid_is_the_package_itself_and_goes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let code = code(folder.path());
        let (cache, made) = (folder.path().join("cache"), folder.path().join("made"));
        [&cache, &made]
            .into_iter()
            .for_each(|folder| fs::create_dir(folder).unwrap());
        let (own, strange) = (
            format!("{}-1.cwasm", code.digest),
            format!("{}-1.cwasm", Digest::of(b"")),
        );
        [&own, &strange]
            .into_iter()
            .for_each(|name| fs::write(made.join(name), name).unwrap());
        // Again it changes nothing.
        for _ in 0..2 {
            lay(alone().await, &code, (cache.clone(), made.clone())).await.unwrap();
            let mut names: Vec<_> = fs::read_dir(&cache)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(
                names,
                [code.digest.to_string(), own.clone()],
                "it alone, under its own name"
            );
        }
        let place = cache.join(code.digest.to_string());
        assert_eq!(
            fs::read(place.join("two")).unwrap(),
            b"one",
            "links lead where they did"
        );
        let number = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_eq!(
            number(place.join("lib/one")),
            number(code.path.join("lib/one")),
            "no second copy"
        );
        assert_eq!(
            number(cache.join(&own)),
            number(made.join(&own)),
            "nor of what was made of it"
        );
        let mode = fs::metadata(place.join("lib")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o555);
        clear(alone().await, cache.clone(), vec![code.digest]).await.unwrap();
        assert!(place.exists(), "the control: it is in use");
        clear(alone().await, cache.clone(), Vec::new()).await.unwrap();
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
        assert!(
            code.path.join("lib/one").exists() && made.join(own).exists(),
            "the node's own stays"
        );
    }

    #[tokio::test]
    async fn code_that_is_not_there_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let code = CodeDir {
            digest: Digest::of(b"none"),
            path: folder.path().join("none"),
        };
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).unwrap();
        assert!(
            lay(alone().await, &code, (cache.clone(), folder.path().join("made")))
                .await
                .is_err()
        );
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_linked_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let code = code(folder.path());
        for name in ["lib/one", "two"] {
            let target = folder.path().join("copy");
            copy(&code.path.join(name), &target).unwrap();
            let link = |path: &Path| fs::read_link(path).ok();
            assert_eq!(link(&target), link(&code.path.join(name)), "{name}");
            fs::remove_file(target).unwrap();
        }
    }
}
