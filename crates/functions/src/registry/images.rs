//! Uploaded images in memory and in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_store::{Key, Version as StoreVersion};
use parking_lot::RwLock;

use super::load::{LoadError, read};
use super::record::{ImageRecord, Record as _};
use super::{Change, Registry, keys};
use crate::model::image::StoredImage;
use crate::name::image::{ImageName, Tag};

/// An image as it was committed.
#[derive(Clone)]
pub(crate) struct ImageEntry {
    pub image: StoredImage,
    pub at: StoreVersion,
}

type Place = (AccountId, ImageName, Tag);
type All = BTreeMap<Place, Arc<ImageEntry>>;

/// All images, by account, name and tag.
#[derive(Default)]
pub(crate) struct Images(RwLock<All>);

impl Images {
    pub fn get(&self, account: &AccountId, name: &ImageName, tag: &Tag) -> Option<Arc<ImageEntry>> {
        let place = (account.clone(), name.clone(), tag.clone());
        self.0.read().get(&place).cloned()
    }

    /// The image of a name that has the digest, whatever its tag is.
    pub fn by_digest(&self, account: &AccountId, name: &ImageName, digest: &Digest) -> Option<Arc<ImageEntry>> {
        let mut own = self.of_account(account).into_iter();
        own.find(|entry| entry.image.name == *name && entry.image.parts.digest == *digest)
    }

    /// The account's images by name and tag.
    pub fn of_account(&self, account: &AccountId) -> Vec<Arc<ImageEntry>> {
        let all = self.0.read();
        let own = all.values().filter(|entry| entry.image.account == *account);
        own.cloned().collect()
    }

    /// The digests of all parts of all images.
    pub fn digests(&self) -> Vec<Digest> {
        let all = self.0.read();
        all.values().flat_map(|entry| entry.image.parts.digests()).collect()
    }

    pub fn put(&self, entry: ImageEntry) {
        self.0.write().insert(place(&entry.image), Arc::new(entry));
    }

    pub fn remove(&self, image: &StoredImage) {
        self.0.write().remove(&place(image));
    }
}

fn place(image: &StoredImage) -> Place {
    (image.account.clone(), image.name.clone(), image.tag.clone())
}

impl Change {
    /// An image appears, gives its tag to another, or goes.
    pub fn image(&mut self, old: Option<&ImageEntry>, new: Option<&ImageEntry>) -> &mut Self {
        let Some(image) = new.or(old).map(|entry| &entry.image) else {
            return self;
        };
        let encode = |entry: &ImageEntry| ImageRecord::from(&entry.image).encode();
        self.put(
            keys::image(&image.account, &image.name, &image.tag),
            old.map(|old| old.at),
            old.map(encode),
            new.map(encode),
        )
    }
}

impl Registry {
    /// Brings the images up to what the store holds; returns the digests of parts that no image has any more.
    pub async fn load_images(&self) -> Result<Vec<Digest>, LoadError> {
        let mut loaded = All::new();
        for (key, entry) in self.scan(keys::IMAGES).await? {
            let (account, name, tag) = subject(&key)?;
            let record: ImageRecord = read(&key, &entry)?;
            let image = record.into_model(account, name, tag);
            let at = entry.version;
            loaded.insert(place(&image), Arc::new(ImageEntry { image, at }));
        }
        let before = self.images.digests();
        *self.images.0.write() = loaded;
        let after = self.images.digests();
        Ok(before.into_iter().filter(|digest| !after.contains(digest)).collect())
    }
}

fn subject(key: &Key) -> Result<Place, LoadError> {
    let invalid = || LoadError::Key(String::from_utf8_lossy(key).into_owned());
    let text = std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.strip_prefix(keys::IMAGES));
    let (account, rest) = text.and_then(|text| text.split_once('/')).ok_or_else(invalid)?;
    let (name, tag) = rest.rsplit_once(':').ok_or_else(invalid)?;
    let account = account.parse().map_err(|_| invalid())?;
    let name = name.parse().map_err(|_| invalid())?;
    let tag = tag.parse().map_err(|_| invalid())?;
    Ok((account, name, tag))
}
