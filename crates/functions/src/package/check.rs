//! Reads a package in memory and says what it is, or why it is refused. Touches no disk.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};

use bowline_foundation::limits::{UNZIPPED_CODE_BYTES_MAX, ZIPPED_CODE_BYTES_MAX};
use zip::ZipArchive;
use zip::read::ZipFile;

use super::WASM_NAME;
use super::links::target_stays_inside;

/// Most files and folders of one package.
pub const ENTRIES_MAX: usize = 65_536;
const PATH_BYTES_MAX: usize = 1024;
const LINK_TARGET_BYTES_MAX: u64 = 1024;

/// What a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageShape {
    pub form: PackageForm,
    /// Whether it holds a WebAssembly program: the package itself, or `bootstrap.wasm` in it.
    pub has_wasm: bool,
    pub entries: usize,
    pub unzipped_bytes: u64,
}

/// How the code is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageForm {
    Zip,
    /// A module or component without a wrapping.
    BareWasm,
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("package is empty")]
    Empty,
    #[error("package of `{actual}` bytes exceeds the limit of `{max}`")]
    TooLarge { actual: usize, max: usize },
    #[error("package holds more than `{max}` unzipped bytes")]
    UnzippedTooLarge { max: u64 },
    #[error("package holds `{actual}` entries, at most `{max}` are allowed")]
    TooManyEntries { actual: usize, max: usize },
    #[error("package is not a readable zip archive")]
    NotAZip(#[source] zip::result::ZipError),
    #[error("entry `{0}` is damaged")]
    Damaged(String, #[source] io::Error),
    #[error("entry `{0}` would lie outside the package")]
    Escapes(String),
    #[error("entry `{0}` is encrypted or neither a file, a folder nor a link")]
    Unsupported(String),
    #[error("entry `{0}` lies twice in the package, or under another that is no folder")]
    Clash(String),
    #[error("entries of the package share bytes")]
    Overlap,
    #[error("`bootstrap.wasm` is not a WebAssembly module or component")]
    NotWasm,
}

/// Checks a whole package: its form, every path, every checksum, and all sizes as they really are.
pub fn check(bytes: &[u8]) -> Result<PackageShape, PackageError> {
    if bytes.is_empty() {
        return Err(PackageError::Empty);
    }
    if bytes.len() > ZIPPED_CODE_BYTES_MAX {
        return Err(PackageError::TooLarge {
            actual: bytes.len(),
            max: ZIPPED_CODE_BYTES_MAX,
        });
    }
    if bytes.starts_with(b"\0asm") {
        return check_bare(bytes);
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(PackageError::NotAZip)?;
    check_directory(&mut archive)?;
    let mut scan = Scan::default();
    for index in 0..archive.len() {
        scan.entry(archive.by_index(index).map_err(PackageError::NotAZip)?)?;
    }
    scan.check_parents()?;
    Ok(PackageShape {
        form: PackageForm::Zip,
        has_wasm: scan.has_wasm,
        entries: archive.len(),
        unzipped_bytes: scan.unzipped_bytes,
    })
}

/// Whether the bytes begin as a core module (version 1) or a component do.
pub(crate) fn is_wasm(head: &[u8]) -> bool {
    head.starts_with(b"\0asm\x01\0\0\0") || head.starts_with(b"\0asm\x0d\0\x01\0")
}

fn check_bare(bytes: &[u8]) -> Result<PackageShape, PackageError> {
    if !is_wasm(bytes) {
        return Err(PackageError::NotWasm);
    }
    Ok(PackageShape {
        form: PackageForm::BareWasm,
        has_wasm: true,
        entries: 1,
        unzipped_bytes: bytes.len() as u64,
    })
}

fn check_directory(archive: &mut ZipArchive<Cursor<&[u8]>>) -> Result<(), PackageError> {
    if archive.len() > ENTRIES_MAX {
        return Err(PackageError::TooManyEntries {
            actual: archive.len(),
            max: ENTRIES_MAX,
        });
    }
    if archive.has_overlapping_files().map_err(PackageError::NotAZip)? {
        return Err(PackageError::Overlap);
    }
    Ok(())
}

/// What a path in a package is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File,
    Link,
}

#[derive(Default)]
struct Scan {
    nodes: HashMap<String, Node>,
    unzipped_bytes: u64,
    has_wasm: bool,
}

impl Scan {
    fn entry<R: Read>(&mut self, mut file: ZipFile<'_, R>) -> Result<(), PackageError> {
        let path = entry_path(&file)?;
        let node = node_of(&file).ok_or_else(|| PackageError::Unsupported(path.clone()))?;
        if path.is_empty() {
            return Ok(());
        }
        if self.nodes.insert(path.clone(), node).is_some() {
            return Err(PackageError::Clash(path));
        }
        match node {
            Node::Folder => Ok(()),
            Node::Link => check_link(&path, file),
            Node::File => self.content(path, &mut file),
        }
    }

    /// Inflates the entry: the declared size is only a claim, and the checksum stands at the end.
    fn content(&mut self, path: String, file: &mut impl Read) -> Result<(), PackageError> {
        let left = UNZIPPED_CODE_BYTES_MAX - self.unzipped_bytes;
        let mut head = Vec::with_capacity(8);
        let damaged = |error| PackageError::Damaged(path.clone(), error);
        file.by_ref().take(8).read_to_end(&mut head).map_err(damaged)?;
        if path == WASM_NAME {
            self.has_wasm = true;
            if !is_wasm(&head) {
                return Err(PackageError::NotWasm);
            }
        }
        let rest = (left + 1).saturating_sub(head.len() as u64);
        let copied = io::copy(&mut file.take(rest), &mut io::sink()).map_err(damaged)?;
        let read = copied + head.len() as u64;
        if read > left {
            return Err(PackageError::UnzippedTooLarge {
                max: UNZIPPED_CODE_BYTES_MAX,
            });
        }
        self.unzipped_bytes += read;
        Ok(())
    }

    /// Whatever lies above an entry must be a folder, named or implied.
    fn check_parents(&self) -> Result<(), PackageError> {
        for path in self.nodes.keys() {
            for (at, _) in path.match_indices('/') {
                if self.nodes.get(&path[..at]).is_some_and(|node| *node != Node::Folder) {
                    return Err(PackageError::Clash(path.clone()));
                }
            }
        }
        Ok(())
    }
}

/// The entry's path without a final slash; empty for the package's root itself.
pub(super) fn entry_path<R: Read>(file: &ZipFile<'_, R>) -> Result<String, PackageError> {
    let shown = || {
        String::from_utf8_lossy(file.name_raw())
            .chars()
            .take(80)
            .collect::<String>()
    };
    let name = file.name().map_err(|_| PackageError::Unsupported(shown()))?;
    let escapes = name.starts_with('/')
        || name.len() > PATH_BYTES_MAX
        || name.contains(['\\', '\0'])
        || name.split('/').any(|part| part == "..");
    if escapes {
        return Err(PackageError::Escapes(shown()));
    }
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    Ok(parts.join("/"))
}

fn node_of<R: Read>(file: &ZipFile<'_, R>) -> Option<Node> {
    const TYPE_MASK: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    const FOLDER: u32 = 0o040_000;
    if file.encrypted() {
        return None;
    }
    if file.is_symlink() {
        return Some(Node::Link);
    }
    if file.is_dir() {
        return Some(Node::Folder);
    }
    match file.unix_mode().map_or(0, |mode| mode & TYPE_MASK) {
        0 | REGULAR => Some(Node::File),
        FOLDER => Some(Node::Folder),
        _ => None,
    }
}

fn check_link<R: Read>(path: &str, file: ZipFile<'_, R>) -> Result<(), PackageError> {
    let target = link_target(path, file)?;
    if path == WASM_NAME || !target_stays_inside(path, &target) {
        return Err(PackageError::Escapes(path.to_owned()));
    }
    Ok(())
}

/// The text of a symbolic link.
pub(super) fn link_target<R: Read>(path: &str, file: ZipFile<'_, R>) -> Result<String, PackageError> {
    let mut target = String::new();
    let damaged = |error| PackageError::Damaged(path.to_owned(), error);
    file.take(LINK_TARGET_BYTES_MAX + 1)
        .read_to_string(&mut target)
        .map_err(damaged)?;
    if target.len() as u64 > LINK_TARGET_BYTES_MAX {
        return Err(PackageError::Escapes(path.to_owned()));
    }
    Ok(target)
}
