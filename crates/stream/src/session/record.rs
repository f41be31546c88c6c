//! What lies behind the sessions' keys: JSON with a `format` number.
//!
//! A field's name and a format's number never change their meaning; a new field has a default.

mod audit;
mod marker;
mod parked;
mod session;

pub(super) use audit::AuditRecord;
pub(super) use marker::{Chosen, MarkerRecord, MarkerState};
pub(super) use parked::ParkedRecord;
pub(super) use session::{Recent, SessionRecord, Withheld};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("record has format `{actual}`, this build knows `{expected}`")]
    Format { actual: u32, expected: u32 },
    #[error("record is not what its format says: {0}")]
    Json(#[from] serde_json::Error),
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
            .expect("records hold text keys and whole numbers only")
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

/// Positions and identifiers in their text form.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
