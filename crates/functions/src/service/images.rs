//! The part of the handle that is about container images.

use super::Handle;
use crate::error::Error;
use crate::model::image::{ImageStaging, PushImage, StoredImage};
use crate::model::{Caller, Page, PageRequest};
use crate::name::image::{ImageName, Tag};
use crate::operations::images;

impl Handle {
    /// Waits for its turn to bring an image.
    pub async fn stage_image(&self, caller: &Caller, name: &ImageName) -> Result<ImageStaging, Error> {
        images::stage(self.inner(), caller, name).await
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
