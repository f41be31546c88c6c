//! Why an image is refused.

use std::io;

use bowline_foundation::digest::Digest;

/// An image that cannot be used, or a disk that cannot. The text is for whoever brought the image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(
        "it is neither an OCI image layout nor what `docker save` writes: the archive has no `index.json` and no \
         `manifest.json`"
    )]
    NotAnImage,
    #[error("it is not a tar archive: {0}")]
    NotATar(String),
    #[error("its compression is damaged")]
    Compression(#[source] io::Error),
    #[error("the archive breaks off in `{0}`")]
    CutOff(String),
    #[error("`{0}` is missing in it")]
    Missing(String),
    #[error("{what} exceeds the limit of `{max}`")]
    TooMuch { what: &'static str, max: u64 },
    #[error("`{digest}` is not what its digest says: the bytes have `{actual}`")]
    Damaged { digest: Digest, actual: Digest },
    #[error(
        "layer `{digest}` unpacks to something else than the configuration says: expected `{expected}`, found `{actual}`"
    )]
    DiffId {
        digest: Digest,
        expected: Digest,
        actual: Digest,
    },
    #[error("the {what} cannot be read")]
    Document {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the {what} is malformed: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("no image in it is for linux/{wanted}; there is {found}")]
    Platform { wanted: &'static str, found: String },
    #[error("it holds several images for linux/{wanted}; put one of them into an archive of its own: {found}")]
    Ambiguous { wanted: &'static str, found: String },
    #[error("entry `{path}` of layer `{layer}` {reason}")]
    Entry {
        layer: Digest,
        path: String,
        reason: &'static str,
    },
    #[error("layer `{layer}` cannot be unpacked")]
    Layer {
        layer: Digest,
        #[source]
        source: io::Error,
    },
    #[error("an image cannot be read or laid out here")]
    Io(#[from] io::Error),
}

impl ImageError {
    /// Whether another image would do, as opposed to another disk.
    pub fn is_of_the_image(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}
