//! The events of one object: the older ones from nodes, the newest from the item.

use bowline_foundation::clock::Timestamp;

use super::backend::{Backend, Deadline};
use super::error::{GetError, InvalidRequest, StoreError};
use super::id::{ObjectId, Unique};
use super::model::{Event, EventPage, PAGE_MAX};
use super::record::{EventRecord, Item, State, decode_node};
use super::{Objects, keys};

/// Nodes read at once: together they stay far below what a process should hold.
const NODES_PER_SCAN: usize = 4;
/// A page ends once its bodies reach this sum.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

impl Objects {
    /// Events after version `after`, at most `limit`; of deleted objects too.
    pub async fn events(&self, id: &ObjectId, after: u64, limit: usize) -> Result<EventPage, GetError> {
        if limit == 0 || limit > PAGE_MAX {
            return Err(InvalidRequest::Page(limit).into());
        }
        let backend = self.backend(&id.store)?;
        let until = self.deadline();
        let found = backend.item(id.unique, until).await?;
        let found = found.filter(|found| found.item.state != State::Barred);
        let item = found.ok_or(GetError::NotFound)?.item;
        let records = self
            .event_records(backend, id.unique, (&item, after, limit), until)
            .await?;
        let last = records.last().map(|event| event.version);
        Ok(EventPage {
            next: last.filter(|last| *last < item.version),
            events: records.into_iter().map(|record| shown(id, record)).collect(),
        })
    }

    /// As [`Objects::events`], as of the moment at which `item` was read.
    pub(super) async fn event_records(
        &self,
        backend: &Backend,
        unique: Unique,
        page: (&Item, u64, usize),
        until: Deadline,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let (item, after, limit) = page;
        let mut records: Vec<EventRecord> = Vec::new();
        let mut version = after;
        let mut bytes = 0;
        let mut take = |events: Vec<EventRecord>, version: &mut u64| {
            for event in events {
                // Nodes may overlap, and tell the same where they do.
                let next = event.version > *version && event.version <= item.version;
                if next && records.len() < limit && bytes < PAGE_BYTES {
                    *version = event.version;
                    bytes += event.body.as_ref().map_or(0, bytes::Bytes::len);
                    records.push(event);
                }
            }
            records.len() < limit && bytes < PAGE_BYTES
        };
        let inline_from = item.events.first().map_or(u64::MAX, |first| first.version);
        let mut room = true;
        while room && version + 1 < inline_from {
            let from = keys::node(unique, version);
            let nodes = backend
                .scan(&keys::nodes(unique), Some(&from), NODES_PER_SCAN, until)
                .await?;
            if nodes.is_empty() {
                break;
            }
            for (_, entry) in nodes {
                let events = decode_node(entry.value).map_err(|source| backend.unreadable(source))?;
                room = room && take(events, &mut version);
            }
        }
        if room {
            take(item.events_in_full(), &mut version);
        }
        Ok(records)
    }
}

fn shown(id: &ObjectId, record: EventRecord) -> Event {
    Event {
        event_id: format!("{:032x}", record.event_id),
        object: id.clone(),
        kind: record.kind,
        version: record.version,
        at: Timestamp::from_micros(record.at_micros),
        by: record.by,
        request: record.request,
        body: record.body.unwrap_or_default(),
    }
}
