//! The sessions' keys in the store.
//!
//! Parts are joined by `/`, which no stream and no session may contain. Numbers are padded so that keys sort
//! as numbers do.

use bowline_foundation::clock::Timestamp;
use bowline_store::Key;

use super::id::SessionId;
use crate::StreamId;

pub(super) const SESSIONS: &str = "sessions/session/";
pub(super) const AUDIT: &str = "sessions/audit/";
const BY_STREAM: &str = "sessions/of/";

/// `sessions/session/ID`: a [`SessionRecord`](super::record::SessionRecord). Lives from the creation until
/// the deletion, or until [`EXPIRED_KEPT`](super::limits::EXPIRED_KEPT) after the session expired. Missing:
/// there is no such session.
pub(super) fn session(id: &SessionId) -> Key {
    format!("{SESSIONS}{id}").into()
}

/// `sessions/of/STREAM/ID`: nothing; tells that the session reads the stream. Lives as long as the session's
/// record, written and deleted with it. Missing: the session does not read the stream.
pub(super) fn by_stream(stream: &StreamId, id: &SessionId) -> Key {
    format!("{BY_STREAM}{stream}/{id}").into()
}

/// What the keys of a stream's sessions begin with.
pub(super) fn of_stream(stream: &StreamId) -> Key {
    format!("{BY_STREAM}{stream}/").into()
}

/// `sessions/marker/ID/BATCH` (20 digits): a [`MarkerRecord`](super::record::MarkerRecord). Lives from the
/// moment a set is first given out until it is acknowledged, parked, or its session seeks or goes. Written
/// first together with the session's record, later alone. Missing: the set is settled.
pub(super) fn marker(id: &SessionId, batch: u64) -> Key {
    format!("sessions/marker/{id}/{batch:020}").into()
}

/// What the keys of a session's markers begin with.
pub(super) fn markers(id: &SessionId) -> Key {
    format!("sessions/marker/{id}/").into()
}

/// `sessions/parked/ID/BATCH` (20 digits): a [`ParkedRecord`](super::record::ParkedRecord). Lives from the
/// end of the set's attempts until it is dropped or given out again, or its session goes. Written and
/// deleted together with the session's record, which counts them. Missing: the set is not parked.
pub(super) fn parked(id: &SessionId, batch: u64) -> Key {
    format!("sessions/parked/{id}/{batch:020}").into()
}

/// What the keys of a session's parking list begin with.
pub(super) fn parking_list(id: &SessionId) -> Key {
    format!("sessions/parked/{id}/").into()
}

/// `sessions/audit/MICROSECONDS-NONCE` (20 digits, 16 hexadecimal digits): an
/// [`AuditRecord`](super::record::AuditRecord), written with the mutation it tells of. Lives for
/// [`AUDIT_KEPT`](super::limits::AUDIT_KEPT). Missing: nothing happened then.
pub(super) fn audit(at: Timestamp, nonce: u64) -> Key {
    format!("{AUDIT}{:020}-{nonce:016x}", at.as_micros()).into()
}
