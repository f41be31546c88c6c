//! What a stream's deletion takes away of its sessions, and the audit rows of streams.

use bowline_store::{Condition, ReadError, Store, Write};

use super::id::SessionId;
use super::keys;
use super::limits::{IN_FLIGHT_SETS_MAX, PARKED_SETS_MAX};
use super::record::{AuditRecord, Record};
use super::settings::Caller;
use crate::StreamId;
use crate::host::Inner;

/// What removes the first session that reads `stream` with all it has; nothing if there is none.
pub(crate) async fn removal_of_stream(
    store: &dyn Store,
    stream: &StreamId,
) -> Result<Option<(Vec<Condition>, Vec<Write>)>, ReadError> {
    let prefix = keys::of_stream(stream);
    let first = store.scan(&prefix, None, 1).await?.into_iter().next();
    let Some((by_stream, _)) = first else { return Ok(None) };
    let text = String::from_utf8_lossy(&by_stream[prefix.len()..]);
    let id: SessionId = text.parse().map_err(|error| ReadError::Damaged(format!("{error}")))?;
    let session = keys::session(&id);
    // A new marker changes the session: if it has this version still, none is missed below.
    let known = store.get(&session).await?;
    let conditions = known.map(|entry| Condition::AtVersion(session.clone(), entry.version));
    let mut writes = vec![Write::Delete(by_stream), Write::Delete(session)];
    for (list, most) in [
        (keys::markers(&id), IN_FLIGHT_SETS_MAX),
        (keys::parking_list(&id), PARKED_SETS_MAX),
    ] {
        let found = store.scan(&list, None, most + 1).await?;
        writes.extend(found.into_iter().map(|(key, _)| Write::Delete(key)));
    }
    Ok(Some((conditions.into_iter().collect(), writes)))
}

/// The audit row of a mutation of a stream.
pub(crate) fn audit_row(
    host: &Inner,
    caller: &Caller,
    (action, stream): (&str, &StreamId),
    (before, after): (Option<String>, Option<String>),
) -> Write {
    let at = host.clock.wall().now();
    let record = AuditRecord {
        who: caller.who.clone(),
        request_id: caller.request_id.clone(),
        action: action.to_owned(),
        subject: stream.to_string(),
        before,
        after,
        at,
    };
    Write::Put(keys::audit(at, host.entropy.number()), record.encode())
}
