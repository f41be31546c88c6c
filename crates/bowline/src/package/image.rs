//! Container images on disk: OCI image layouts as folders or archives, and what `docker save` writes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::Context;
use bowline_oci::compression::{is_compressed, plain};

/// What makes a folder an image layout.
const LAYOUT_FILE: &str = "oci-layout";
/// Files at the top of an archive that make it an image; the second is that of older `docker save`.
const MARKS: [&str; 2] = [LAYOUT_FILE, "manifest.json"];
/// How far an archive is looked into: a mark may stand behind all other files.
const ENTRIES_MAX: usize = 16_384;
/// Where a tar archive says what it is.
const TAR_MAGIC_AT: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";

/// The image at a path as one archive, which a node takes; none if the path holds no image.
pub fn find(path: &Path) -> anyhow::Result<Option<File>> {
    let unreadable = || format!("cannot read `{}`", path.display());
    if path.is_dir() {
        return match path.join(LAYOUT_FILE).is_file() {
            true => archive(path).map(Some),
            false => Ok(None),
        };
    }
    let mut file = File::open(path).with_context(unreadable)?;
    let found = is_image(&mut file).with_context(unreadable)?;
    file.seek(SeekFrom::Start(0)).with_context(unreadable)?;
    Ok(found.then_some(file))
}

fn is_image(file: &mut File) -> std::io::Result<bool> {
    let mut bytes = BufReader::new(&*file);
    if is_compressed(bytes.fill_buf()?) {
        // What is broken in it may be any file; if it is an image after all, the node says what is wrong.
        let mut unpacked = BufReader::new(plain(bytes)?);
        return Ok(is_tar(&mut unpacked).unwrap_or(false) && has_mark(unpacked).unwrap_or(false));
    }
    file.seek(SeekFrom::Start(0))?;
    if !is_tar(&mut BufReader::new(&*file))? {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(&*file);
    for entry in archive.entries_with_seek()?.raw(true).take(ENTRIES_MAX) {
        if is_mark(&entry?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a tar archive begins here; nothing of it is taken away.
fn is_tar(bytes: &mut impl BufRead) -> std::io::Result<bool> {
    Ok(bytes
        .fill_buf()?
        .get(TAR_MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(TAR_MAGIC)))
}

/// The same where nothing can be skipped without reading it.
fn has_mark(archive: impl Read) -> std::io::Result<bool> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()?.raw(true).take(ENTRIES_MAX) {
        if is_mark(&entry?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_mark(entry: &tar::Entry<'_, impl Read>) -> bool {
    let path = entry.path_bytes();
    let name = path.strip_prefix(b"./").unwrap_or(&path);
    MARKS.iter().any(|mark| mark.as_bytes() == name)
}

/// A layout's folder as an archive, in a file that goes with its handle.
fn archive(folder: &Path) -> anyhow::Result<File> {
    let file = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut builder = tar::Builder::new(file);
    builder.mode(tar::HeaderMode::Deterministic);
    for name in [LAYOUT_FILE, "index.json"] {
        let path = folder.join(name);
        let added = builder.append_path_with_name(&path, name);
        added.with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    let blobs = folder.join("blobs");
    let added = builder.append_dir_all("blobs", &blobs);
    added.with_context(|| format!("cannot read `{}`", blobs.display()))?;
    let mut file = builder.into_inner()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use bowline_oci::sample::{Packing, packed};

    use super::*;

    fn tar_of(folder: &Path, names: &[&str]) -> std::path::PathBuf {
        let path = folder.join("archive");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            builder.append_data(&mut header, name, &b"{}"[..]).unwrap();
        }
        builder.finish().unwrap();
        path
    }

    #[test]
    fn images_are_told_from_what_else_may_be_deployed() {
        let folder = tempfile::tempdir().unwrap();
        let is_image = |path: &Path| find(path).unwrap().is_some();
        assert!(is_image(&tar_of(folder.path(), &["blobs/a", "oci-layout"])));
        assert!(is_image(&tar_of(folder.path(), &["./manifest.json"])));
        assert!(!is_image(&tar_of(folder.path(), &["app.py", "x/oci-layout"])));
        for (name, expected) in [("manifest.json", true), ("app.py", false)] {
            let archive = std::fs::read(tar_of(folder.path(), &["blobs/a", name])).unwrap();
            let path = folder.path().join("archive.gz");
            std::fs::write(&path, packed(&archive, Packing::Gzip)).unwrap();
            assert_eq!(is_image(&path), expected, "{name}");
            std::fs::write(&path, &packed(&archive, Packing::Gzip)[..20]).unwrap();
            assert!(!is_image(&path), "{name}, cut off");
        }
        std::fs::write(folder.path().join("short"), b"short").unwrap();
        assert!(!is_image(&folder.path().join("short")));
        assert!(!is_image(folder.path()));
    }

    #[test]
    fn a_layout_becomes_an_archive() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        for name in ["oci-layout", "index.json", "blobs/sha256/aa"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let file = find(folder.path()).unwrap().unwrap();
        let mut archive = tar::Archive::new(file);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.header().entry_type().is_file())
            .map(|entry| String::from_utf8(entry.path_bytes().into_owned()).unwrap())
            .collect();
        assert_eq!(names, ["oci-layout", "index.json", "blobs/sha256/aa"]);
    }
}
