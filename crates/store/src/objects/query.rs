//! Asking an index of all stores at once.
//!
//! Beacons are read before the index: an entry that was pending when its beacon was looked for is found by
//! it, and one that was written before that is found in the index. Every candidate is then checked against
//! its object, so neither a stale entry nor one written ahead is ever a hit.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;

use super::backend::{Backend, Deadline};
use super::error::{InvalidRequest, QueryError, StoreError};
use super::id::Unique;
use super::model::{Completeness, Hit, More, PAGE_MAX, Query, QueryPage, Select, check_index};
use super::record::{IndexRef, Item, State, decode_beacon};
use super::{Objects, keys};
use crate::{Key, Write};

/// Objects read at once to check candidates.
const CHECKS_AT_ONCE: usize = 64;

/// Candidates by key and object, with the versions since which they are said to hold.
type Candidates = BTreeMap<(Bytes, Unique), Vec<u64>>;

impl Query {
    /// Everything under exactly this key, up to `limit`, from the stores that answer.
    pub fn exactly(index: &str, key: impl Into<Bytes>, limit: usize) -> Self {
        Self {
            index: index.to_owned(),
            select: Select::Exactly(key.into()),
            after: None,
            limit,
            completeness: Completeness::Partial,
        }
    }

    fn check(&self) -> Result<(), InvalidRequest> {
        let (Select::Exactly(key) | Select::BeginningWith(key)) = &self.select;
        check_index(&self.index, key)?;
        if self.limit == 0 || self.limit > PAGE_MAX {
            return Err(InvalidRequest::Page(self.limit));
        }
        Ok(())
    }

    fn prefix(&self) -> Key {
        match &self.select {
            Select::Exactly(key) => keys::entries_at(&self.index, key),
            Select::BeginningWith(key) => keys::entries_from(&self.index, key),
        }
    }

    fn wants(&self, unique: Unique, entry: &IndexRef) -> bool {
        let selected = match &self.select {
            Select::Exactly(key) => entry.key == *key,
            Select::BeginningWith(start) => entry.key.starts_with(start),
        };
        let after = self.after.as_ref();
        let beyond = after.is_none_or(|hit| (&entry.key, unique) > (&hit.key, hit.id.unique));
        entry.index == self.index && selected && beyond
    }

    /// After the last hit and all that stands at the same key and object.
    fn start(&self) -> Option<Key> {
        let hit = self.after.as_ref()?;
        Some(keys::after_entry(&self.index, &hit.key, hit.id.unique))
    }
}

impl Objects {
    /// The objects that have a key, in the order of keys and, under one key, of creation.
    pub async fn query(&self, query: &Query) -> Result<QueryPage, QueryError> {
        query.check()?;
        let until = self.deadline();
        let ask = self
            .0
            .backends
            .iter()
            .map(|backend| self.query_store(backend, query, until));
        let mut hits = Vec::new();
        let mut partial = Vec::new();
        let mut failure = None;
        for (backend, answer) in self.0.backends.iter().zip(join_all(ask).await) {
            match answer {
                Ok(found) => hits.extend(found),
                Err(error) => {
                    partial.push(backend.name.clone());
                    failure = Some(error);
                }
            }
        }
        let nothing_left = partial.len() == self.0.backends.len();
        if let Some(error) = failure
            && (nothing_left || query.completeness == Completeness::Complete)
        {
            return Err(error.into());
        }
        hits.sort_by(|a: &Hit, b| (&a.key, a.id.unique).cmp(&(&b.key, b.id.unique)));
        hits.truncate(query.limit);
        let more = if hits.len() == query.limit {
            More::Perhaps
        } else {
            More::None
        };
        Ok(QueryPage { hits, partial, more })
    }

    async fn query_store(&self, backend: &Backend, query: &Query, until: Deadline) -> Result<Vec<Hit>, StoreError> {
        let mut pending = Candidates::new();
        for (key, entry) in backend.scan_all(keys::BEACONS, until).await? {
            let adds = decode_beacon(entry.value).map_err(|source| backend.unreadable(source))?;
            let Some((unique, _)) = keys::parse_beacon(&key) else {
                continue;
            };
            for add in adds.into_iter().filter(|add| query.wants(unique, add)) {
                pending.entry((add.key, unique)).or_default().push(add.since);
            }
        }
        let prefix = query.prefix();
        let (mut hits, mut after) = (Vec::new(), query.start());
        loop {
            let page = backend.scan(&prefix, after.as_ref(), query.limit, until).await?;
            let end = (page.len() == query.limit)
                .then(|| page.last().map(|(key, _)| key.clone()))
                .flatten();
            let mut candidates = match end.as_ref().and_then(keys::parse_entry) {
                // What comes after the end of this page waits for the next one.
                Some((unique, last)) => {
                    let later = pending.split_off(&(last.key, unique));
                    std::mem::replace(&mut pending, later)
                }
                None => std::mem::take(&mut pending),
            };
            for (unique, entry) in page.iter().filter_map(|(key, _)| keys::parse_entry(key)) {
                candidates.entry((entry.key, unique)).or_default().push(entry.since);
            }
            self.check(backend, (query, candidates), &mut hits, until).await?;
            if hits.len() >= query.limit || end.is_none() {
                hits.truncate(query.limit);
                return Ok(hits);
            }
            after = end;
        }
    }

    /// Adds the candidates that their objects confirm, and removes entries that can never hold again.
    async fn check(
        &self,
        backend: &Backend,
        asked: (&Query, Candidates),
        hits: &mut Vec<Hit>,
        until: Deadline,
    ) -> Result<(), StoreError> {
        let (query, candidates) = asked;
        let candidates: Vec<_> = candidates.into_iter().collect();
        let mut stale = Vec::new();
        for some in candidates.chunks(CHECKS_AT_ONCE) {
            let items = join_all(some.iter().map(|((_, unique), _)| backend.item(*unique, until))).await;
            for (((key, unique), sinces), found) in some.iter().zip(items) {
                let item = found?.map(|found| found.item);
                let holds = item.as_ref().and_then(|item| held_since(item, &query.index, key));
                if let Some(item) = &item {
                    let old = sinces
                        .iter()
                        .filter(|since| **since <= item.version && Some(**since) != holds);
                    stale.extend(old.map(|since| entry_key(query, key, (*unique, *since))));
                }
                let already = hits
                    .last()
                    .is_some_and(|hit: &Hit| hit.key == *key && hit.id.unique == *unique);
                if let (Some(item), Some(_), false) = (item, holds, already) {
                    hits.push(Hit {
                        key: key.clone(),
                        id: backend.id(*unique),
                        version: item.version,
                    });
                }
            }
        }
        self.remove_stale(backend, stale, until).await;
        Ok(())
    }

    async fn remove_stale(&self, backend: &Backend, mut stale: Vec<Key>, until: Deadline) {
        stale.truncate(crate::limits::WRITES_PER_COMMIT_MAX);
        let count = stale.len() as u64;
        let writes: Vec<Write> = stale.into_iter().map(Write::Delete).collect();
        // A failure leaves them for the next reader; they are never hits.
        if count > 0 && backend.commit(vec![], writes, until).await.is_ok() {
            self.count(|metrics| metrics.stale_entries_removed += count);
        }
    }
}

/// The version since which a live object has this key.
fn held_since(item: &Item, index: &str, key: &Bytes) -> Option<u64> {
    if item.state != State::Live {
        return None;
    }
    let held = item.indexes.iter().find(|each| each.index == index && each.key == *key);
    held.map(|each| each.since)
}

fn entry_key(query: &Query, key: &Bytes, entry: (Unique, u64)) -> Key {
    let (unique, since) = entry;
    let entry = IndexRef {
        index: query.index.clone(),
        key: key.clone(),
        since,
    };
    keys::entry(unique, &entry)
}
