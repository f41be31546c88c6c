//! Membership of a cluster: leased rows in a shared store, and the guard that keeps the fenced from writing.
//!
//! ```text
//!   join ──▶ member ──renew──▶ member ──nobody sees a renewal for the lease and a margin──▶ silent
//!              │ leave             │ the lease is over by its own clock                        │ fence
//!              ▼                   ▼                                                          ▼
//!            gone        guard() refuses until a renewal succeeds              gone: every guarded commit fails
//! ```
//! A member has two rows that are made together and deleted together. The guard row never changes, so
//! every commit of the member may name it as a condition, many at once; the lease row is written by each
//! renewal. Whether a member is silent is judged by the watcher's monotonic clock alone: no two clocks are
//! compared. The member counts its lease from before the renewal was sent, the watcher from after it was
//! seen, so the member stops by itself before it is fenced; if it does not, its guard stops it.

mod guarded;
mod row;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic, Timestamp};
use parking_lot::Mutex;

pub use self::guarded::GuardedStore;
pub use self::row::RowError;
use self::row::{LeaseRow, counter_key, guard_key, lease_key};
pub use self::watch::{FenceError, ListError, Member, Watch, fence, members};
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

/// How long a member may be silent before others may fence it, unless configured otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(10);
/// Tries at a number that others take at the same time.
const JOIN_ATTEMPTS_MAX: usize = 1000;

/// A host's number in its cluster: from 1, given once and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNumber(pub u64);

/// How a node joins.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// What others are shown: where the node can be reached.
    pub name: String,
    pub lease: Duration,
}

/// Why a node could not join; it may have taken a number, which is then never used.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the cluster's members cannot be read")]
    Read(#[from] ReadError),
    #[error("the member's rows cannot be written")]
    Commit(#[from] CommitError),
    #[error("the cluster's counter of hosts is unreadable")]
    Row(#[from] RowError),
    #[error("`{JOIN_ATTEMPTS_MAX}` attempts to take a host number were overtaken by others")]
    Crowded,
}

/// Why a lease was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// Another node has ended this membership; the process must join anew, under another number.
    #[error("host `{}` has been fenced", .0.0)]
    Fenced(HostNumber),
    /// The store failed; renew again, the lease lasts as long as it lasts.
    #[error("the lease cannot be read")]
    Read(#[from] ReadError),
    /// As for [`RenewError::Read`].
    #[error("the lease cannot be written")]
    Commit(#[from] CommitError),
}

/// The lease is over by the member's own clock: it must not write until a renewal succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease of host `{}` has run out", .0.0)]
pub struct Lapsed(pub HostNumber);

/// This process's membership.
///
/// Renew it every [`Membership::renewal_interval`]. Dropping it renews no more, so that others fence it.
pub struct Membership {
    store: Arc<dyn Store>,
    clock: Clock,
    options: MemberOptions,
    host: HostNumber,
    joined: Timestamp,
    guard: Version,
    lease: Mutex<Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    /// The version of the lease row, as far as known.
    version: Version,
    ends: Monotonic,
}

impl Membership {
    /// Takes the next host number and makes the member's rows.
    pub async fn join(store: Arc<dyn Store>, clock: Clock, options: MemberOptions) -> Result<Self, JoinError> {
        for _ in 0..JOIN_ATTEMPTS_MAX {
            let counter = store.get(&counter_key()).await?;
            let host = row::next_host(counter.as_ref())?;
            let (joined, begun) = (clock.now(), clock.monotonic());
            let lease_row = LeaseRow {
                joined,
                renewed: joined,
                lease: options.lease,
                guard: None,
                name: options.name.clone(),
            };
            let conditions = vec![
                unchanged(counter_key(), counter.as_ref()),
                Condition::Absent(guard_key(host)),
            ];
            let writes = vec![
                Write::Put(counter_key(), row::encode_counter(host)),
                Write::Put(guard_key(host), row::encode_guard()),
                Write::Put(lease_key(host), lease_row.encode()),
            ];
            match store.commit(conditions, writes).await {
                Ok(version) => {
                    let ends = begun.after(options.lease);
                    return Ok(Self {
                        store,
                        clock,
                        options,
                        host,
                        joined,
                        guard: version,
                        lease: Mutex::new(Lease { version, ends }),
                    });
                }
                Err(CommitError::Conflict(_)) => {}
                // If it was applied, the number is lost and its rows end as those of any silent member.
                Err(error) => return Err(error.into()),
            }
        }
        Err(JoinError::Crowded)
    }

    pub fn host(&self) -> HostNumber {
        self.host
    }

    /// How often to renew: two renewals may fail before the lease is over.
    pub fn renewal_interval(&self) -> Duration {
        self.options.lease / 3
    }

    /// The condition that every commit of this member carries, so that it fails once the member is fenced.
    pub fn guard(&self) -> Result<Condition, Lapsed> {
        if self.clock.monotonic() >= self.lease.lock().ends {
            return Err(Lapsed(self.host));
        }
        Ok(self.guard_condition())
    }

    /// Whether a commit that failed with `error` failed because this member is fenced.
    pub fn is_fenced_by(&self, error: &CommitError) -> bool {
        matches!(error, CommitError::Conflict(key) if *key == guard_key(self.host))
    }

    /// Begins the lease anew. One caller at a time.
    pub async fn renew(&self) -> Result<(), RenewError> {
        let known = self.lease.lock().version;
        match self.renew_from(known).await {
            Err(RenewError::Commit(CommitError::Conflict(key))) if key == lease_key(self.host) => {
                // A renewal whose answer was lost has been applied; the guard tells whether that is all.
                let found = self.store.get(&key).await?;
                let current = found.ok_or(RenewError::Fenced(self.host))?.version;
                self.renew_from(current).await
            }
            outcome => outcome,
        }
    }

    async fn renew_from(&self, known: Version) -> Result<(), RenewError> {
        let begun = self.clock.monotonic();
        let row = LeaseRow {
            joined: self.joined,
            renewed: self.clock.now(),
            lease: self.options.lease,
            guard: Some(self.guard),
            name: self.options.name.clone(),
        };
        let key = lease_key(self.host);
        let conditions = vec![self.guard_condition(), Condition::AtVersion(key.clone(), known)];
        let version = match self.store.commit(conditions, vec![Write::Put(key, row.encode())]).await {
            Err(error) if self.is_fenced_by(&error) => return Err(RenewError::Fenced(self.host)),
            outcome => outcome?,
        };
        let ends = begun.after(self.options.lease);
        *self.lease.lock() = Lease { version, ends };
        Ok(())
    }

    /// Gives the membership up at once; nothing that carries its guard can be committed afterwards. Being
    /// fenced already is no error.
    pub async fn leave(&self) -> Result<(), CommitError> {
        self.lease.lock().ends = Monotonic::default();
        let writes = vec![Write::Delete(guard_key(self.host)), Write::Delete(lease_key(self.host))];
        match self.store.commit(vec![self.guard_condition()], writes).await {
            Err(error) if self.is_fenced_by(&error) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn guard_condition(&self) -> Condition {
        Condition::AtVersion(guard_key(self.host), self.guard)
    }
}

fn unchanged(key: Key, found: Option<&Entry>) -> Condition {
    match found {
        Some(entry) => Condition::AtVersion(key, entry.version),
        None => Condition::Absent(key),
    }
}
