//! Fetching an image from a registry, for the function that names it.
//!
//! Whoever creates or updates the function waits for its documents, which say whether it can be had and used at all. The
//! layers come while the version is prepared: an active one never needs the registry again.

use std::io::{self, SeekFrom};

use bowline_foundation::digest::Digest;
use bowline_oci::image::{Choice, INDEX_DEPTH_MAX, choose};
use bowline_oci::registry::{Registry, RegistryError};
use bowline_oci::unpack::UNPACKED_BYTES_MAX;
use bowline_oci::{Image, ImageError};
use bowline_store::blob::BlobError;
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncSeekExt as _;

use super::{HeldImage, refused, staging_file};
use crate::error::{Error, with_causes};
use crate::model::image::{ImageConfig, ImageParts, ImageUse};
use crate::name::image::{ImageRef, Which};
use crate::service::Inner;

impl Inner {
    /// Fetches the documents of an image.
    pub(super) async fn fetch_image(&self, reference: &ImageRef, uri: &str) -> Result<HeldImage, Error> {
        let host = reference.host.as_deref().unwrap_or_default();
        let registry = self.registries.iter().find(|registry| registry.host() == host);
        let registry = registry.ok_or_else(|| {
            Error::InvalidParameter(format!(
                "Source image {uri} is not valid. Provide a valid source image: no registry `{host}` is configured on \
                 this node. Name it in `registries`, or upload the image with `bowline image push`."
            ))
        })?;
        let (manifest, config) = documents(registry, reference)
            .await
            .map_err(|error| not_fetched(uri, error))??;
        let image = Image::read(&manifest, &config).map_err(refused)?;
        if image.bytes() > UNPACKED_BYTES_MAX {
            return Err(Error::InvalidParameter(format!(
                "The image cannot be used: its layers exceed the limit of {UNPACKED_BYTES_MAX} bytes."
            )));
        }
        let parts = ImageParts::from(&image);
        let held = self.hold(parts.digests()).await;
        for document in [manifest, config] {
            self.blobs.put(document).await.map_err(Error::service)?;
        }
        Ok(HeldImage {
            image: ImageUse {
                uri: uri.to_owned(),
                resolved_uri: reference.at(image.digest).to_string(),
                parts,
                process: image.process,
                config: ImageConfig::default(),
            },
            _parts: held,
        })
    }

    /// Fetches the layers that are missing of a function's image. The caller holds its parts.
    pub(in crate::operations) async fn fetch_layers(&self, image: &ImageUse) -> Result<(), NotFetched> {
        let reference: Option<ImageRef> = image.resolved_uri.parse().ok();
        let Some((reference, host)) = reference
            .as_ref()
            .and_then(|found| Some((found, found.host.as_deref()?)))
        else {
            // It was uploaded.
            return Ok(());
        };
        let _permit = self.image_permits.acquire().await;
        let manifest = self.blobs.get(&image.parts.digest).await?;
        let parts = Image::read(&manifest, &self.blobs.get(&image.parts.config).await?)?;
        for layer in &parts.layers {
            if self.blobs.is_sound(&layer.digest).await? {
                self.blobs.keep(&layer.digest).await?;
                continue;
            }
            let registry = self.registries.iter().find(|registry| registry.host() == host);
            let registry = registry.ok_or_else(|| NotFetched::NoRegistry(host.to_owned()))?;
            let mut file = File::from_std(staging_file(self)?);
            let wanted = (layer.digest, layer.bytes);
            registry.layer(reference.name.as_str(), wanted, &mut file).await?;
            file.seek(SeekFrom::Start(0)).await?;
            self.blobs.put_large(layer.digest, file.into_std().await).await?;
        }
        Ok(())
    }
}

/// Why an image's layers are not here.
#[derive(Debug, thiserror::Error)]
pub(in crate::operations) enum NotFetched {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("no registry `{0}` is configured on this node any more")]
    NoRegistry(String),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("its parts cannot be kept")]
    Blob(#[from] BlobError),
    #[error("its parts cannot be kept")]
    Disk(#[from] io::Error),
}

/// The manifest for this machine, and its configuration.
async fn documents(registry: &Registry, reference: &ImageRef) -> Result<Result<(Bytes, Bytes), Error>, RegistryError> {
    let name = reference.name.as_str();
    let by_digest = |digest: &Digest| format!("sha256:{digest}");
    let mut which = match &reference.which {
        Which::Tag(tag) => tag.to_string(),
        Which::Digest(digest) => by_digest(digest),
    };
    for _ in 0..INDEX_DEPTH_MAX {
        let document = registry.manifest(name, &which).await?;
        match choose(&document) {
            Ok(Choice::Another(digest)) => which = by_digest(&digest),
            Ok(Choice::Manifest { config }) => {
                let config = registry.config(name, &config).await?;
                return Ok(Ok((document, config)));
            }
            Err(error) => return Ok(Err(refused(error))),
        }
    }
    Ok(Err(Error::InvalidParameter(
        "The image cannot be used: its indexes lie within one another without end.".to_owned(),
    )))
}

/// What a registry's refusal means for whoever named the image.
fn not_fetched(uri: &str, error: RegistryError) -> Error {
    match error {
        RegistryError::Disk(error) => Error::service(error),
        RegistryError::NotFound { .. } => Error::InvalidParameter(format!(
            "Source image {uri} does not exist. Provide a valid source image."
        )),
        error => Error::InvalidParameter(format!("Source image {uri} cannot be fetched: {}", with_causes(&error))),
    }
}
