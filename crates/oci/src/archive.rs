//! Images in one tar archive: an OCI image layout, or what `docker save` writes, which in newer versions is both.
//!
//! The archive lies in a file, so that its parts are read where they are; nothing of it is unpacked, but its own
//! compression if it has one (`docker save | gzip`). Formats: the OCI Image Specification, "Image Layout"; Docker's "Image
//! Specification v1.2" for `manifest.json`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bowline_foundation::digest::{Digest, Hasher};
use serde::Deserialize;
use tar::EntryType;

use crate::ImageError;
use crate::compression;
use crate::image::{self, Choice, DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX, Image, LAYERS_MAX, Layer, manifest_of};

/// Most files of an archive.
const ENTRIES_MAX: usize = 16_384;
/// Most bytes of an archive, uncompressed: 10 GiB.
const BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
const COPY_BYTES: usize = 256 * 1024;
const INDEX: &str = "index.json";
const SAVED: &str = "manifest.json";

/// An image with its parts, as it was brought.
pub struct Upload {
    pub image: Image,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<Part>,
}

/// Some bytes of the archive's file.
#[derive(Clone)]
pub struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

/// Where what lies in an archive.
struct Archive {
    file: Arc<File>,
    places: HashMap<String, Place>,
}

enum Place {
    Bytes {
        at: u64,
        bytes: u64,
    },
    /// The same as another, which older `docker save` has for layers that occur twice.
    Link(String),
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Option<Vec<String>>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl Upload {
    /// Finds the image for this platform in an archive, from its beginning, and checks all but the layers' content. A
    /// compressed archive is written to a `spare` file first.
    pub fn read(file: File, spare: impl FnOnce() -> io::Result<File>) -> Result<Self, ImageError> {
        let archive = Archive::open(uncompressed(file, spare)?)?;
        if archive.places.contains_key(INDEX) {
            archive.layout()
        } else if archive.places.contains_key(SAVED) {
            archive.saved()
        } else {
            Err(ImageError::NotAnImage)
        }
    }

    /// The manifest, as it is kept.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The configuration, as it is kept.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The layers' bytes, in order.
    pub fn layers(&self) -> &[Part] {
        &self.layers
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Archive {
    fn open(file: File) -> Result<Self, ImageError> {
        let not_a_tar = |error: io::Error| ImageError::NotATar(error.to_string());
        let file = Arc::new(file);
        let length = (&*file).seek(SeekFrom::End(0))?;
        (&*file).seek(SeekFrom::Start(0))?;
        let mut places = HashMap::new();
        let mut archive = tar::Archive::new(BufReader::with_capacity(4096, &*file));
        // Raw: what extends a header is of no use here, and would be read into memory whole.
        let entries = archive.entries_with_seek().map_err(not_a_tar)?.raw(true);
        for (count, entry) in entries.enumerate() {
            let entry = entry.map_err(not_a_tar)?;
            if count == ENTRIES_MAX {
                return Err(ImageError::TooMuch {
                    what: "the number of its files",
                    max: ENTRIES_MAX as u64,
                });
            }
            let name = plain(&String::from_utf8_lossy(&entry.path_bytes()));
            let place = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let (at, bytes) = (entry.raw_file_position(), entry.size());
                    if at.checked_add(bytes).is_none_or(|end| end > length) {
                        return Err(ImageError::CutOff(name.chars().take(200).collect()));
                    }
                    Place::Bytes { at, bytes }
                }
                EntryType::Symlink | EntryType::Link => {
                    let is_symbolic = entry.header().entry_type() == EntryType::Symlink;
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    Place::Link(if is_symbolic {
                        beside(&name, &target)
                    } else {
                        plain(&target)
                    })
                }
                _ => continue,
            };
            places.insert(name, place);
        }
        Ok(Self { file, places })
    }

    fn part(&self, name: &str) -> Result<Part, ImageError> {
        let missing = || ImageError::Missing(name.chars().take(200).collect());
        let mut found = self.places.get(&plain(name)).ok_or_else(missing)?;
        if let Place::Link(target) = found {
            found = self.places.get(target).ok_or_else(missing)?;
        }
        match *found {
            Place::Bytes { at, bytes } => Ok(Part {
                file: self.file.clone(),
                at,
                left: bytes,
            }),
            Place::Link(_) => Err(missing()),
        }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut part = self.part(name)?;
        if part.left > DOCUMENT_BYTES_MAX {
            return Err(ImageError::TooMuch {
                what: "the size of a document",
                max: DOCUMENT_BYTES_MAX,
            });
        }
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn blob(&self, layer: &Layer) -> Result<Part, ImageError> {
        let name = format!("blobs/sha256/{}", layer.digest);
        let part = self.part(&name)?;
        if part.left != layer.bytes {
            let reason = format!("`{name}` has {} bytes, not {}", part.left, layer.bytes);
            return Err(ImageError::Malformed {
                what: "manifest",
                reason,
            });
        }
        Ok(part)
    }

    /// A document that is named by its digest.
    fn named(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&format!("blobs/sha256/{digest}"))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ImageError::Damaged {
                digest: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    fn layout(&self) -> Result<Upload, ImageError> {
        let mut document = self.document(INDEX)?;
        for _ in 0..INDEX_DEPTH_MAX {
            match image::choose(&document)? {
                Choice::Another(digest) => document = self.named(&digest)?,
                Choice::Manifest { config } => {
                    let config = self.named(&config)?;
                    let image = Image::read(&document, &config)?;
                    let layers: Result<Vec<_>, _> = image.layers.iter().map(|layer| self.blob(layer)).collect();
                    return Ok(Upload {
                        layers: layers?,
                        image,
                        manifest: document,
                        config,
                    });
                }
            }
        }
        Err(ImageError::TooMuch {
            what: "the depth of its indexes",
            max: INDEX_DEPTH_MAX as u64,
        })
    }

    fn saved(&self) -> Result<Upload, ImageError> {
        let saved: Vec<Saved> = image::read("file `manifest.json`", &self.document(SAVED)?)?;
        let [saved] = saved.as_slice() else {
            let tags = saved.iter().flat_map(|one| one.repo_tags.iter().flatten());
            return Err(ImageError::Ambiguous {
                wanted: image::architecture(),
                found: tags.map(String::as_str).collect::<Vec<_>>().join(", "),
            });
        };
        let config = self.document(&saved.config)?;
        let names = saved.layers.as_deref().unwrap_or_default();
        if names.len() > LAYERS_MAX {
            return Err(ImageError::TooMuch {
                what: "the number of its layers",
                max: LAYERS_MAX as u64,
            });
        }
        let layers: Result<Vec<_>, _> = names.iter().map(|name| self.part(name)).collect();
        let layers = layers?;
        let described: io::Result<Vec<_>> = layers
            .iter()
            .map(|part| Ok((digest_of(part.clone())?, part.left)))
            .collect();
        let manifest = manifest_of((Digest::of(&config), config.len() as u64), &described?);
        Ok(Upload {
            image: Image::read(&manifest, &config)?,
            manifest,
            config,
            layers,
        })
    }
}

/// An archive whose own compression, if it has one, has been taken away.
fn uncompressed(mut file: File, spare: impl FnOnce() -> io::Result<File>) -> Result<File, ImageError> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = BufReader::with_capacity(COPY_BYTES, &file);
    if !compression::is_compressed(bytes.fill_buf()?) {
        return Ok(file);
    }
    let mut plain = compression::plain(bytes).map_err(ImageError::Compression)?;
    let (mut written, mut left) = (spare()?, BYTES_MAX);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error().is_some() => return Err(error.into()),
            Err(error) => return Err(ImageError::Compression(error)),
        };
        left = left.checked_sub(read as u64).ok_or(ImageError::TooMuch {
            what: "the size of the uncompressed archive",
            max: BYTES_MAX,
        })?;
        written.write_all(&buffer[..read])?;
    }
    Ok(written)
}

fn digest_of(mut part: Part) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match part.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// A name without the ways of saying "here".
fn plain(name: &str) -> String {
    let parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

/// Where a link that lies at `name` leads.
fn beside(name: &str, target: &str) -> String {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    plain(&parts.join("/"))
}
