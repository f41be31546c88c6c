//! The frame of records that are JSON: a `format` number beside the record itself. What a record says is its owner's.
//!
//! ```text
//!   {"format": 1, "record": {...}}
//! ```
//! A member's name and a format's number never change their meaning; a new member has a default.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("record has format `{actual}`, this build knows `{expected}`")]
    Format { actual: u32, expected: u32 },
    #[error("record is not what its format says")]
    Json(#[from] serde_json::Error),
}

/// One kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// The number written with each record of this kind.
    const FORMAT: u32;

    fn encode(&self) -> Bytes {
        let framed = Framed {
            format: Self::FORMAT,
            record: self,
        };
        serde_json::to_vec(&framed)
            .expect("records hold text keys and finite numbers only")
            .into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        // The format first: of another one the record may look like anything.
        let Head { format } = serde_json::from_slice(bytes)?;
        if format != Self::FORMAT {
            return Err(FrameError::Format {
                actual: format,
                expected: Self::FORMAT,
            });
        }
        let framed: Framed<Self> = serde_json::from_slice(bytes)?;
        Ok(framed.record)
    }
}

#[derive(Serialize, Deserialize)]
struct Framed<R> {
    format: u32,
    record: R,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Knot {
        name: String,
    }

    impl Record for Knot {
        const FORMAT: u32 = 2;
    }

    #[test]
    fn a_record_is_read_in_its_own_format_only() {
        let knot = Knot {
            name: "bowline".to_owned(),
        };
        let framed = knot.encode();
        assert_eq!(&framed[..], br#"{"format":2,"record":{"name":"bowline"}}"#);
        assert_eq!(Knot::decode(&framed).unwrap(), knot);
        let other = br#"{"format":3,"record":{"strands":1}}"#;
        assert!(matches!(
            Knot::decode(other),
            Err(FrameError::Format { actual: 3, expected: 2 })
        ));
        for damaged in [&b"{"[..], b"{}", b"\xff", br#"{"format":2,"record":{}}"#] {
            assert!(matches!(Knot::decode(damaged), Err(FrameError::Json(_))));
        }
    }
}
