//! The documents of an image: indexes, manifests, configurations. Both OCI's and Docker's are read, which differ
//! in media types only.
//!
//! Formats: the OCI Image Specification 1.1, "Image Manifest", "Image Index" and "Image Configuration".

use std::collections::{BTreeMap, BTreeSet};

use bowline_foundation::digest::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ImageError;

/// Most layers of an image, as Docker has it.
pub const LAYERS_MAX: usize = 127;
/// Largest index, manifest or configuration.
pub const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many indexes may lie within one another.
pub const INDEX_DEPTH_MAX: usize = 4;
/// Marks what only tells of another manifest: provenance, say.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Of its manifest: the image's name for machines.
    pub digest: Digest,
    pub config_digest: Digest,
    /// From the lowest up.
    pub layers: Vec<Layer>,
    pub process: Process,
}

/// A part of an image's file system, laid over those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the bytes as they are kept, compressed or not.
    pub digest: Digest,
    pub bytes: u64,
    /// Of the uncompressed archive.
    pub diff_id: Digest,
}

/// What an image says of the process in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub entry_point: Vec<String>,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Empty if the image does not say.
    pub working_directory: String,
}

/// What a document of unknown kind is.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// An index, in which this is the one for the platform.
    Another(Digest),
    /// A manifest, with the digest of its configuration.
    Manifest { config: Digest },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(flatten)]
    platform: Platform,
    config: Option<Settings>,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

/// The name that images have for this machine's processor.
pub const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// What to do with an index or a manifest.
pub fn choose(document: &[u8]) -> Result<Choice, ImageError> {
    let document: Document = read("manifest", document)?;
    if let Some(manifests) = document.manifests {
        return pick(&manifests).map(Choice::Another);
    }
    match document.config {
        Some(config) => Ok(Choice::Manifest {
            config: digest("manifest", &config.digest)?,
        }),
        None => Err(malformed("manifest", "it has neither `manifests` nor `config`")),
    }
}

/// The one manifest of an index that is for this platform.
fn pick(manifests: &[Descriptor]) -> Result<Digest, ImageError> {
    let is_told_of = |descriptor: &&Descriptor| {
        let annotations = descriptor.annotations.as_ref();
        annotations.is_some_and(|annotations| annotations.contains_key(ATTESTATION))
    };
    let images = || manifests.iter().filter(|descriptor| !is_told_of(descriptor));
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        None => true,
        Some(platform) => platform.os == "linux" && platform.architecture == architecture(),
    };
    let mut found: Vec<&str> = Vec::new();
    for descriptor in images().filter(fits) {
        if !found.contains(&&*descriptor.digest) {
            found.push(&descriptor.digest);
        }
    }
    match found.as_slice() {
        [one] => digest("index", one),
        [] => {
            let platforms: BTreeSet<String> = images().filter_map(|one| one.platform.as_ref()).map(shown).collect();
            Err(not_for_here(&platforms.into_iter().collect::<Vec<_>>().join(", ")))
        }
        several => Err(ImageError::Ambiguous {
            wanted: architecture(),
            found: several.join(", "),
        }),
    }
}

impl Image {
    /// Reads a manifest with its configuration. Whether the bytes are those that the digests name is the caller's
    /// to check.
    pub fn read(manifest: &[u8], config: &[u8]) -> Result<Self, ImageError> {
        let document: Document = read("manifest", manifest)?;
        let configuration: Configuration = read("configuration", config)?;
        let platform = &configuration.platform;
        if platform.os != "linux" || platform.architecture != architecture() {
            return Err(not_for_here(&shown(platform)));
        }
        let layers = document.layers.unwrap_or_default();
        let diff_ids = configuration.rootfs.diff_ids.unwrap_or_default();
        if layers.len() > LAYERS_MAX {
            return Err(ImageError::TooMuch {
                what: "the number of its layers",
                max: LAYERS_MAX as u64,
            });
        }
        if layers.len() != diff_ids.len() {
            let reason = format!(
                "it has {} layers, the configuration tells of {}",
                layers.len(),
                diff_ids.len()
            );
            return Err(malformed("manifest", reason));
        }
        let layer = |(layer, diff_id): (&Descriptor, &String)| {
            Ok(Layer {
                digest: digest("manifest", &layer.digest)?,
                bytes: layer.size,
                diff_id: digest("configuration", diff_id)?,
            })
        };
        let layers: Result<_, ImageError> = layers.iter().zip(&diff_ids).map(layer).collect();
        Ok(Self {
            digest: Digest::of(manifest),
            config_digest: Digest::of(config),
            layers: layers?,
            process: process(configuration.config.unwrap_or_default()),
        })
    }

    /// What its parts add up to as they are kept.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).fold(0, u64::saturating_add)
    }

    /// The digests of all its parts.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let layers = self.layers.iter().map(|layer| layer.digest);
        [self.digest, self.config_digest].into_iter().chain(layers)
    }
}

fn process(settings: Settings) -> Process {
    let variables = settings.env.unwrap_or_default();
    let pair = |variable: &String| {
        let (name, value) = variable.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    Process {
        entry_point: settings.entrypoint.unwrap_or_default(),
        command: settings.cmd.unwrap_or_default(),
        environment: variables.iter().filter_map(pair).collect(),
        working_directory: settings.working_dir.unwrap_or_default(),
    }
}

/// The manifest of an image that came without one: of `docker save` as it was. Always the same for the same parts.
pub(crate) fn manifest_of(config: (Digest, u64), layers: &[(Digest, u64)]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Made {
        schema_version: u8,
        media_type: &'static str,
        config: Part,
        layers: Vec<Part>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Part {
        media_type: &'static str,
        digest: String,
        size: u64,
    }
    let part = |media_type, (digest, size): (Digest, u64)| Part {
        media_type,
        digest: format!("sha256:{digest}"),
        size,
    };
    let made = Made {
        schema_version: 2,
        media_type: "application/vnd.oci.image.manifest.v1+json",
        config: part("application/vnd.oci.image.config.v1+json", config),
        layers: layers
            .iter()
            .map(|layer| part("application/vnd.oci.image.layer.v1.tar", *layer))
            .collect(),
    };
    serde_json::to_vec(&made).expect("texts and numbers always serialise")
}

pub(crate) fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { what, source })
}

pub(crate) fn digest(what: &'static str, text: &str) -> Result<Digest, ImageError> {
    let digest = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    digest.ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        malformed(what, format!("`{shown}` is not a SHA-256 digest"))
    })
}

fn malformed(what: &'static str, reason: impl Into<String>) -> ImageError {
    ImageError::Malformed {
        what,
        reason: reason.into(),
    }
}

fn shown(platform: &Platform) -> String {
    let word = |text: &str| text.chars().take(20).collect::<String>();
    format!("{}/{}", word(&platform.os), word(&platform.architecture))
}

fn not_for_here(found: &str) -> ImageError {
    ImageError::Platform {
        wanted: architecture(),
        found: if found.is_empty() { "none" } else { found }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn check_choice(document: &str, expected: &str) {
        let found = match choose(document.as_bytes()) {
            Ok(Choice::Another(digest)) => format!("another sha256:{digest}"),
            Ok(Choice::Manifest { config }) => format!("manifest of sha256:{config}"),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{document}: {found}");
    }

    fn descriptor(digest: &str, rest: &str) -> String {
        format!(r#"{{"digest":"{digest}","size":1{rest}}}"#)
    }

    fn platform(architecture: &str) -> String {
        format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#)
    }

    #[test]
    fn the_manifest_for_this_platform_is_chosen() {
        let index = |items: &[String]| format!(r#"{{"manifests":[{}]}}"#, items.join(","));
        let here = descriptor(A, &platform(architecture()));
        let elsewhere = descriptor(B, &platform("riscv64"));
        let told = descriptor(
            B,
            r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
        );
        check_choice(&index(&[elsewhere.clone(), here.clone()]), &format!("another {A}"));
        check_choice(&index(&[told, here.clone()]), &format!("another {A}"));
        check_choice(&index(&[descriptor(A, "")]), &format!("another {A}"));
        check_choice(&index(&[elsewhere]), "there is linux/riscv64");
        check_choice(&index(&[]), "there is none");
        check_choice(&index(&[here.clone(), here.clone()]), &format!("another {A}"));
        check_choice(&index(&[here, descriptor(B, "")]), "several images");
        check_choice(r#"{"config":{"digest":"md5:00"}}"#, "is not a SHA-256 digest");
        let manifest = format!(r#"{{"config":{{"digest":"{B}"}},"layers":[]}}"#);
        check_choice(&manifest, &format!("manifest of {B}"));
        check_choice("{}", "neither `manifests` nor `config`");
        check_choice("[", "cannot be read");
    }

    #[test]
    fn what_a_configuration_says_is_kept() {
        let manifest = format!(r#"{{"config":{{"digest":"{A}"}},"layers":[{{"digest":"{A}","size":7}}]}}"#);
        let config = format!(
            r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":["{B}"]}},
            "config":{{"Entrypoint":["/run"],"Cmd":null,"Env":["PATH=/bin","X=a=b","=c","none"],"WorkingDir":"/w"}}}}"#,
            architecture()
        );
        let image = Image::read(manifest.as_bytes(), config.as_bytes()).unwrap();
        assert_eq!(image.digest, Digest::of(manifest.as_bytes()));
        assert_eq!((image.layers.len(), image.bytes()), (1, 7));
        assert_eq!(format!("sha256:{}", image.layers[0].diff_id), B);
        let variables = [("PATH", "/bin"), ("X", "a=b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = Process {
            entry_point: vec!["/run".to_owned()],
            command: Vec::new(),
            environment: variables.into(),
            working_directory: "/w".to_owned(),
        };
        assert_eq!(image.process, expected);
        let other = config.replace(architecture(), "s390x");
        let refused = Image::read(manifest.as_bytes(), other.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("there is linux/s390x"), "{refused}");
        let short = config.replace(&format!(r#""{B}""#), "");
        let refused = Image::read(manifest.as_bytes(), short.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("1 layers"), "{refused}");
    }
}
