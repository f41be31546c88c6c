//! Taking code in. A deployment package: check, unpack, try, store; an image, which is stored already: try.

use std::collections::HashMap;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::limits::CODE_STORAGE_BYTES_MAX;
use bowline_sandbox::{PrepareError, Runtime, SandboxKind};
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::images::HeldImage;
use super::refusals;
use crate::error::Error;
use crate::model::image::ImageParts;
use crate::model::{Code, CodePackage, Configuration};
use crate::package::{self, PackageForm, PackageShape};
use crate::service::Inner;

/// A package that passed all checks; nothing of it is stored yet.
pub(crate) struct CheckedCode {
    pub package: CodePackage,
    pub shape: PackageShape,
    bytes: Bytes,
}

/// What a function is to run; nothing of it is in a record yet.
pub(super) enum NewCode {
    Package(CheckedCode),
    Image(Box<HeldImage>),
}

impl NewCode {
    /// Puts it in the place of what the configuration has.
    pub fn put_into(&self, configuration: &mut Configuration) -> Result<(), Error> {
        match self {
            Self::Package(code) => {
                configuration.code = code.package;
                configuration.kind = code.kind(configuration.runtime)?;
            }
            Self::Image(held) => {
                let mut image = held.image.clone();
                // What the function says of its process stays.
                image.config = configuration.image.take().map(|old| old.config).unwrap_or_default();
                configuration.code = CodePackage {
                    digest: image.parts.digest,
                    bytes: 0,
                };
                configuration.kind = SandboxKind::Linux;
                configuration.image = Some(image);
            }
        }
        Ok(())
    }

    /// What counts against the limit that code and layers share.
    pub fn unzipped_bytes(&self) -> u64 {
        match self {
            Self::Package(code) => code.shape.unzipped_bytes,
            Self::Image(_) => 0,
        }
    }
}

/// The crash points on the way of a package.
pub(super) struct Steps {
    pub unpacked: &'static str,
    pub stored: &'static str,
}

impl CheckedCode {
    /// Checks a package off the async threads.
    pub async fn check(bytes: Bytes) -> Result<Self, Error> {
        let task = spawn_blocking(move || {
            let shape = package::check(&bytes).map_err(|error| refusals::package(&error))?;
            let package = CodePackage {
                digest: Digest::of(&bytes),
                bytes: bytes.len() as u64,
            };
            Ok(Self { package, shape, bytes })
        });
        task.await.map_err(Error::service)?
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The kind of sandbox that runs the package.
    pub fn kind(&self, runtime: Runtime) -> Result<SandboxKind, Error> {
        let kind = kind(runtime, self.shape.has_wasm);
        if kind == SandboxKind::Linux && self.shape.form == PackageForm::BareWasm {
            return Err(Error::InvalidParameter(format!(
                "A WebAssembly program needs the runtime provided.al2023, not {runtime}."
            )));
        }
        Ok(kind)
    }
}

pub(super) fn kind(runtime: Runtime, has_wasm: bool) -> SandboxKind {
    match runtime {
        Runtime::ProvidedAl2023 | Runtime::ProvidedAl2 if has_wasm => SandboxKind::Wasm,
        _ => SandboxKind::Linux,
    }
}

impl Inner {
    /// Checks a package, or finds an image.
    pub(super) async fn find_code(&self, account: &AccountId, code: Code) -> Result<NewCode, Error> {
        Ok(match code {
            Code::Package(bytes) => NewCode::Package(CheckedCode::check(bytes).await?),
            Code::Image(uri) => NewCode::Image(Box::new(self.find_image(account, &uri).await?)),
        })
    }

    /// Unpacks and stores checked code for `configuration`. The caller holds the code gate until the
    /// snapshot names the package, so that it is not collected in between.
    pub(super) async fn take_in(
        &self,
        code: NewCode,
        configuration: &Configuration,
        steps: &Steps,
    ) -> Result<(), Error> {
        match &configuration.image {
            None => self.within_code_storage(&configuration.account, configuration.code.bytes)?,
            Some(image) => self.image_within_code_storage(&configuration.account, &image.parts)?,
        }
        let taken = match code {
            NewCode::Package(code) => self.try_take_in(code, configuration, steps).await,
            // Unpacked with the rest of the preparation, if it is not yet.
            NewCode::Image(_) => self.try_runtime(configuration).await,
        };
        if taken.is_err() {
            self.garbage.add_all(configuration.digests());
        }
        taken
    }

    async fn try_take_in(&self, code: CheckedCode, configuration: &Configuration, steps: &Steps) -> Result<(), Error> {
        self.code
            .unpack(&code.package.digest, code.bytes.clone())
            .await
            .map_err(Error::service)?;
        self.crash.reach(steps.unpacked);
        self.try_runtime(configuration).await?;
        self.blobs.put(code.bytes).await.map_err(Error::service)?;
        self.crash.reach(steps.stored);
        Ok(())
    }

    /// Refuses at once what this machine can never run. Compiling is left to the background.
    pub(super) async fn try_runtime(&self, configuration: &Configuration) -> Result<(), Error> {
        let spec = self.spec(configuration);
        match self.backend(configuration.kind).check(&spec).await {
            Err(PrepareError::MissingRuntime(reason) | PrepareError::InvalidCode(reason)) => {
                Err(Error::InvalidParameter(reason))
            }
            // The background finds the same and says so in the function's state.
            _ => Ok(()),
        }
    }

    /// Whether an account may have so much more.
    pub(super) fn within_code_storage(&self, account: &AccountId, bytes: u64) -> Result<(), Error> {
        if self.code_bytes(account).saturating_add(bytes) > CODE_STORAGE_BYTES_MAX {
            return Err(Error::CodeStorageExceeded("Code storage limit exceeded.".to_owned()));
        }
        Ok(())
    }

    /// Whether an account may have an image: it counts once, whatever uses it.
    pub(super) fn image_within_code_storage(&self, account: &AccountId, image: &ImageParts) -> Result<(), Error> {
        let is_counted = self.images_of(account).contains_key(&image.digest);
        self.within_code_storage(account, if is_counted { 0 } else { image.bytes })
    }

    /// The images of an account, uploaded or used by its functions, with what their layers add up to.
    pub(super) fn images_of(&self, account: &AccountId) -> HashMap<Digest, u64> {
        let functions = self.registry.snapshot.of_account(account);
        let configurations = functions.iter().flat_map(|entry| entry.configurations());
        let used = configurations.filter_map(|configuration| configuration.image.as_ref());
        let used = used.map(|image| (image.parts.digest, image.parts.bytes));
        let uploaded = self.registry.images.of_account(account);
        let uploaded = uploaded
            .iter()
            .map(|entry| (entry.image.parts.digest, entry.image.parts.bytes));
        used.chain(uploaded).collect()
    }

    /// What all packages, layers and images of an account add up to.
    pub(crate) fn code_bytes(&self, account: &AccountId) -> u64 {
        let functions = self.registry.snapshot.of_account(account);
        let of_function = |entry: &Arc<crate::registry::FunctionEntry>| {
            let versions = entry.versions.values().map(|version| version.configuration.code.bytes);
            entry.latest.code.bytes + versions.sum::<u64>()
        };
        let layers = self.registry.layers.of_account(account);
        let versions = layers.iter().flat_map(|(_, layer)| layer.versions.values());
        let of_layers: u64 = versions.map(|entry| entry.version.code.bytes).sum();
        let of_images: u64 = self.images_of(account).values().sum();
        of_layers + of_images + functions.iter().map(of_function).sum::<u64>()
    }
}
