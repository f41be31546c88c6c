//! A session as the store has it, and the one way to change it.

use std::time::Duration;

use bowline_store::{CommitError, Condition, Entry, Key, Version, Write};
use bytes::Bytes;

use super::error::{Fault, NoSuchSession};
use super::id::SessionId;
use super::keys;
use super::limits::{COMMIT_ATTEMPTS_MAX, IN_FLIGHT_SETS_MAX};
use super::record::{AuditRecord, MarkerRecord, Record, SessionRecord};
use super::service::Inner;
use super::settings::Caller;

/// Pause before the second try; each further one is twice as long, up to 32 times.
const PAUSE: Duration = Duration::from_millis(2);

/// A record with the version it had.
#[derive(Clone, Debug)]
pub(super) struct Versioned<R> {
    pub record: R,
    pub at: Version,
}

impl<R: Record> Versioned<R> {
    pub fn read(entry: &Entry) -> Result<Self, Fault> {
        Ok(Self {
            record: R::decode(&entry.value).map_err(Fault::damaged)?,
            at: entry.version,
        })
    }
}

/// A session with its markers, in the order of their numbers.
///
/// The markers were read after the session, and a new marker changes the session: if the session still has
/// this version when a commit applies, no marker is missing here. Some may have gone.
#[derive(Debug)]
pub(super) struct View {
    pub id: SessionId,
    pub session: Versioned<SessionRecord>,
    pub markers: Vec<Versioned<MarkerRecord>>,
}

/// What one commit does, and on what conditions.
#[derive(Debug, Default)]
pub(super) struct Change {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    /// A write that nobody else makes: it is there if the commit was applied.
    proof: Option<(Key, Bytes)>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Both, by one commit.
    pub fn and(mut self, other: Self) -> Self {
        self.conditions.extend(other.conditions);
        self.writes.extend(other.writes);
        self.proof = self.proof.or(other.proof);
        self
    }

    /// A record that did not exist appears.
    pub fn create(&mut self, key: Key, record: &impl Record) {
        self.conditions.push(Condition::Absent(key.clone()));
        self.put(key, record.encode());
    }

    /// A record changes.
    pub fn update(&mut self, key: Key, at: Version, record: &impl Record) {
        self.conditions.push(Condition::AtVersion(key.clone(), at));
        self.put(key, record.encode());
    }

    /// A record goes.
    pub fn remove(&mut self, key: Key, at: Version) {
        self.conditions.push(Condition::AtVersion(key.clone(), at));
        self.writes.push(Write::Delete(key));
    }

    /// A key gets a value, whatever it had.
    pub fn put(&mut self, key: Key, value: Bytes) {
        self.proof.get_or_insert_with(|| (key.clone(), value.clone()));
        self.writes.push(Write::Put(key, value));
    }

    /// A key goes, whatever it had.
    pub fn delete(&mut self, key: Key) {
        self.writes.push(Write::Delete(key));
    }
}

/// What became of a commit.
pub(super) enum Verdict {
    Applied,
    /// Nothing was applied; what it was built on is out of date, or the store failed for a moment.
    Again(String),
    /// Perhaps applied, though what would prove it is not there, or not any more.
    Unproven(String),
    /// Perhaps applied, and nothing tells.
    Unknown(String),
}

impl Inner {
    pub async fn session(&self, id: &SessionId) -> Result<Versioned<SessionRecord>, Fault> {
        match self.store.get(&keys::session(id)).await? {
            None => Err(Fault::NoSuchSession(NoSuchSession(id.clone()))),
            Some(entry) => Versioned::read(&entry),
        }
    }

    pub async fn view(&self, id: &SessionId) -> Result<View, Fault> {
        let session = self.session(id).await?;
        let found = self
            .store
            .scan(&keys::markers(id), None, IN_FLIGHT_SETS_MAX + 1)
            .await?;
        let markers = found.iter().map(|(_, entry)| Versioned::read(entry));
        Ok(View {
            id: id.clone(),
            session,
            markers: markers.collect::<Result<_, _>>()?,
        })
    }

    /// Commits; finds out what happened if the store cannot say.
    pub async fn commit(&self, change: Change) -> Result<Verdict, Fault> {
        let Change {
            conditions,
            writes,
            proof,
        } = change;
        match self.store.commit(conditions, writes).await {
            Ok(_) => Ok(Verdict::Applied),
            Err(CommitError::Conflict(_)) => Ok(Verdict::Again("other nodes changed the session".to_owned())),
            Err(CommitError::Unavailable(reason)) => Ok(Verdict::Again(reason)),
            Err(CommitError::Unknown(reason)) => self.find_out(proof, reason).await,
            Err(error @ CommitError::TooLarge(_)) => Err(Fault::damaged(error)),
        }
    }

    async fn find_out(&self, proof: Option<(Key, Bytes)>, reason: String) -> Result<Verdict, Fault> {
        let Some((key, value)) = proof else {
            return Ok(Verdict::Unknown(reason));
        };
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.store.get(&key).await {
                Ok(Some(entry)) if entry.value == value => return Ok(Verdict::Applied),
                Ok(_) => return Ok(Verdict::Unproven(reason)),
                Err(error) => tracing::debug!(%error, attempt, "cannot read back a commit of unknown outcome"),
            }
            self.pause(attempt).await;
        }
        Err(Fault::retry(reason))
    }

    /// Waits before a further try, a little differently each time so that nodes do not keep step.
    pub async fn pause(&self, attempt: u32) {
        let full = PAUSE * (1 << attempt.min(5));
        tokio::time::sleep(full.mul_f64(0.5 + self.entropy.unit() / 2.0)).await;
    }

    /// Adds the audit row of a mutation.
    pub fn audit(&self, change: &mut Change, caller: &Caller, id: &SessionId, told: Told) {
        let at = self.clock.now();
        let record = AuditRecord {
            who: caller.who.clone(),
            request_id: caller.request_id.clone(),
            action: told.action.to_owned(),
            subject: id.to_string(),
            before: told.before,
            after: told.after,
            at,
        };
        let (key, value) = (keys::audit(at, self.entropy.number()), record.encode());
        change.proof = Some((key.clone(), value.clone()));
        change.put(key, value);
    }
}

/// What an audit row tells.
#[derive(Default)]
pub(super) struct Told {
    pub action: &'static str,
    pub before: Option<String>,
    pub after: Option<String>,
}
