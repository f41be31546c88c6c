//! Changing and deleting an object in the one store that has it.
//!
//! ```text
//!   read item ─▶ version as expected? ─▶ commit [unfinished index work, spilled events, beacon, ITEM] ─▶ settle
//!      ▲                                     │ conflict, or unknown: look for our event in the object
//!      └─────────────────────────────────────┘
//! ```

use bytes::Bytes;

use super::backend::{Backend, Deadline, Found};
use super::error::{ChangeError, StoreError, commit_failed};
use super::id::{ObjectId, Unique};
use super::model::{Caller, Delete, EventKind, Expect, Indexes, Update, check_body, check_indexes};
use super::record::{EventRecord, IndexRef, Item, Origin, State, decode_applied, encode_applied, encode_node};
use super::{Objects, keys, settle};
use crate::{CommitError, Condition, Write};

/// One change, ready to be made as often as it takes.
pub(super) struct Change {
    pub kind: EventKind,
    pub expect: Expect,
    pub body: Bytes,
    /// None: as they are.
    pub indexes: Option<Vec<IndexRef>>,
    pub caller: Caller,
    pub event_id: u128,
    pub origin: Origin,
}

/// Whether an earlier attempt may have applied, and to which version it would have been the next.
#[derive(Clone, Copy)]
struct Doubt {
    base: u64,
}

impl Objects {
    /// Gives the object a new body; returns the version it now has.
    pub async fn update(&self, update: Update) -> Result<u64, ChangeError> {
        check_body(&update.body)?;
        let indexes = match &update.indexes {
            Indexes::Keep => None,
            Indexes::Replace(indexes) => Some(check_indexes(indexes, 0)?),
        };
        let change = self.change(EventKind::Update, update.expect, update.caller, &update.id)?;
        let change = Change {
            body: update.body,
            indexes,
            ..change
        };
        self.apply(&update.id, &change).await
    }

    /// Deletes the object; returns the version of its last event.
    pub async fn delete(&self, delete: Delete) -> Result<u64, ChangeError> {
        let change = self.change(EventKind::Delete, delete.expect, delete.caller, &delete.id)?;
        self.apply(&delete.id, &change).await
    }

    fn change(&self, kind: EventKind, expect: Expect, caller: Caller, id: &ObjectId) -> Result<Change, ChangeError> {
        caller.check()?;
        let token = caller.token_number(&id.to_string());
        Ok(Change {
            kind,
            expect,
            body: Bytes::new(),
            indexes: None,
            caller,
            event_id: token.unwrap_or_else(|| self.random_number()),
            origin: if token.is_some() { Origin::Token } else { Origin::Random },
        })
    }

    async fn apply(&self, id: &ObjectId, change: &Change) -> Result<u64, ChangeError> {
        let backend = self.backend(&id.store)?;
        let until = self.deadline();
        let mut doubt: Option<Doubt> = None;
        let mut conflicts = 0u32;
        loop {
            if until.is_over() && conflicts > 0 && doubt.is_none() {
                return Err(ChangeError::Contended);
            }
            let found = backend.item(id.unique, until).await;
            let found = found.map_err(|error| in_doubt(doubt, error))?;
            let found = found
                .filter(|found| found.item.state != State::Barred)
                .ok_or(ChangeError::NotFound)?;
            self.reach("change.read").await;
            let applied = self
                .applied(backend, id.unique, (&found.item, change, doubt), until)
                .await;
            if let Some(version) = applied.map_err(|error| in_doubt(doubt, error))? {
                return Ok(version);
            }
            judge(&found.item, change.expect)?;
            let base = found.item.version;
            match self.commit_change(backend, id.unique, (found, change), until).await {
                Ok(version) => return Ok(version),
                Err(CommitError::Conflict(_)) => conflicts += 1,
                // The same event is tried again: whichever of the two applies, it is this one.
                Err(CommitError::Unknown(_)) => doubt = doubt.or(Some(Doubt { base })),
                Err(error) => return Err(in_doubt(doubt, commit_failed(&backend.name, &error))),
            }
        }
    }

    async fn commit_change(
        &self,
        backend: &Backend,
        unique: Unique,
        change: (Found, &Change),
        until: Deadline,
    ) -> Result<u64, CommitError> {
        let (found, change) = change;
        let (next, writes) = self.plan(unique, &found.item, change);
        self.reach("change.planned").await;
        let conditions = vec![Condition::AtVersion(keys::item(unique), found.version)];
        let version = backend.commit(conditions, writes, until).await?;
        self.reach("change.committed").await;
        let number = next.version;
        self.settle(backend, unique, settle::found(next, version), until).await;
        self.reach("change.settled").await;
        Ok(number)
    }

    /// The version that this very change made earlier, if it did.
    async fn applied(
        &self,
        backend: &Backend,
        unique: Unique,
        change: (&Item, &Change, Option<Doubt>),
        until: Deadline,
    ) -> Result<Option<u64>, StoreError> {
        let (item, change, doubt) = change;
        let ours = |event: &&EventRecord| event.event_id == change.event_id;
        if change.origin == Origin::Random && doubt.is_none() {
            return Ok(None);
        }
        if let Some(event) = item.events.iter().find(ours) {
            return Ok(Some(event.version));
        }
        if change.origin == Origin::Token {
            // Read after the item: an event has this record before it leaves the item.
            let entry = backend.get(&keys::applied(unique, change.event_id), until).await?;
            let version = entry.map(|entry| decode_applied(entry.value)).transpose();
            return version.map_err(|source| backend.unreadable(source));
        }
        let Some(Doubt { base }) = doubt else {
            return Ok(None);
        };
        let mut after = base;
        loop {
            let page = self
                .event_records(backend, unique, (item, after, super::PAGE_MAX), until)
                .await?;
            if let Some(event) = page.iter().find(ours) {
                return Ok(Some(event.version));
            }
            match page.last() {
                Some(last) if last.version < item.version => after = last.version,
                _ => return Ok(None),
            }
        }
    }

    /// The next item, and the writes that make it so, the item after all that it takes for granted.
    fn plan(&self, unique: Unique, item: &Item, change: &Change) -> (Item, Vec<Write>) {
        let mut writes = settle::copies(unique, item);
        let mut next = next_item(item, change, self.0.clock.now().as_micros());
        let events = item.events_in_full();
        let bytes: usize = events
            .iter()
            .map(|event| event.body.as_ref().map_or(0, Bytes::len))
            .sum();
        if events.len() >= self.0.options.events_inline_max || bytes > self.0.options.events_inline_bytes_max {
            for event in events.iter().filter(|event| event.origin == Origin::Token) {
                let key = keys::applied(unique, event.event_id);
                writes.push(Write::Put(key, encode_applied(event.version)));
            }
            writes.push(Write::Put(keys::node(unique, item.version), encode_node(&events)));
        } else {
            next.events.splice(0..0, events);
        }
        writes.extend(settle::beacon(unique, &next));
        writes.push(Write::Put(keys::item(unique), next.encode()));
        if item.pending_removes.is_some() {
            writes.push(Write::Delete(keys::beacon(unique, item)));
        }
        (next, writes)
    }
}

/// The item after the change, with its newest event only.
fn next_item(item: &Item, change: &Change, at_micros: u64) -> Item {
    let version = item.version + 1;
    let wanted = match (change.kind, &change.indexes) {
        (EventKind::Delete, _) => Vec::new(),
        (_, None) => item.indexes.clone(),
        (_, Some(wanted)) => wanted.iter().map(|want| kept_or_new(item, want, version)).collect(),
    };
    let gone = item.indexes.iter().filter(|old| !wanted.contains(old));
    let removes: Vec<IndexRef> = gone.cloned().collect();
    let changed = !removes.is_empty() || wanted.iter().any(|want| want.since == version);
    let event = EventRecord {
        event_id: change.event_id,
        kind: change.kind,
        version,
        at_micros,
        by: change.caller.by.clone(),
        request: change.caller.request.clone(),
        origin: change.origin,
        body: None,
    };
    Item {
        state: if change.kind == EventKind::Delete {
            State::Deleted
        } else {
            State::Live
        },
        version,
        created_at_micros: item.created_at_micros,
        request_id: item.request_id,
        supersedes: item.supersedes.clone(),
        body: change.body.clone(),
        indexes: wanted,
        pending_removes: changed.then_some(removes),
        events: vec![event],
    }
}

/// A key that the object has already keeps the version since which it has it.
fn kept_or_new(item: &Item, want: &IndexRef, version: u64) -> IndexRef {
    let same = |old: &&IndexRef| old.index == want.index && old.key == want.key;
    let kept = item.indexes.iter().find(same).cloned();
    kept.unwrap_or_else(|| IndexRef {
        since: version,
        ..want.clone()
    })
}

fn judge(item: &Item, expect: Expect) -> Result<(), ChangeError> {
    if item.state == State::Deleted {
        return Err(ChangeError::NotFound);
    }
    match expect {
        Expect::Version(expected) if expected != item.version => Err(ChangeError::Version {
            expected,
            actual: item.version,
        }),
        Expect::Version(_) | Expect::Any => Ok(()),
    }
}

/// A failure after an attempt whose end is unknown says nothing about that attempt.
fn in_doubt(doubt: Option<Doubt>, error: StoreError) -> ChangeError {
    match doubt {
        Some(_) => ChangeError::Unknown(error.to_string()),
        None => error.into(),
    }
}
