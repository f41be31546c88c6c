//! Which layers a function may have.

use bowline_foundation::id::AccountId;
use bowline_foundation::limits::{LAYERS_MAX, UNZIPPED_CODE_BYTES_MAX};
use bowline_sandbox::SandboxKind;
use bowline_store::Sharing;

use super::layers::{denied, find};
use crate::error::Error;
use crate::model::layers::LayerUse;
use crate::model::{Caller, Configuration};
use crate::name::layer::LayerVersionArn;
use crate::service::Inner;

impl Inner {
    /// The layer versions that a function of `account` asks for. The caller holds the code gate until the
    /// snapshot names them, so that none is collected in between.
    pub(super) async fn use_layers(&self, account: &AccountId, arns: &[String]) -> Result<Vec<LayerUse>, Error> {
        if arns.len() > LAYERS_MAX {
            return Err(Error::InvalidParameter(format!(
                "Cannot reference more than {LAYERS_MAX} layers."
            )));
        }
        let mut uses: Vec<LayerUse> = Vec::new();
        for arn in arns {
            let (layer, _) = arn.rsplit_once(':').unwrap_or_default();
            if uses
                .iter()
                .any(|known| known.arn.rsplit_once(':').is_some_and(|(known, _)| known == layer))
            {
                return Err(Error::InvalidParameter(
                    "Two different versions of the same layer are not allowed to be referenced in the same function."
                        .to_owned(),
                ));
            }
            uses.push(self.use_layer(account, arn).await?);
        }
        Ok(uses)
    }

    async fn use_layer(&self, account: &AccountId, text: &str) -> Result<LayerUse, Error> {
        let arn: LayerVersionArn = text.parse()?;
        if arn.region != self.region() {
            return Err(Error::InvalidParameter(format!(
                "Layers are not in the same region as the function. Layers are expected to be in region {}.",
                self.region()
            )));
        }
        let found = find(self, &arn.layer, arn.number).await?;
        if arn.layer.account != *account
            && !found
                .as_ref()
                .is_some_and(|found| found.version.policy.permits(account))
        {
            let caller = Caller {
                account: account.clone(),
                request_id: String::new(),
            };
            return Err(denied(self, &caller, &arn.layer, "GetLayerVersion", Some(arn.number)));
        }
        let found = found.ok_or_else(|| Error::InvalidParameter(format!("Layer version {text} does not exist.")))?;
        if self.registry.sharing == Sharing::Shared {
            // Young again: another node that sees the layer deleted must not take it for an orphan.
            let bytes = self.blobs.get(&found.version.code.digest).await;
            let put = self.blobs.put(bytes.map_err(Error::service)?).await;
            put.map_err(Error::service)?;
        }
        Ok(LayerUse {
            arn: text.to_owned(),
            code: found.version.code,
            unzipped_bytes: found.version.unzipped_bytes,
        })
    }

    /// Whether the function can have its layers, with code of so many bytes.
    pub(super) fn check_layers(&self, configuration: &Configuration, unzipped_bytes: u64) -> Result<(), Error> {
        if configuration.layers.is_empty() {
            return Ok(());
        }
        if configuration.kind == SandboxKind::Wasm {
            return Err(Error::InvalidParameter(
                "Layers are not available to a WebAssembly function: it has no file system that could hold /opt. Link \
                 what it needs into the module, or deploy it as a native program."
                    .to_owned(),
            ));
        }
        let layers: u64 = configuration.layers.iter().map(|layer| layer.unzipped_bytes).sum();
        let total = layers + unzipped_bytes;
        if total > UNZIPPED_CODE_BYTES_MAX {
            return Err(Error::InvalidParameter(format!(
                "Function code combined with layers exceeds the maximum allowed size of {UNZIPPED_CODE_BYTES_MAX} bytes. \
                 The actual size is {total} bytes."
            )));
        }
        Ok(())
    }
}
