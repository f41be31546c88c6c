//! Lays the layers of an image over one another in a folder.
//!
//! ```text
//!   layer as kept ─▶ digest ─▶ gzip, zstd or plain ─▶ diff_id, limit ─▶ tar ─▶ entries ─▶ Root
//! ```
//! Every path is resolved by the kernel as if the folder were `/` ([`root`]), so neither `..` nor an absolute link
//! that an earlier layer planted leads out of it. What a guest must not have is left out: devices, pipes and
//! sockets, owners, set-user-id bits, extended attributes.
//!
//! Formats: the OCI Image Specification, "Image Layer Filesystem Changeset"; POSIX.1-2001 and GNU tar.

mod extended;
mod root;

use std::io::{self, BufReader, Read};
use std::path::Path;

use tar::{Entry, EntryType, Header};

use crate::compression::plain;
use crate::image::{Image, Layer};
use crate::meter::Meter;
use crate::{ImageError, unpack::extended::Extended};
use root::{Refused, Root};

/// What the archives of all layers may add up to, uncompressed: 10 GiB.
pub const UNPACKED_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
/// Most entries of all layers, with the folders that they imply.
pub const ENTRIES_MAX: u64 = 1024 * 1024;
/// Most a layer may have as it is kept.
const KEPT_BYTES_MAX: u64 = UNPACKED_BYTES_MAX;
/// What marks that something of a lower layer is gone.
const WHITEOUT: &[u8] = b".wh.";
/// What marks that a folder has nothing of lower layers.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the root has whatever the image says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fittings<'a> {
    /// Folders at the top, made empty.
    pub folders: &'a [&'a str],
    /// Files with their content.
    pub files: &'a [(&'a str, &'a str)],
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// What the archives of all layers add up to.
    pub bytes: u64,
    pub entries: u64,
}

/// Unpacks into the folder `target`, which is made. `layers` give the bytes of the image's layers, in order.
///
/// # Errors
/// If the image is at fault, or the disk. What was unpacked so far stays; every folder in it can be removed by
/// this user.
pub fn unpack<R: Read>(
    target: &Path,
    image: &Image,
    layers: impl IntoIterator<Item = R>,
    fittings: Fittings<'_>,
) -> Result<Unpacked, ImageError> {
    let mut bytes_left = UNPACKED_BYTES_MAX;
    let mut root = Root::make(target, ENTRIES_MAX)?;
    for (layer, bytes) in image.layers.iter().zip(layers) {
        root.begin_layer();
        lay(&mut root, layer, bytes, &mut bytes_left)?;
    }
    let entries = root.entries();
    root.begin_layer();
    for folder in fittings.folders {
        root.empty_folder(folder)?;
    }
    for (path, text) in fittings.files {
        root.fixed_file(path, text)?;
    }
    Ok(Unpacked {
        bytes: UNPACKED_BYTES_MAX - bytes_left,
        entries,
    })
}

fn lay(root: &mut Root, layer: &Layer, bytes: impl Read, bytes_left: &mut u64) -> Result<(), ImageError> {
    let broken = |source| ImageError::Layer {
        layer: layer.digest,
        source,
    };
    let mut kept = Meter::new(bytes, KEPT_BYTES_MAX);
    let mut archive = Meter::new(
        plain(BufReader::with_capacity(64 * 1024, &mut kept)).map_err(broken)?,
        *bytes_left,
    );
    let laid = entries(root, layer, &mut archive);
    if archive.is_over() {
        return Err(too_large());
    }
    laid?;
    // Behind the archive's end there may be more that counts.
    let (diff_id, left) = archive.finish().map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => too_large(),
        _ => broken(source),
    })?;
    *bytes_left = left;
    let (digest, _) = kept.finish().map_err(broken)?;
    if digest != layer.digest {
        return Err(ImageError::Damaged {
            digest: layer.digest,
            actual: digest,
        });
    }
    if diff_id != layer.diff_id {
        return Err(ImageError::DiffId {
            digest: layer.digest,
            expected: layer.diff_id,
            actual: diff_id,
        });
    }
    Ok(())
}

fn too_large() -> ImageError {
    ImageError::TooMuch {
        what: "what its layers unpack to",
        max: UNPACKED_BYTES_MAX,
    }
}

fn entries(root: &mut Root, layer: &Layer, archive: impl Read) -> Result<(), ImageError> {
    let broken = |source| ImageError::Layer {
        layer: layer.digest,
        source,
    };
    let mut archive = tar::Archive::new(archive);
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        root.count().map_err(|refused| refused.of(layer, b""))?;
        if extended.take(&mut entry).map_err(broken)? {
            continue;
        }
        let of_entry = std::mem::take(&mut extended);
        let path = of_entry.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = of_entry.link.or_else(|| entry.link_name_bytes().map(Into::into));
        let done = match of_entry.refusal {
            Some(reason) => Err(Refused::Entry(reason)),
            None => one(root, &mut entry, &path, link.as_deref()),
        };
        done.map_err(|refused| refused.of(layer, &path))?;
    }
    Ok(())
}

fn one<R: Read>(root: &mut Root, entry: &mut Entry<'_, R>, path: &[u8], link: Option<&[u8]>) -> Result<(), Refused> {
    let header = entry.header().clone();
    let Some((folder, name)) = root::split(path)? else {
        // The root itself is there, as every guest may see it.
        return Ok(());
    };
    if name == OPAQUE {
        return root.make_opaque(&folder);
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        // Longer marks are the storage driver's own.
        return match gone.starts_with(WHITEOUT) {
            true => Ok(()),
            false => root.white_out(&folder, gone),
        };
    }
    let link = || {
        link.filter(|link| !link.is_empty())
            .ok_or(Refused::Entry("links to nothing"))
    };
    match header.entry_type() {
        EntryType::Directory => root.folder(&folder, name, mode(&header)),
        EntryType::Regular | EntryType::Continuous => root.file(&folder, name, (mode(&header), time(&header)), entry),
        EntryType::Symlink => root.symbolic_link(&folder, name, link()?),
        EntryType::Link => root.hard_link(&folder, name, link()?),
        EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader => Ok(()),
        _ => Err(Refused::Entry("is of a kind that no image has")),
    }
}

/// The permissions, without what would give a guest more than its own.
fn mode(header: &Header) -> u32 {
    header.mode().unwrap_or(0o755) & 0o1777
}

/// Seconds since 1970.
fn time(header: &Header) -> i64 {
    header.mtime().ok().and_then(|time| time.try_into().ok()).unwrap_or(0)
}
