//! What others see of a member: who is there, who has gone silent, and how a silent one is fenced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic, Timestamp};

use super::HostNumber;
use super::row::{LeaseRow, RowError, guard_key, host_of, lease_key, lease_prefix};
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

/// Members that one scan reads.
const PAGE: usize = 256;
/// A watcher waits longer than the lease by this part of it, in case its clock runs faster.
const MARGIN_PART: u32 = 5;

/// A member, as its rows show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub host: HostNumber,
    pub name: String,
    /// By the member's own clock, for people to read.
    pub joined: Timestamp,
    /// As [`Member::joined`].
    pub renewed: Timestamp,
    pub lease: Duration,
    guard: Version,
    row: Version,
}

/// Why the members could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the cluster's members cannot be read")]
    Read(#[from] ReadError),
    #[error("a member cannot be understood")]
    Row(#[from] RowError),
}

/// Why a member was not fenced.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// It has renewed its lease since it was looked at.
    #[error("host `{}` has renewed its lease", .0.0)]
    Alive(HostNumber),
    #[error("the member's rows cannot be read")]
    Read(#[from] ReadError),
    #[error("the member's rows cannot be deleted")]
    Commit(#[from] CommitError),
}

/// All members that are neither fenced nor have left, by number.
pub async fn members(store: &dyn Store) -> Result<Vec<Member>, ListError> {
    let mut found = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&lease_prefix(), after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        for (key, entry) in page {
            found.push(member(&key, &entry)?);
        }
        if is_last {
            return Ok(found);
        }
    }
}

fn member(key: &Key, entry: &Entry) -> Result<Member, RowError> {
    let row = LeaseRow::decode(key, &entry.value)?;
    Ok(Member {
        host: host_of(key)?,
        name: row.name,
        joined: row.joined,
        renewed: row.renewed,
        lease: row.lease,
        guard: row.guard.unwrap_or(entry.version),
        row: entry.version,
    })
}

/// Ends the membership of `member` unless it has renewed its lease since it was read. Once this returns
/// `Ok`, nothing that carries its guard can be committed. Fencing what is gone already is no error.
pub async fn fence(store: &dyn Store, member: &Member) -> Result<(), FenceError> {
    let (guard, lease) = (guard_key(member.host), lease_key(member.host));
    let conditions = vec![
        Condition::AtVersion(guard.clone(), member.guard),
        Condition::AtVersion(lease.clone(), member.row),
    ];
    let writes = vec![Write::Delete(guard.clone()), Write::Delete(lease)];
    match store.commit(conditions, writes).await {
        Ok(_) => Ok(()),
        // The guard row goes only by fencing or leaving, and its number is never given again.
        Err(CommitError::Conflict(key)) if key == guard => Ok(()),
        Err(CommitError::Conflict(_)) => Err(FenceError::Alive(member.host)),
        Err(CommitError::Unknown(_)) if store.get(&guard).await?.is_none() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the members again and again and tells who has gone silent.
pub struct Watch {
    store: Arc<dyn Store>,
    clock: Clock,
    /// The version of each member's lease row, and when it was first seen.
    seen: BTreeMap<HostNumber, (Version, Monotonic)>,
}

impl Watch {
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self {
            store,
            clock,
            seen: BTreeMap::new(),
        }
    }

    /// Reads all members; returns those whose lease row has been seen unchanged for longer than the lease
    /// and a margin, and which may therefore be fenced.
    pub async fn silent(&mut self) -> Result<Vec<Member>, ListError> {
        let members = members(&*self.store).await?;
        let now = self.clock.monotonic();
        self.seen = members
            .iter()
            .map(|member| (member.host, self.first_seen(member, now)))
            .collect();
        let is_silent = |member: &Member| {
            let (_, since) = self.seen[&member.host];
            now.since(since) > member.lease + member.lease / MARGIN_PART
        };
        Ok(members.into_iter().filter(is_silent).collect())
    }

    fn first_seen(&self, member: &Member, now: Monotonic) -> (Version, Monotonic) {
        match self.seen.get(&member.host) {
            Some(&(version, since)) if version == member.row => (version, since),
            _ => (member.row, now),
        }
    }
}
