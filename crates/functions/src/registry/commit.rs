//! Writing to the registry: one commit a mutation, with its audit row.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_foundation::digest::Digest;
use bowline_store::{CommitError, Condition, Key, Sharing, Store, Version as StoreVersion, Write};
use bytes::Bytes;

use super::record::{
    AliasRecord, AttachedRecord, AuditRecord, EventInvokeRecord, PolicyRecord, Record as _, RetiredRecord,
};
use super::{AliasEntry, AttachedEntry, EventInvokeEntry, FunctionEntry, PolicyEntry, Registry, VersionEntry, keys};
use crate::error::Error;
use crate::model::Caller;

/// Writes that one commit holds at most; a deletion of more leaves the rest to further commits.
const WRITES_MAX: usize = 900;

/// Who does what, for the audit row.
pub(crate) struct Audit<'a> {
    pub caller: &'a Caller,
    pub action: &'static str,
    /// `ACCOUNT/NAME`, with `:QUALIFIER` where it is about one version or alias.
    pub subject: String,
}

/// What one mutation writes, and on what conditions.
#[derive(Default)]
pub(crate) struct Change {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    /// Children of a deleted function that did not fit in the commit.
    remnants: Vec<Write>,
    before: Option<Digest>,
    after: Option<Digest>,
}

impl Change {
    /// The function's record changes from `old` to `new`; one of them may be missing.
    pub fn function(&mut self, old: Option<&FunctionEntry>, new: Option<&FunctionEntry>) -> &mut Self {
        let Some(entry) = new.or(old) else { return self };
        let key = keys::function(&entry.account, &entry.name);
        let (old_value, value) = (
            old.map(|old| old.record().encode()),
            new.map(|new| new.record().encode()),
        );
        self.put(key, old.map(|old| old.at), old_value, value)
    }

    /// A version of `function` appears, changes, or goes.
    pub fn version(
        &mut self,
        function: &FunctionEntry,
        number: u64,
        old: Option<&VersionEntry>,
        new: Option<&VersionEntry>,
    ) -> &mut Self {
        let key = keys::version(&function.account, &function.name, number);
        let (old_value, value) = (
            old.map(|old| old.record().encode()),
            new.map(|new| new.record().encode()),
        );
        self.put(key, old.map(|old| old.at), old_value, value)
    }

    /// An alias appears, changes, or goes.
    pub fn alias(&mut self, old: Option<&AliasEntry>, new: Option<&AliasEntry>) -> &mut Self {
        let Some(alias) = new.or(old).map(|entry| &entry.alias) else {
            return self;
        };
        let key = keys::alias(&alias.account, &alias.function, &alias.name);
        let encode = |entry: &AliasEntry| AliasRecord::from(&entry.alias).encode();
        self.put(key, old.map(|old| old.at), old.map(encode), new.map(encode))
    }

    /// How the events of a qualifier of `function` are treated appears, changes, or goes.
    pub fn event_invoke(&mut self, old: Option<&EventInvokeEntry>, new: Option<&EventInvokeEntry>) -> &mut Self {
        let Some(config) = new.or(old).map(|entry| &entry.config) else {
            return self;
        };
        let key = keys::event_invoke(&config.account, &config.function, &config.qualifier.to_string());
        let encode = |entry: &EventInvokeEntry| EventInvokeRecord::from(&entry.config).encode();
        self.put(key, old.map(|old| old.at), old.map(encode), new.map(encode))
    }

    /// The policy of a qualifier of a function appears, changes, or goes.
    pub fn policy(&mut self, old: Option<&PolicyEntry>, new: Option<&PolicyEntry>) -> &mut Self {
        let Some(policy) = new.or(old).map(|entry| &entry.policy) else {
            return self;
        };
        let key = keys::policy(&policy.account, &policy.function, &policy.qualifier.to_string());
        let encode = |entry: &PolicyEntry| PolicyRecord::from(&entry.policy).encode();
        self.put(key, old.map(|old| old.at), old.map(encode), new.map(encode))
    }

    /// What is attached to a qualifier of `function` appears, changes, or goes.
    pub fn attached(
        &mut self,
        function: &FunctionEntry,
        qualifier: &str,
        old: Option<&AttachedEntry>,
        new: Option<&AttachedEntry>,
    ) -> &mut Self {
        let key = keys::attached(&function.account, &function.name, qualifier);
        let encode = |entry: &AttachedEntry| AttachedRecord::from(&entry.attached).encode();
        self.put(key, old.map(|old| old.at), old.map(encode), new.map(encode))
    }

    /// The function goes on as it was committed at its entry's version; it is only looked at.
    pub fn unchanged(&mut self, function: &FunctionEntry) -> &mut Self {
        let key = keys::function(&function.account, &function.name);
        self.conditions.push(Condition::AtVersion(key, function.at));
        self
    }

    /// The record behind a key is still the one of this version; it is only looked at.
    pub fn only_while(&mut self, key: Key, at: StoreVersion) -> &mut Self {
        self.conditions.push(Condition::AtVersion(key, at));
        self
    }

    /// No process that shares the store has changed a function since [`Registry::changed`] gave `seen`.
    pub fn only_if_unchanged(&mut self, seen: Option<StoreVersion>) -> &mut Self {
        let key = Key::from(keys::CHANGED);
        self.conditions.push(match seen {
            None => Condition::Absent(key),
            Some(at) => Condition::AtVersion(key, at),
        });
        self
    }

    /// Everything that belongs to `function` goes; its numbering stays.
    pub fn delete(&mut self, function: &FunctionEntry) -> &mut Self {
        self.function(Some(function), None);
        if function.next_version > 1 {
            let retired = RetiredRecord {
                next_version: function.next_version,
            };
            let key = keys::retired(&function.account, &function.name);
            self.writes.push(Write::Put(key, retired.encode()));
        }
        let versions = function.versions.keys();
        let versions = versions.map(|number| keys::version(&function.account, &function.name, *number));
        let aliases = function.aliases.keys();
        let aliases = aliases.map(|alias| keys::alias(&function.account, &function.name, alias));
        let event_invokes = function.event_invokes.keys();
        let event_invokes =
            event_invokes.map(|qualifier| keys::event_invoke(&function.account, &function.name, qualifier));
        let policies = function.policies.keys();
        let policies = policies.map(|qualifier| keys::policy(&function.account, &function.name, qualifier));
        let attached = function.attached.keys();
        let attached = attached.map(|qualifier| keys::attached(&function.account, &function.name, qualifier));
        let children = versions
            .chain(aliases)
            .chain(event_invokes)
            .chain(policies)
            .chain(attached);
        self.writes.extend(children.map(Write::Delete));
        self.remnants = self.writes.split_off(self.writes.len().min(WRITES_MAX));
        self
    }

    /// The numbering that an earlier function of the name left is taken over.
    pub fn take_numbering(&mut self, function: &FunctionEntry, at: Option<StoreVersion>) -> &mut Self {
        let key = keys::retired(&function.account, &function.name);
        match at {
            None => self.conditions.push(Condition::Absent(key)),
            Some(at) => {
                self.conditions.push(Condition::AtVersion(key.clone(), at));
                self.writes.push(Write::Delete(key));
            }
        }
        self
    }

    /// Whatever lies behind a key goes, unconditionally.
    pub(super) fn delete_key(&mut self, key: Key) -> &mut Self {
        self.writes.push(Write::Delete(key));
        self
    }

    /// Of several records in one change the first is the one the audit row tells of.
    pub(crate) fn put(
        &mut self,
        key: Key,
        at: Option<StoreVersion>,
        old: Option<Bytes>,
        new: Option<Bytes>,
    ) -> &mut Self {
        if self.writes.is_empty() {
            self.before = old.as_deref().map(Digest::of);
            self.after = new.as_deref().map(Digest::of);
        }
        self.conditions.push(match at {
            None => Condition::Absent(key.clone()),
            Some(at) => Condition::AtVersion(key.clone(), at),
        });
        self.writes.push(match new {
            None => Write::Delete(key),
            Some(value) => Write::Put(key, value),
        });
        self
    }
}

impl Registry {
    /// Where the records lie; for what is not the registry's own.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Commits a change with its audit row; returns the version that every written record now has.
    pub async fn commit(&self, audit: Audit<'_>, change: &mut Change) -> Result<StoreVersion, Error> {
        let mut writes = std::mem::take(&mut change.writes);
        self.audit_rows(&audit, change, &mut writes);
        if let (Sharing::Shared, Some(Write::Put(row, _))) = (self.sharing, writes.last()) {
            let news = Write::Put(Key::from(keys::CHANGED), row.clone());
            writes.insert(0, news);
        }
        let conditions = std::mem::take(&mut change.conditions);
        let at = match self.store.commit(conditions, writes.clone()).await {
            Ok(at) => at,
            Err(CommitError::Unknown(reason)) => self.find_out(&writes, reason).await?,
            Err(error) => return Err(refused(error)),
        };
        if self.publishes {
            self.outbox_news.notify_one();
        }
        self.delete_remnants(std::mem::take(&mut change.remnants)).await;
        Ok(at)
    }

    /// The number that the next version of a function of this name gets, and where that is recorded.
    pub async fn numbering(&self, entry: &FunctionEntry) -> Result<(u64, Option<StoreVersion>), Error> {
        let key = keys::retired(&entry.account, &entry.name);
        let Some(found) = self.store.get(&key).await.map_err(Error::service)? else {
            return Ok((1, None));
        };
        let record = RetiredRecord::decode(&found.value).map_err(Error::service)?;
        Ok((record.next_version, Some(found.version)))
    }

    /// The audit row, last; before it the same for the audit stream.
    fn audit_rows(&self, audit: &Audit<'_>, change: &Change, writes: &mut Vec<Write>) {
        let at = self.clock.now();
        let record = AuditRecord {
            account: audit.caller.account.clone(),
            request_id: audit.caller.request_id.clone(),
            action: audit.action.to_owned(),
            subject: audit.subject.clone(),
            before: change.before,
            after: change.after,
            at_micros: at.as_micros(),
        };
        let row = self.audit_rows.fetch_add(1, Ordering::Relaxed) % 100_000_000;
        if self.publishes {
            writes.push(Write::Put(keys::outbox(at, row), record.encode()));
        }
        writes.push(Write::Put(keys::audit(at, row), record.encode()));
    }

    /// Whether a commit whose answer was lost has been applied: its audit row, which nobody else writes,
    /// is there or not.
    async fn find_out(&self, writes: &[Write], reason: String) -> Result<StoreVersion, Error> {
        const TRIES: u32 = 5;
        let Some(Write::Put(key, value)) = writes.last() else {
            return Err(Error::service(CommitError::Unknown(reason)));
        };
        for attempt in 0..TRIES {
            match self.store.get(key).await {
                Ok(Some(entry)) if entry.value == *value => return Ok(entry.version),
                Ok(_) => return Err(Error::service(CommitError::Unavailable(reason))),
                Err(error) => tracing::warn!(%error, attempt, "cannot read back a commit of unknown outcome"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
        }
        Err(Error::service(CommitError::Unknown(reason)))
    }

    /// Deletes what a large function left. What fails here is found at the next start.
    async fn delete_remnants(&self, remnants: Vec<Write>) {
        for writes in remnants.chunks(WRITES_MAX) {
            if let Err(error) = self.store.commit(Vec::new(), writes.to_vec()).await {
                tracing::warn!(%error, "records of a deleted function stay until the next start");
            }
        }
    }
}

fn refused(error: CommitError) -> Error {
    match error {
        CommitError::Conflict(_) => Error::Conflict(
            "The operation cannot be performed at this time. The function was changed by another request.".to_owned(),
        ),
        error => Error::service(error),
    }
}
