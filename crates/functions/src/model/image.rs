//! Container images, as the API shows them and as functions use them.

use std::fs::File;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_oci::{Image, Process};
use bowline_sandbox::ImageSpec;
use tokio::sync::OwnedSemaphorePermit;

use crate::name::image::{ImageName, Tag};

/// Where a process starts whose image does not say.
const WORKING_DIRECTORY: &str = "/";

/// An image that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    pub account: AccountId,
    pub name: ImageName,
    pub tag: Tag,
    pub parts: ImageParts,
    pub process: Process,
    pub created: Timestamp,
}

/// The blobs that an image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageParts {
    /// Of the manifest: the image itself.
    pub digest: Digest,
    pub config: Digest,
    /// From the lowest up.
    pub layers: Vec<Digest>,
    /// What the layers add up to as they are kept.
    pub bytes: u64,
}

impl ImageParts {
    /// The digests of all of them.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        [self.digest, self.config]
            .into_iter()
            .chain(self.layers.iter().copied())
    }
}

impl From<&Image> for ImageParts {
    fn from(image: &Image) -> Self {
        Self {
            digest: image.digest,
            config: image.config_digest,
            layers: image.layers.iter().map(|layer| layer.digest).collect(),
            bytes: image.bytes(),
        }
    }
}

/// An image as a version uses it; it stays so when the image is removed, or its tag given to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// The reference that was given.
    pub uri: String,
    /// The same by its digest.
    pub resolved_uri: String,
    pub parts: ImageParts,
    /// What the image says.
    pub process: Process,
    /// What the function says instead.
    pub config: ImageConfig,
}

/// What a function says of its process, over what the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Empty: as the image says.
    pub entry_point: Vec<String>,
    /// Empty: as the image says.
    pub command: Vec<String>,
    /// Empty: as the image says.
    pub working_directory: String,
}

impl ImageConfig {
    /// Whether everything is as the image says.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ImageUse {
    /// How the process is started.
    pub fn spec(&self) -> ImageSpec {
        let or = |own: &Vec<String>, image: &Vec<String>| if own.is_empty() { image } else { own }.clone();
        let mut words = or(&self.config.entry_point, &self.process.entry_point);
        words.extend(or(&self.config.command, &self.process.command));
        let folders = [&self.config.working_directory, &self.process.working_directory];
        let folder = folders.into_iter().find(|folder| !folder.is_empty());
        ImageSpec {
            words,
            environment: self.process.environment.clone(),
            working_directory: folder.map_or(WORKING_DIRECTORY, String::as_str).to_owned(),
        }
    }
}

/// Room for the archive of an image that is on its way; few are at once.
#[derive(Debug)]
pub struct ImageStaging {
    /// Nobody else can open it, and it goes with its last handle.
    pub archive: File,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What an upload of an image takes.
#[derive(Debug)]
pub struct PushImage {
    pub name: ImageName,
    pub tag: Tag,
    /// A tar archive with one image for this machine, compressed or not.
    pub staging: ImageStaging,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_wins_over_the_image() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut image = ImageUse {
            uri: "i".to_owned(),
            resolved_uri: "i".to_owned(),
            parts: ImageParts {
                digest: Digest::of(b"m"),
                config: Digest::of(b"c"),
                layers: Vec::new(),
                bytes: 0,
            },
            process: Process {
                entry_point: words("/entry -x"),
                command: words("app.handler"),
                ..Process::default()
            },
            config: ImageConfig::default(),
        };
        assert_eq!(image.spec().words, words("/entry -x app.handler"));
        assert_eq!(image.spec().working_directory, "/");
        image.process.working_directory = "/var/task".to_owned();
        image.config.command = words("other.handler");
        assert_eq!(image.spec().words, words("/entry -x other.handler"));
        assert_eq!(image.spec().working_directory, "/var/task");
        image.config.entry_point = words("/mine");
        image.config.working_directory = "/tmp".to_owned();
        assert_eq!(image.spec().words, words("/mine other.handler"));
        assert_eq!(image.spec().working_directory, "/tmp");
    }
}
