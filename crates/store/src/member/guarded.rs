//! A store for one member of a cluster: every commit fails once the member is fenced.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use parking_lot::RwLock;

use super::{FenceError, HostNumber, JoinError, MemberOptions, Membership, RenewError, Watch, fence};
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

/// Pause before a fenced node tries again to join.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// A shared store as one member sees it.
///
/// Each commit carries the member's guard as one more condition, so that it is refused as unavailable
/// once the lease has run out or another node has fenced this one. Reads go on. [`GuardedStore::keep`]
/// must run beside it.
pub struct GuardedStore {
    inner: Arc<dyn Store>,
    clock: Clock,
    options: MemberOptions,
    membership: RwLock<Arc<Membership>>,
}

impl GuardedStore {
    /// Joins the cluster that uses `inner`.
    pub async fn join(inner: Arc<dyn Store>, clock: Clock, options: MemberOptions) -> Result<Self, JoinError> {
        let membership = Membership::join(inner.clone(), clock.clone(), options.clone()).await?;
        Ok(Self {
            inner,
            clock,
            options,
            membership: RwLock::new(Arc::new(membership)),
        })
    }

    /// The number under which this process writes now.
    pub fn host(&self) -> HostNumber {
        self.current().host()
    }

    /// Renews the lease, fences members that have gone silent, and joins anew if this one was fenced;
    /// never returns.
    pub async fn keep(&self) {
        let mut watch = Watch::new(self.inner.clone(), self.clock.clone());
        loop {
            tokio::time::sleep(self.current().renewal_interval()).await;
            match self.current().renew().await {
                Ok(()) => {}
                Err(RenewError::Fenced(host)) => {
                    tracing::error!(host = host.0, "another node has fenced this one; joining anew");
                    self.join_anew().await;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the lease is not renewed yet");
                }
            }
            self.fence_silent(&mut watch).await;
        }
    }

    /// Gives the membership up; nothing can be committed afterwards.
    pub async fn leave(&self) -> Result<(), CommitError> {
        self.current().leave().await
    }

    fn current(&self) -> Arc<Membership> {
        self.membership.read().clone()
    }

    async fn join_anew(&self) {
        loop {
            match Membership::join(self.inner.clone(), self.clock.clone(), self.options.clone()).await {
                Ok(membership) => {
                    tracing::info!(host = membership.host().0, "joined the cluster anew");
                    *self.membership.write() = Arc::new(membership);
                    return;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot join the cluster yet");
                }
            }
            tokio::time::sleep(REJOIN_PAUSE).await;
        }
    }

    async fn fence_silent(&self, watch: &mut Watch) {
        let silent = match watch.silent().await {
            Ok(silent) => silent,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot see the other members");
                return;
            }
        };
        for member in silent.iter().filter(|member| member.host != self.host()) {
            match fence(&*self.inner, member).await {
                Ok(()) => tracing::warn!(host = member.host.0, name = %member.name, "a silent member is fenced"),
                Err(FenceError::Alive(_)) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, host = member.host.0, "a silent member cannot be fenced yet");
                }
            }
        }
    }
}

#[async_trait]
impl Store for GuardedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, mut conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let membership = self.current();
        let guard = membership.guard();
        conditions.push(guard.map_err(|lapsed| CommitError::Unavailable(lapsed.to_string()))?);
        match self.inner.commit(conditions, writes).await {
            Err(error) if membership.is_fenced_by(&error) => {
                let host = membership.host().0;
                Err(CommitError::Unavailable(format!("host `{host}` has been fenced")))
            }
            outcome => outcome,
        }
    }
}
