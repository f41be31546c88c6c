//! Instances in the store: each decision is one conditional commit with its events, claims and audit row.

mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_store::record::{FrameError, Record};
use bowline_store::{CommitError, Condition, Key, ReadError, Store, Version, Write};

use crate::file::Mode;
use crate::model::{
    Assignment, AuditRow, Claim, CostIndication, Event, FileRecord, FleetsRecord, Instance, Replacement, Server,
    TokenRecord, UsageRecord,
};

/// Entries read at once.
const PAGE: usize = 500;
/// Events of an instance that are kept.
pub const EVENTS_MAX: u64 = 500;

/// Cost indications of a role that are kept.
pub const COSTS_MAX: usize = 1000;

/// Who asked for a change.
#[derive(Clone, Debug)]
pub struct Caller {
    pub account: AccountId,
    pub request_id: String,
}

/// Why the book could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Record(#[from] FrameError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl BookError {
    /// Whether somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Commit(CommitError::Conflict(_)))
    }
}

/// A record with the version it was read at.
#[derive(Clone, Debug)]
pub struct Kept<R> {
    pub record: R,
    pub at: Version,
}

/// The instances of all accounts.
#[derive(Clone)]
pub struct Book {
    store: Arc<dyn Store>,
    clock: Clock,
    rows: Arc<AtomicU64>,
}

/// What one commit changes.
#[derive(Default)]
pub struct Change {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    events: Vec<(&'static str, String, Option<String>)>,
}

impl Change {
    /// Something happened, to a server.
    #[must_use]
    pub fn event(mut self, what: &'static str, server: &Server) -> Self {
        self.events.push((what, server.id.clone(), None));
        self
    }

    /// The same with more to say.
    #[must_use]
    pub fn told(mut self, what: &'static str, server: &Server, detail: impl ToString) -> Self {
        self.events.push((what, server.id.clone(), Some(detail.to_string())));
        self
    }

    /// A server takes its address and the volumes that it writes to.
    #[must_use]
    pub fn claim(mut self, account: &AccountId, server: &Server) -> Self {
        let claim = Claim {
            server: server.id.clone(),
        };
        for key in claims(account, server) {
            self.conditions.push(Condition::Absent(key.clone()));
            self.writes.push(Write::Put(key, claim.encode()));
        }
        self
    }

    /// A fenced server has them no longer: those that [`Book::held_by`] found.
    #[must_use]
    pub fn release(mut self, held: Vec<(Key, Version)>) -> Self {
        for (key, at) in held {
            self.conditions.push(Condition::AtVersion(key.clone(), at));
            self.writes.push(Write::Delete(key));
        }
        self
    }

    /// A server has the instance's role from now on.
    #[must_use]
    pub fn assign(mut self, instance: &Instance, server: &Server, assignment: &Assignment) -> Self {
        let key = keys::assignment(&instance.account, &instance.name, &server.id);
        self.writes.push(Write::Put(key, assignment.encode()));
        self
    }

    /// A replacement is over.
    #[must_use]
    pub fn replaced(mut self, account: &AccountId, replacement: &Replacement) -> Self {
        let key = keys::replacement(account, &replacement.failed);
        self.writes.push(Write::Put(key, replacement.encode()));
        self
    }

    /// A token stands for this from now on.
    #[must_use]
    pub fn token(mut self, account: &AccountId, token: &str, record: &TokenRecord) -> Self {
        let key = keys::token(account, token);
        self.conditions.push(Condition::Absent(key.clone()));
        self.writes.push(Write::Put(key, record.encode()));
        self
    }
}

fn claims(account: &AccountId, server: &Server) -> Vec<Key> {
    let written = server.effective.volumes.iter().filter(|volume| volume.mode == Mode::Rw);
    let volumes = written.map(|volume| keys::volume(account, &volume.source));
    let address = server.address.iter().map(|address| keys::address(address));
    volumes.chain(address).collect()
}

impl Book {
    pub fn new(store: Arc<dyn Store>, clock: Clock, row: u64) -> Self {
        Self {
            store,
            clock,
            rows: Arc::new(AtomicU64::new(row)),
        }
    }

    async fn get<R: Record>(&self, key: &Key) -> Result<Option<Kept<R>>, BookError> {
        let Some(entry) = self.store.get(key).await? else {
            return Ok(None);
        };
        Ok(Some(Kept {
            record: R::decode(&entry.value)?,
            at: entry.version,
        }))
    }

    async fn all<R: Record>(&self, prefix: &str) -> Result<Vec<Kept<R>>, BookError> {
        let prefix = Key::copy_from_slice(prefix.as_bytes());
        let mut found = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(&prefix, after.as_ref(), PAGE).await?;
            after = page.last().map(|(key, _)| key.clone());
            let whole = page.len() == PAGE;
            for (_, entry) in page {
                found.push(Kept {
                    record: R::decode(&entry.value)?,
                    at: entry.version,
                });
            }
            if !whole {
                return Ok(found);
            }
        }
    }

    pub async fn file(&self, account: &AccountId, id: &str) -> Result<Option<Kept<FileRecord>>, BookError> {
        self.get(&keys::file(account, id)).await
    }

    pub async fn files(&self, account: &AccountId) -> Result<Vec<FileRecord>, BookError> {
        let found = self.all(&keys::files(account)).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    /// Those of all accounts.
    pub async fn all_files(&self) -> Result<Vec<FileRecord>, BookError> {
        let found = self.all(keys::ALL_FILES).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    /// Keeps a file, at the version it was read at.
    pub async fn put_file(
        &self,
        caller: &Caller,
        old: Option<&Kept<FileRecord>>,
        new: Option<&FileRecord>,
    ) -> Result<(), BookError> {
        let Some(of) = new.or(old.map(|old| &old.record)) else {
            return Ok(());
        };
        let key = keys::file(&of.account, &of.id);
        let condition = match old {
            None => Condition::Absent(key.clone()),
            Some(old) => Condition::AtVersion(key.clone(), old.at),
        };
        let write = match new {
            None => Write::Delete(key),
            Some(new) => Write::Put(key, new.encode()),
        };
        let digests = (old.map(|old| old.record.digest), new.map(|new| new.digest));
        let action = if new.is_some() {
            "PutInstanceFile"
        } else {
            "DeleteInstanceFile"
        };
        let row = self.audit(caller, action, format!("{}/{}", of.account, of.id), digests);
        self.store.commit(vec![condition], vec![write, row]).await?;
        Ok(())
    }

    pub async fn instance(&self, account: &AccountId, name: &str) -> Result<Option<Kept<Instance>>, BookError> {
        self.get(&keys::instance(account, name)).await
    }

    pub async fn instances(&self, account: Option<&AccountId>) -> Result<Vec<Kept<Instance>>, BookError> {
        self.all(&keys::instances(account)).await
    }

    /// Writes what became of an instance with everything that belongs to it; it must be as it was read.
    ///
    /// A commit whose answer was lost is found out: it counts if the record is there as it was written.
    pub async fn commit(
        &self,
        action: (&Caller, &str),
        old: Option<&Kept<Instance>>,
        mut new: Instance,
        mut change: Change,
    ) -> Result<Kept<Instance>, BookError> {
        let key = keys::instance(&new.account, &new.name);
        change.conditions.push(match old {
            None => Condition::Absent(key.clone()),
            Some(old) => Condition::AtVersion(key.clone(), old.at),
        });
        for (what, server, detail) in std::mem::take(&mut change.events) {
            let event = Event {
                number: new.next_event,
                what: what.to_owned(),
                server,
                detail,
                at: self.clock.now(),
            };
            let event_key = keys::event(&new.account, &new.name, event.number);
            change.writes.push(Write::Put(event_key, event.encode()));
            if let Some(oldest) = event.number.checked_sub(EVENTS_MAX) {
                change
                    .writes
                    .push(Write::Delete(keys::event(&new.account, &new.name, oldest)));
            }
            new.next_event += 1;
        }
        let value = new.encode();
        let digests = (
            old.map(|old| Digest::of(&old.record.encode())),
            Some(Digest::of(&value)),
        );
        let row = self.audit(action.0, action.1, format!("{}/{}", new.account, new.name), digests);
        change.writes.push(Write::Put(key.clone(), value.clone()));
        change.writes.push(row);
        match self.store.commit(change.conditions, change.writes).await {
            Ok(at) => Ok(Kept { record: new, at }),
            Err(CommitError::Unknown(reason)) => match self.store.get(&key).await? {
                Some(entry) if entry.value == value => Ok(Kept {
                    record: new,
                    at: entry.version,
                }),
                _ => Err(CommitError::Unavailable(reason).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets an instance whose server is gone.
    pub async fn forget(&self, action: (&Caller, &str), old: &Kept<Instance>) -> Result<(), BookError> {
        let instance = &old.record;
        let key = keys::instance(&instance.account, &instance.name);
        let mut writes = vec![Write::Delete(key.clone())];
        let first = instance.next_event.saturating_sub(EVENTS_MAX);
        let events = (first..instance.next_event).map(|number| keys::event(&instance.account, &instance.name, number));
        writes.extend(events.map(Write::Delete));
        let digests = (Some(Digest::of(&instance.encode())), None);
        writes.push(self.audit(
            action.0,
            action.1,
            format!("{}/{}", instance.account, instance.name),
            digests,
        ));
        self.store
            .commit(vec![Condition::AtVersion(key, old.at)], writes)
            .await?;
        Ok(())
    }

    pub async fn events(&self, account: &AccountId, name: &str) -> Result<Vec<Event>, BookError> {
        let found = self.all(&keys::events(account, name)).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    pub async fn assignments(&self, account: &AccountId, name: &str) -> Result<Vec<Assignment>, BookError> {
        let found = self.all(&keys::assignments(account, name)).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    pub async fn assignment(
        &self,
        account: &AccountId,
        name: &str,
        server: &str,
    ) -> Result<Option<Assignment>, BookError> {
        let found = self.get(&keys::assignment(account, name, server)).await?;
        Ok(found.map(|kept| kept.record))
    }

    pub async fn replacement(&self, account: &AccountId, failed: &str) -> Result<Option<Replacement>, BookError> {
        let found = self.get(&keys::replacement(account, failed)).await?;
        Ok(found.map(|kept| kept.record))
    }

    /// Which server has a claim, if any.
    pub async fn holder(&self, account: &AccountId, volume: &str) -> Result<Option<String>, BookError> {
        let found: Option<Kept<Claim>> = self.get(&keys::volume(account, volume)).await?;
        Ok(found.map(|kept| kept.record.server))
    }

    /// The claims that a server has.
    pub async fn held_by(&self, account: &AccountId, server: &Server) -> Result<Vec<(Key, Version)>, BookError> {
        let mut held = Vec::new();
        for key in claims(account, server) {
            let found: Option<Kept<Claim>> = self.get(&key).await?;
            if let Some(kept) = found.filter(|kept| kept.record.server == server.id) {
                held.push((key, kept.at));
            }
        }
        Ok(held)
    }

    pub async fn token(&self, account: &AccountId, token: &str) -> Result<Option<TokenRecord>, BookError> {
        let found = self.get(&keys::token(account, token)).await?;
        Ok(found.map(|kept| kept.record))
    }

    pub async fn costs(
        &self,
        account: &AccountId,
        role: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, CostIndication)>, BookError> {
        let prefix = keys::costs(account, role);
        let after = after.map(|name| Key::from(format!("{prefix}{name}")));
        let found = self.store.scan(&prefix.clone().into(), after.as_ref(), limit).await?;
        let named = found.into_iter().map(|(key, entry)| {
            let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            Ok((name, CostIndication::decode(&entry.value)?))
        });
        named.collect()
    }

    /// Keeps what something costs. The oldest of the role's go when there are too many.
    pub async fn add_cost(&self, caller: &Caller, cost: &CostIndication) -> Result<(), BookError> {
        let number = self.rows.fetch_add(1, Ordering::Relaxed);
        let key = keys::cost(&caller.account, &cost.role, cost.at, number);
        let value = cost.encode();
        let row = self.audit(
            caller,
            "PutCostIndication",
            format!("{}/{}", caller.account, cost.role),
            (None, Some(Digest::of(&value))),
        );
        let mut writes = vec![Write::Put(key.clone(), value), row];
        let known = keys::costs(&caller.account, &cost.role).into();
        // Some that were added at the same time may be too many still: the next one finds them.
        let known = self.store.scan(&known, None, COSTS_MAX + PAGE).await?;
        let surplus = (known.len() + 1).saturating_sub(COSTS_MAX);
        writes.extend(known.into_iter().take(surplus).map(|(old, _)| Write::Delete(old)));
        self.store.commit(vec![Condition::Absent(key)], writes).await?;
        Ok(())
    }

    /// By what an account's fleets go; `None` if nobody said it.
    pub async fn fleets(&self, account: &AccountId) -> Result<Option<Kept<FleetsRecord>>, BookError> {
        self.get(&keys::fleets(account)).await
    }

    /// The same of all accounts that have said it.
    pub async fn all_fleets(&self) -> Result<Vec<FleetsRecord>, BookError> {
        let found = self.all(keys::ALL_FLEETS).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    /// Keeps by what an account's fleets go, at the version it was read at.
    pub async fn put_fleets(
        &self,
        caller: &Caller,
        old: Option<&Kept<FleetsRecord>>,
        new: &FleetsRecord,
    ) -> Result<(), BookError> {
        let key = keys::fleets(&caller.account);
        let condition = match old {
            None => Condition::Absent(key.clone()),
            Some(old) => Condition::AtVersion(key.clone(), old.at),
        };
        let value = new.encode();
        let before = old.map(|old| Digest::of(&old.record.encode()));
        let digests = (before, Some(Digest::of(&value)));
        let row = self.audit(caller, "PutFleets", caller.account.to_string(), digests);
        self.store
            .commit(vec![condition], vec![Write::Put(key, value), row])
            .await?;
        Ok(())
    }

    /// What a node has seen of the calls of versions.
    pub async fn usages(&self, node: &str) -> Result<Vec<UsageRecord>, BookError> {
        let found = self.all(&keys::usages(node)).await?;
        Ok(found.into_iter().map(|kept| kept.record).collect())
    }

    /// Keeps, or forgets, what a node has seen of the calls of some versions.
    pub async fn put_usages(
        &self,
        node: &str,
        kept: &[UsageRecord],
        forgotten: &[(AccountId, String, String)],
    ) -> Result<(), BookError> {
        let put = |record: &UsageRecord| {
            let key = keys::usage(node, &record.account, &record.function, &record.version);
            Write::Put(key, record.encode())
        };
        let delete = |(account, function, version): &(AccountId, String, String)| {
            Write::Delete(keys::usage(node, account, function, version))
        };
        let writes: Vec<Write> = kept.iter().map(put).chain(forgotten.iter().map(delete)).collect();
        for some in writes.chunks(PAGE) {
            self.store.commit(Vec::new(), some.to_vec()).await?;
        }
        Ok(())
    }

    fn audit(
        &self,
        caller: &Caller,
        action: &str,
        subject: String,
        (before, after): (Option<Digest>, Option<Digest>),
    ) -> Write {
        let row = AuditRow {
            account: caller.account.clone(),
            request_id: caller.request_id.clone(),
            action: action.to_owned(),
            subject,
            before,
            after,
            at: self.clock.now(),
        };
        let number = self.rows.fetch_add(1, Ordering::Relaxed);
        Write::Put(keys::audit(row.at, number), row.encode())
    }
}
