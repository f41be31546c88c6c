//! What lies behind the sessions' keys.

mod audit;
mod marker;
mod parked;
mod session;

pub(super) use audit::AuditRecord;
pub(super) use marker::{Chosen, MarkerRecord, MarkerState};
pub(super) use parked::ParkedRecord;
pub(super) use session::{Recent, SessionRecord, Withheld};

pub(super) use bowline_store::record::Record;

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
