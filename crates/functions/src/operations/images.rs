//! Container images: taking one in, listing, removing, and finding the one that a function names.
//!
//! ```text
//!   archive ─▶ read ─▶ parts to the blobs ─▶ unpacked, which checks every layer ─▶ record
//! ```
//! While an image is taken in its parts are held, so that none of them is collected before a record names it.

pub(super) mod fetch;

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_oci::image::{Choice, choose};
use bowline_oci::{Image, ImageError, Upload};
use bowline_store::{Sharing, Version as StoreVersion};
use tokio::task::spawn_blocking;

use super::list::{marker, paged};
use super::refusals;
use super::settle::UnpackError;
use crate::error::{Error, with_causes};
use crate::model::image::{ImageConfig, ImageParts, ImageStaging, ImageUse, PushImage, StoredImage};
use crate::model::{Caller, Page, PageRequest};
use crate::name::image::{ImageName, ImageRef, Tag, Which};
use crate::operations::garbage::Garbage;
use crate::package::cache::CodeHold;
use crate::registry::{Audit, Change, ImageEntry};
use crate::service::Inner;

/// An image whose parts nobody collects.
pub(super) struct HeldImage {
    pub image: ImageUse,
    _parts: HeldParts,
}

/// Parts of an image that nobody collects. Dropped, they are looked at: whoever fetched them may have been refused, so that
/// nothing names them.
pub(super) struct HeldParts {
    digests: Vec<Digest>,
    holds: Vec<Arc<CodeHold>>,
    garbage: Arc<Garbage>,
}

impl Drop for HeldParts {
    fn drop(&mut self) {
        self.holds.clear();
        self.garbage.add_all(self.digests.drain(..));
    }
}

/// A file for an upload, which nobody else can open and which goes with its last handle.
pub(crate) fn staging_file(inner: &Inner) -> io::Result<File> {
    let path = inner.data_dir.join(format!("upload-{}", inner.revision()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Room for an archive, when it is its turn. How much of it is new to its account is not known before it is here: only who
/// can have nothing more is refused at once.
pub(crate) async fn stage(inner: &Arc<Inner>, caller: &Caller, name: &ImageName) -> Result<ImageStaging, Error> {
    if name.looks_like_a_host() {
        return Err(Error::InvalidParameter(format!(
            "The first part of the name {name} looks like a registry's address; choose one without a dot in it."
        )));
    }
    if inner.images_of(&caller.account).is_empty() {
        inner.within_code_storage(&caller.account, 1)?;
    }
    let permit = inner.uploads.clone().acquire_owned().await;
    let staging = inner.clone();
    let archive = spawn_blocking(move || staging_file(&staging)).await;
    Ok(ImageStaging {
        archive: archive.map_err(Error::service)?.map_err(Error::service)?,
        _permit: permit.expect("the semaphore is never closed"),
    })
}

pub(crate) async fn push(inner: Arc<Inner>, caller: Caller, request: PushImage) -> Result<StoredImage, Error> {
    let PushImage { name, tag, staging } = request;
    let ImageStaging { archive, _permit } = staging;
    let _turn = inner.image_permits.acquire().await;
    let spare = inner.clone();
    let upload = spawn_blocking(move || Upload::read(archive, || staging_file(&spare)))
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
    inner.image_within_code_storage(&caller.account, &image.parts)?;
    let _held = inner.hold(image.parts.digests()).await;
    inner.store_upload(upload).await?;
    commit(&inner, &caller, image.clone()).await?;
    Ok(image)
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
    entry.at = commit_change(inner, row, change).await?;
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

/// Commits; if that leaves doubt, reads all images again.
async fn commit_change(inner: &Inner, row: Audit<'_>, mut change: Change) -> Result<StoreVersion, Error> {
    let committed = inner.registry.commit(row, &mut change).await;
    if committed.is_err() {
        match inner.registry.load_images().await {
            Ok(gone) => inner.garbage.add_all(gone),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "images cannot be read again after a failed commit");
            }
        }
    }
    committed
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
    commit_change(&inner, row, change).await?;
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
    pub(super) async fn hold(&self, parts: impl Iterator<Item = Digest>) -> HeldParts {
        // Whoever collects has either done so, or will see the holds.
        let _kept = self.code_gate.read().await;
        let digests: Vec<_> = parts.collect();
        HeldParts {
            holds: digests.iter().map(|digest| self.code.hold(digest)).collect(),
            digests,
            garbage: self.garbage.clone(),
        }
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
        let missing = || {
            Error::InvalidParameter(format!(
                "Source image {uri} does not exist. Provide a valid source image."
            ))
        };
        let found = self.stored_image(account, &reference).await?.ok_or_else(missing)?;
        let image = &found.image;
        let parts = self.hold(image.parts.digests()).await;
        let exact = ImageRef {
            which: Which::Digest(image.parts.digest),
            ..reference.clone()
        };
        if self.stored_image(account, &exact).await?.is_none() {
            // Removed, or its tag moved, just before it could be held.
            return Err(missing());
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
    Error::InvalidParameter(format!("The image cannot be used: {}.", with_causes(&error)))
}
