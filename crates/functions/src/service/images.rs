//! The part of the handle that is about container images.

use std::fs::File;

use super::Handle;
use crate::error::Error;
use crate::model::image::{PushImage, StoredImage};
use crate::model::{Caller, Page, PageRequest};
use crate::name::image::{ImageName, Tag};
use crate::operations::images;

impl Handle {
    /// An empty file that an image's archive is to be written to; it is gone when it is closed.
    pub async fn image_file(&self) -> Result<File, Error> {
        let inner = self.inner().clone();
        let made = tokio::task::spawn_blocking(move || images::staging_file(&inner)).await;
        made.map_err(Error::service)?.map_err(Error::service)
    }

    /// Keeps an image under a tag, in place of the one that had it.
    pub async fn push_image(&self, caller: &Caller, request: PushImage) -> Result<StoredImage, Error> {
        let pushed = images::push(self.inner().clone(), caller.clone(), request);
        self.finish(pushed).await
    }

    /// The account's images by name and tag.
    pub fn list_images(&self, caller: &Caller, page: &PageRequest) -> Result<Page<StoredImage>, Error> {
        images::list(self.inner(), caller, page)
    }

    /// Takes a tag from an image; functions that use the image keep it.
    pub async fn delete_image(&self, caller: &Caller, name: &ImageName, tag: &Tag) -> Result<(), Error> {
        let deleted = images::delete(self.inner().clone(), caller.clone(), name.clone(), tag.clone());
        self.finish(deleted).await
    }
}
