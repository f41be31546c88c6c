//! Images made by code: for the tests of everything that takes one, and for seeds of fuzzing.

use std::io::Write as _;

use bowline_foundation::digest::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Map, Value, json};
use tar::Header;

pub use tar::EntryType;

use crate::image::architecture;

/// How a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// The archive of one layer.
pub struct LayerSample(tar::Builder<Vec<u8>>);

/// An image with its layers.
pub struct Sample {
    layers: Vec<Kept>,
    settings: Map<String, Value>,
    architecture: String,
}

struct Kept {
    bytes: Vec<u8>,
    diff_id: Digest,
}

/// Bytes as they are kept or sent.
pub fn packed(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).expect("memory takes it");
            encoder.finish().expect("memory takes it")
        }
        Packing::Zstd => compress_to_vec(bytes, CompressionLevel::Fastest),
    }
}

impl Default for LayerSample {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl LayerSample {
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, (path, mode), "", b"")
    }

    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, (path, mode), "", content)
    }

    #[must_use]
    pub fn symbolic_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, (path, 0o777), target, b"")
    }

    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, (path, 0o644), target, b"")
    }

    /// Any entry, whatever its path is: shorter than 100 bytes, or one that GNU's long names carry.
    #[must_use]
    pub fn entry(mut self, kind: EntryType, (path, mode): (&str, u32), link: &str, content: &[u8]) -> Self {
        for (kind, text) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, link)] {
            if text.len() >= 100 {
                let mut long = text.as_bytes().to_vec();
                long.push(0);
                self.append(kind, ("long", 0), "", &long);
            }
        }
        self.append(kind, (path, mode), link, content);
        self
    }

    fn append(&mut self, kind: EntryType, (path, mode): (&str, u32), link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        let fields = header.as_old_mut();
        fill(&mut fields.name, path);
        fill(&mut fields.linkname, link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("memory takes it");
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("memory takes it")
    }
}

fn fill(field: &mut [u8], text: &str) {
    let end = text.len().min(field.len());
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            settings: Map::new(),
            architecture: architecture().to_owned(),
        }
    }
}

impl Sample {
    /// One more layer on top.
    #[must_use]
    pub fn layer(self, layer: LayerSample, packing: Packing) -> Self {
        self.bytes_layer(&layer.finish(), packing)
    }

    /// The same of any bytes.
    #[must_use]
    pub fn bytes_layer(mut self, archive: &[u8], packing: Packing) -> Self {
        let bytes = packed(archive, packing);
        let diff_id = Digest::of(archive);
        self.layers.push(Kept { bytes, diff_id });
        self
    }

    /// A layer whose bytes are not what the configuration says.
    #[must_use]
    pub fn wrong_diff_id(mut self) -> Self {
        let last = self.layers.last_mut().expect("there is a layer");
        last.diff_id = Digest::of(b"something else");
        self
    }

    /// A member of the configuration's `config`, `Entrypoint` say.
    #[must_use]
    pub fn set(mut self, member: &str, value: Value) -> Self {
        self.settings.insert(member.to_owned(), value);
        self
    }

    #[must_use]
    pub fn for_architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    fn config(&self) -> Vec<u8> {
        let diff_ids = self.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id));
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.settings,
            "rootfs": { "type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>() },
        });
        config.to_string().into_bytes()
    }

    fn manifest(&self) -> Vec<u8> {
        let descriptor = |media_type: &str, bytes: &[u8]| {
            json!({
                "mediaType": media_type,
                "digest": format!("sha256:{}", Digest::of(bytes)),
                "size": bytes.len(),
            })
        };
        let layers = self.layers.iter().map(|layer| &layer.bytes);
        let layers = layers.map(|bytes| descriptor("application/vnd.oci.image.layer.v1.tar", bytes));
        let manifest = json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.config()),
            "layers": layers.collect::<Vec<_>>(),
        });
        manifest.to_string().into_bytes()
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest())
    }

    /// What a layout of it consists of, each with its path; `oci-layout` and `index.json` first.
    pub fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let (manifest, config) = (self.manifest(), self.config());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", Digest::of(&manifest)),
                "size": manifest.len(),
            }],
        });
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        let layers = self.layers.iter().map(|layer| layer.bytes.clone());
        let blobs = [manifest, config].into_iter().chain(layers);
        files.extend(blobs.map(|bytes| (format!("blobs/sha256/{}", Digest::of(&bytes)), bytes)));
        files
    }

    /// An archive of its layout.
    pub fn archive(&self) -> Vec<u8> {
        archive_of(&self.layout())
    }

    /// The archive that older `docker save` writes; its layers are not compressed.
    pub fn saved(&self, tag: &str) -> Vec<u8> {
        let config = self.config();
        let config_name = format!("{}.json", Digest::of(&config));
        let names: Vec<String> = (0..self.layers.len())
            .map(|number| format!("{number}/layer.tar"))
            .collect();
        let manifest = json!([{ "Config": config_name, "RepoTags": [tag], "Layers": names }]);
        let mut files = vec![(config_name, config)];
        let layers = self.layers.iter().map(|layer| layer.bytes.clone());
        files.extend(names.into_iter().zip(layers));
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        archive_of(&files)
    }
}

/// A tar archive of files.
pub fn archive_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = LayerSample::default();
    for (path, content) in files {
        archive = archive.file(path, 0o644, content);
    }
    archive.finish()
}
