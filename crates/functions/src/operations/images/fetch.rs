//! Fetching an image from a registry, for the function that names it.
//!
//! Whoever creates or updates the function waits for it: an active version never needs the registry again.

use std::io::SeekFrom;

use bowline_foundation::digest::Digest;
use bowline_oci::Image;
use bowline_oci::image::{Choice, INDEX_DEPTH_MAX, choose};
use bowline_oci::registry::{Registry, RegistryError};
use bowline_oci::unpack::UNPACKED_BYTES_MAX;
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncSeekExt as _;

use super::{HeldImage, refused, staging_file};
use crate::error::Error;
use crate::model::image::{ImageConfig, ImageParts, ImageUse};
use crate::name::image::{ImageRef, Which};
use crate::operations::settle::UnpackError;
use crate::service::Inner;

impl Inner {
    /// Fetches what is missing of an image, and unpacks it.
    pub(super) async fn fetch_image(&self, reference: &ImageRef, uri: &str) -> Result<HeldImage, Error> {
        let host = reference.host.as_deref().unwrap_or_default();
        let registry = self.registries.iter().find(|registry| registry.host() == host);
        let registry = registry.ok_or_else(|| {
            Error::InvalidParameter(format!(
                "Source image {uri} is not valid. Provide a valid source image: no registry `{host}` is configured on \
                 this node. Name it in `registries`, or upload the image with `bowline image push`."
            ))
        })?;
        let _permit = self.image_permits.acquire().await;
        let unavailable = |error| not_fetched(uri, error);
        let (manifest, config) = documents(registry, reference).await.map_err(unavailable)??;
        let image = Image::read(&manifest, &config).map_err(refused)?;
        if image.bytes() > UNPACKED_BYTES_MAX {
            return Err(Error::InvalidParameter(format!(
                "The image cannot be used: its layers exceed the limit of {UNPACKED_BYTES_MAX} bytes."
            )));
        }
        let parts = ImageParts::from(&image);
        let held = self.hold(parts.digests()).await;
        let stored = self.fetch_parts(registry, reference, (manifest, config), &image).await;
        if let Err(error) = stored {
            self.garbage.add_all(parts.digests());
            return Err(match error {
                NotStored::Registry(error) => unavailable(error),
                NotStored::Here(error) => error,
            });
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

    async fn fetch_parts(
        &self,
        registry: &Registry,
        reference: &ImageRef,
        (manifest, config): (Bytes, Bytes),
        image: &Image,
    ) -> Result<(), NotStored> {
        for document in [manifest, config] {
            self.blobs.put(document).await.map_err(Error::service)?;
        }
        for layer in &image.layers {
            if self.blobs.open(&layer.digest).await.is_ok() {
                self.blobs.keep(&layer.digest).await.map_err(Error::service)?;
                continue;
            }
            let mut file = File::from_std(staging_file(self).map_err(Error::service)?);
            let wanted = (layer.digest, layer.bytes);
            registry.layer(reference.name.as_str(), wanted, &mut file).await?;
            file.seek(SeekFrom::Start(0)).await.map_err(Error::service)?;
            let put = self.blobs.put_large(layer.digest, file.into_std().await).await;
            put.map_err(Error::service)?;
        }
        self.ensure_image(&image.digest).await.map_err(|error| match error {
            UnpackError::Image(error) => refused(error),
            error => Error::service(error),
        })?;
        Ok(())
    }
}

/// Why an image's parts are not here.
enum NotStored {
    Registry(RegistryError),
    Here(Error),
}

impl From<RegistryError> for NotStored {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<Error> for NotStored {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
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
        error => {
            let mut text = format!("Source image {uri} cannot be fetched: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            Error::InvalidParameter(text)
        }
    }
}
