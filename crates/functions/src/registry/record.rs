//! What lies behind the registry's keys: JSON with a `format` number, apart from the model's types.
//!
//! A field's name and a format's number never change their meaning; a new field has a default.

mod access_key;
mod alias;
mod attached;
mod audit;
mod configuration;
mod event_invoke;
mod function;
mod layer;
mod mapping;
mod policy;
mod retired;
mod version;

pub(super) use access_key::AccessKeyRecord;
pub(super) use alias::AliasRecord;
pub(super) use attached::AttachedRecord;
pub(super) use audit::AuditRecord;
pub(super) use event_invoke::EventInvokeRecord;
pub(super) use function::FunctionRecord;
pub(super) use layer::{LayerRecord, LayerVersionRecord};
pub(super) use mapping::MappingRecord;
pub(super) use policy::PolicyRecord;
pub(super) use retired::RetiredRecord;
pub(super) use version::VersionRecord;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("record has format `{actual}`, this build knows `{expected}`")]
    Format { actual: u32, expected: u32 },
    #[error("record is not what its format says")]
    Json(#[from] serde_json::Error),
    #[error("record holds `{0}`, which no function can have")]
    Value(String),
}

/// One kind of record with its format.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The number written with each record of this kind.
    const FORMAT: u32;

    fn encode(&self) -> Bytes {
        let wrapped = Wrapped {
            format: Self::FORMAT,
            record: self,
        };
        serde_json::to_vec(&wrapped)
            .expect("records hold text keys and finite numbers only")
            .into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Head { format } = serde_json::from_slice(bytes)?;
        if format != Self::FORMAT {
            return Err(RecordError::Format {
                actual: format,
                expected: Self::FORMAT,
            });
        }
        let wrapped: Wrapped<Self> = serde_json::from_slice(bytes)?;
        Ok(wrapped.record)
    }
}

#[derive(Serialize, Deserialize)]
struct Wrapped<R> {
    format: u32,
    record: R,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[cfg(test)]
mod tests;
