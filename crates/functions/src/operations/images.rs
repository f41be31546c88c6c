//! Container images: taking one in, listing, removing, and finding the one that a function names.
//!
//! ```text
//!   archive ─▶ read ─▶ parts to the blobs ─▶ unpacked, which checks every layer ─▶ record
//! ```
//! While an image is taken in its parts are held, so that none of them is collected before a record names it.

mod fetch;

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::limits::CODE_STORAGE_BYTES_MAX;
use bowline_oci::image::{Choice, choose};
use bowline_oci::{Image, ImageError, Upload};
use bowline_store::{Sharing, Version as StoreVersion};
use tokio::task::spawn_blocking;

use super::list::{marker, paged};
use super::refusals;
use super::settle::UnpackError;
use crate::error::Error;
use crate::model::image::{ImageConfig, ImageParts, ImageUse, PushImage, StoredImage};
use crate::model::{Caller, Page, PageRequest};
use crate::name::image::{ImageName, ImageRef, Tag, Which};
use crate::package::cache::CodeHold;
use crate::registry::{Audit, Change, ImageEntry};
use crate::service::Inner;

/// An image whose parts nobody collects.
pub(super) struct HeldImage {
    pub image: ImageUse,
    _parts: Vec<Arc<CodeHold>>,
}

/// A file for an upload, which nobody else can open and which goes with its last handle.
pub(crate) fn staging_file(inner: &Inner) -> io::Result<File> {
    let path = inner.data_dir.join(format!("upload-{}", inner.revision()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

pub(crate) async fn push(inner: Arc<Inner>, caller: Caller, request: PushImage) -> Result<StoredImage, Error> {
    if request.name.looks_like_a_host() {
        return Err(Error::InvalidParameter(format!(
            "The first part of the name {} looks like a registry's address; choose one without a dot in it.",
            request.name
        )));
    }
    let _permit = inner.image_permits.acquire().await;
    let PushImage { name, tag, archive } = request;
    let staging = inner.clone();
    let upload = spawn_blocking(move || Upload::read(archive, || staging_file(&staging)))
        .await
        .map_err(Error::service)?;
    let upload = upload.map_err(refused)?;
    let image = StoredImage {
        account: caller.account.clone(),
        name,
        tag,
        parts: ImageParts::from(&upload.image),
        process: upload.image.process.clone(),
        created: inner.clock.now(),
    };
    let stored = inner.code_bytes(&caller.account);
    if stored + image.parts.bytes > CODE_STORAGE_BYTES_MAX {
        return Err(Error::CodeStorageExceeded("Code storage limit exceeded.".to_owned()));
    }
    let held = inner.hold(image.parts.digests()).await;
    let pushed = match inner.store_upload(upload).await {
        Ok(()) => commit(&inner, &caller, image.clone()).await,
        Err(error) => Err(error),
    };
    drop(held);
    if pushed.is_err() {
        inner.garbage.add_all(image.parts.digests());
    }
    pushed.map(|()| image)
}

async fn commit(inner: &Inner, caller: &Caller, image: StoredImage) -> Result<(), Error> {
    let _alone = inner.image_lock.lock().await;
    let old = inner.registry.images.get(&image.account, &image.name, &image.tag);
    let mut entry = ImageEntry {
        image,
        at: StoreVersion(0),
    };
    let mut change = Change::default();
    change.image(old.as_deref(), Some(&entry));
    let row = audit(caller, "PushImage", &entry.image.name, &entry.image.tag);
    entry.at = inner.registry.commit_image(row, change).await?;
    inner.crash.reach("push-image.committed");
    let image = &entry.image;
    tracing::info!(request_id = caller.request_id, image = %image.name, tag = %image.tag, digest = %image.parts.digest,
        "image stored");
    inner.registry.images.put(entry);
    if let Some(old) = old {
        inner.garbage.add_all(old.image.parts.digests());
    }
    Ok(())
}

/// An account's images by name and tag.
pub(crate) fn list(inner: &Inner, caller: &Caller, page: &PageRequest) -> Result<Page<StoredImage>, Error> {
    let after = marker(page)?;
    let place = |image: &StoredImage| format!("{}:{}", image.name, image.tag);
    let all = inner.registry.images.of_account(&caller.account);
    let rest = all
        .iter()
        .map(|entry| &entry.image)
        .skip_while(|image| after.as_ref().is_some_and(|after| place(image) != *after))
        .skip(usize::from(after.is_some()));
    paged(rest, page, place)
}

/// Takes a name and its tag from an image; functions that use the image keep it.
pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, name: ImageName, tag: Tag) -> Result<(), Error> {
    let _alone = inner.image_lock.lock().await;
    let old = inner.registry.images.get(&caller.account, &name, &tag);
    let old = old.ok_or_else(refusals::no_resource)?;
    let mut change = Change::default();
    change.image(Some(&old), None);
    let row = audit(&caller, "DeleteImage", &name, &tag);
    inner.registry.commit_image(row, change).await?;
    inner.crash.reach("delete-image.committed");
    inner.registry.images.remove(&old.image);
    inner.garbage.add_all(old.image.parts.digests());
    tracing::info!(request_id = caller.request_id, image = %name, %tag, "image removed");
    Ok(())
}

fn audit<'a>(caller: &'a Caller, action: &'static str, name: &ImageName, tag: &Tag) -> Audit<'a> {
    Audit {
        caller,
        action,
        subject: format!("{}/image/{name}:{tag}", caller.account),
    }
}

impl Inner {
    /// Keeps parts from being collected until the answer is dropped.
    async fn hold(&self, parts: impl Iterator<Item = Digest>) -> Vec<Arc<CodeHold>> {
        // Whoever collects has either done so, or will see the holds.
        let _kept = self.code_gate.read().await;
        parts.map(|digest| self.code.hold(&digest)).collect()
    }

    /// Puts an upload's parts into the blobs, and unpacks it from there.
    async fn store_upload(&self, upload: Upload) -> Result<(), Error> {
        for (digest, bytes) in [
            (upload.image.config_digest, upload.config()),
            (upload.image.digest, upload.manifest()),
        ] {
            let put = self.blobs.put_large(digest, Cursor::new(bytes.to_vec())).await;
            put.map_err(Error::service)?;
        }
        for (layer, part) in upload.image.layers.iter().zip(upload.layers()) {
            self.blobs
                .put_large(layer.digest, part.clone())
                .await
                .map_err(|error| match error {
                    bowline_store::blob::BlobError::Damaged { expected, actual } => refused(ImageError::Damaged {
                        digest: expected,
                        actual,
                    }),
                    error => Error::service(error),
                })?;
        }
        self.crash.reach("push-image.stored");
        self.ensure_image(&upload.image.digest)
            .await
            .map_err(|error| match error {
                UnpackError::Image(error) => refused(error),
                error => Error::service(error),
            })?;
        self.crash.reach("push-image.unpacked");
        Ok(())
    }

    /// Makes sure that an image lies unpacked whose parts are among the blobs.
    pub(crate) async fn ensure_image(&self, digest: &Digest) -> Result<(), UnpackError> {
        if self.code.contains(digest) {
            return Ok(());
        }
        let manifest = self.blobs.get(digest).await?;
        let Choice::Manifest { config } = choose(&manifest)? else {
            return Err(UnpackError::Image(ImageError::NotAnImage));
        };
        let image = Image::read(&manifest, &self.blobs.get(&config).await?)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            layers.push(self.blobs.open(&layer.digest).await?);
        }
        self.code.unpack_image(image, layers).await
    }

    /// The image that a reference names, as a function uses it.
    pub(super) async fn find_image(&self, account: &AccountId, uri: &str) -> Result<HeldImage, Error> {
        let reference: ImageRef = uri.parse().map_err(|_| {
            Error::InvalidParameter(format!(
                "Source image {uri} is not valid. Provide a valid source image: NAME:TAG or NAME@sha256:DIGEST of one \
                 that was uploaded, or HOST/NAME:TAG of a registry."
            ))
        })?;
        if reference.host.is_some() {
            return self.fetch_image(&reference, uri).await;
        }
        let found = self.stored_image(account, &reference).await?;
        let found = found.ok_or_else(|| {
            Error::InvalidParameter(format!(
                "Source image {uri} does not exist. Provide a valid source image."
            ))
        })?;
        let image = &found.image;
        let parts = self.hold(image.parts.digests()).await;
        if self.stored_image(account, &reference).await?.is_none() {
            // Removed just before it could be held.
            return Err(Error::InvalidParameter(format!(
                "Source image {uri} does not exist. Provide a valid source image."
            )));
        }
        if self.registry.sharing == Sharing::Shared {
            // Young again: another node that sees the image removed must not take its parts for orphans.
            for digest in image.parts.digests() {
                self.blobs.keep(&digest).await.map_err(Error::service)?;
            }
        }
        Ok(HeldImage {
            image: ImageUse {
                uri: uri.to_owned(),
                resolved_uri: reference.at(image.parts.digest).to_string(),
                parts: image.parts.clone(),
                process: image.process.clone(),
                config: ImageConfig::default(),
            },
            _parts: parts,
        })
    }

    /// An image as it was committed. Another node may have stored it a moment ago.
    async fn stored_image(&self, account: &AccountId, wanted: &ImageRef) -> Result<Option<Arc<ImageEntry>>, Error> {
        let images = &self.registry.images;
        let known = || match &wanted.which {
            Which::Tag(tag) => images.get(account, &wanted.name, tag),
            Which::Digest(digest) => images.by_digest(account, &wanted.name, digest),
        };
        if let Some(found) = known() {
            return Ok(Some(found));
        }
        if self.registry.sharing == Sharing::Shared {
            let _alone = self.image_lock.lock().await;
            let gone = self.registry.load_images().await.map_err(Error::service)?;
            self.garbage.add_all(gone);
        }
        Ok(known())
    }
}

/// What an image's faults mean for whoever brought it.
pub(super) fn refused(error: ImageError) -> Error {
    if !error.is_of_the_image() {
        return Error::service(error);
    }
    let mut text = format!("The image cannot be used: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.push('.');
    Error::InvalidParameter(text)
}
