//! A view: the chains of a stream at one moment, and the safe time up to which they are complete.
//!
//! How a view is made, and why nothing is ever added at or under its safe time:
//! ```text
//!   1. directory D1                       which chains there are
//!   2. promise P of each owner            in memory for our own chains; asked of others, else from their beats
//!   3. head of each chain                 bound = max(last stamp, floor, P of the owner that the head names)
//!   4. directory D2                       changed, or a chain pending? then no new safe time
//!   safe time = min of the bounds of the active chains
//! ```
//!  - P before the head: what the owner had stored when it promised P is in the head that is read later, and
//!    whatever it stores later is above P. A head that names an owner whose promise was not read counts only
//!    with its own bound.
//!  - An adopted chain: the new owner starts above the limit of the old one's last beat, and no promise, not
//!    even one in the memory of a host that does not know yet that it is fenced, goes beyond that limit.
//!  - A new chain is pending in the directory before its floor is fixed above all bounds and limits. So a
//!    safe time that was computed without it, from a D2 that did not show it, is at or under its floor.
//!  - Bounds only grow; a sealed chain takes no events. So safe times may be taken in any order, and the
//!    greatest one holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Freshness, Trouble};
use crate::host::{Inner, Listed, Sharing, Stream, current_directory, raise_limit, read_beat, read_heads};
use crate::peers::PromiseRequest;
use crate::record::{ChainState, Directory, Head};
use crate::{ChainId, HostId, Position, Stamp};

/// How often a view is begun anew because the directory changed under it.
const ATTEMPTS: u32 = 16;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct View {
    pub directory: Arc<Directory>,
    pub heads: BTreeMap<ChainId, Arc<Head>>,
    pub safe: Stamp,
    /// Views are numbered in the order in which they were begun.
    turn: u64,
}

impl View {
    /// Everything at or under it is given up, as far as this host knows.
    pub fn trimmed(&self, stream: &Stream) -> Position {
        self.directory.trimmed.max(stream.listed().directory.trimmed)
    }

    /// The bound after everything that the view shows.
    pub fn end(&self) -> Position {
        Position::before(self.safe.next())
    }
}

impl Inner {
    /// A view as new as wanted, and whether it was begun after the call. One caller at a time makes one; the
    /// others use it if it will do, and always if it was begun after they came: so many readers that wait
    /// for the same news look once.
    pub(crate) async fn view(&self, stream: &Arc<Stream>, wanted: Freshness) -> Result<(Arc<View>, bool), Trouble> {
        let known = || stream.view.read().clone();
        let will_do = |view: &Arc<View>| matches!(wanted, Freshness::Beyond(after) if after < view.end());
        if let Some(view) = known().filter(will_do) {
            return Ok((view, false));
        }
        let began_before = stream.views_begun.load(Ordering::Acquire);
        let _one_at_a_time = stream.viewing.lock().await;
        if let Some(view) = known().filter(|view| view.turn > began_before) {
            return Ok((view, true));
        }
        if let Some(view) = known().filter(will_do) {
            return Ok((view, false));
        }
        let turn = stream.views_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let made = Arc::new(self.make_view(stream, known(), turn).await?);
        *stream.view.write() = Some(Arc::clone(&made));
        Ok((made, true))
    }

    async fn make_view(&self, stream: &Arc<Stream>, last: Option<Arc<View>>, turn: u64) -> Result<View, Trouble> {
        let greatest = last.map_or(Stamp(0), |view| view.safe);
        for _ in 0..ATTEMPTS {
            let before = self.directory_now(stream).await?;
            let looked = self.look(stream, &before.directory).await;
            let after = self.directory_now(stream).await?;
            if after.version != before.version {
                continue;
            }
            let (heads, safe) = looked?;
            let safe = if before.directory.has_pending() { Stamp(0) } else { safe };
            return Ok(View {
                directory: before.directory,
                heads,
                safe: safe.max(greatest),
                turn,
            });
        }
        Err(Trouble::Unavailable("its chains change all the time".to_owned()))
    }

    /// The directory as it is stored. Where the store is ours alone, nobody else can have changed it.
    async fn directory_now(&self, stream: &Arc<Stream>) -> Result<Listed, Trouble> {
        if self.sharing == Sharing::Exclusive {
            return if self.known_as(stream) {
                Ok(stream.listed())
            } else {
                Err(Trouble::Gone)
            };
        }
        current_directory(self, stream).await?.ok_or(Trouble::Gone)
    }

    /// Promises, then heads; the safe time over the active chains. Raises our limit once if it is in the way.
    async fn look(
        &self,
        stream: &Arc<Stream>,
        directory: &Directory,
    ) -> Result<(BTreeMap<ChainId, Arc<Head>>, Stamp), Trouble> {
        let mut is_raised = false;
        loop {
            let (heads, safe) = self.look_once(stream, directory).await?;
            let newest = heads.values().map(|head| head.last_stamp).max().unwrap_or_default();
            if safe >= newest || is_raised || self.is_fenced() {
                return Ok((heads, safe));
            }
            // Events lie beyond the safe time. Who is asked for promises after we have heard of them
            // promises more, however slow its clock. A clock that is too far ahead is not followed.
            let _ = self.clock.observe(newest);
            // If our own promises hold it back for want of a durable
            // limit, a beat helps; what is in flight or with others does not wait for us.
            if self.clock.limit() >= newest {
                return Ok((heads, safe));
            }
            raise_limit(self, newest).await;
            is_raised = true;
        }
    }

    async fn look_once(
        &self,
        stream: &Arc<Stream>,
        directory: &Directory,
    ) -> Result<(BTreeMap<ChainId, Arc<Head>>, Stamp), Trouble> {
        let others = self.promises_of_others(stream, directory).await;
        let mut heads = BTreeMap::new();
        let mut own = BTreeMap::new();
        let mut is_elsewhere = false;
        for chain in &directory.chains {
            match stream.owned(chain.id).filter(|_| chain.owner == self.id) {
                Some(owned) => {
                    own.insert(chain.id, self.clock.promise(owned.slot));
                    heads.insert(chain.id, owned.head());
                }
                None => is_elsewhere |= chain.state != ChainState::Pending,
            }
        }
        if is_elsewhere {
            for (chain, head) in read_heads(self, stream).await? {
                heads.entry(chain).or_insert_with(|| Arc::new(head));
            }
        }
        let mut safe = Stamp(u64::MAX);
        for chain in directory.active() {
            let head = heads
                .get(&chain.id)
                .ok_or_else(|| Trouble::Damaged(format!("chain `{}` has no head", chain.id.0)))?;
            let promise = own.get(&chain.id).or_else(|| others.get(&head.owner)).copied();
            safe = safe.min(head.bound().max(promise.unwrap_or_default()));
        }
        if safe == Stamp(u64::MAX) {
            safe = heads.values().map(|head| head.bound()).max().unwrap_or_default();
        }
        heads.retain(|chain, _| directory.chain(*chain).is_some());
        Ok((heads, safe))
    }

    /// What the other owners promise. One that cannot be asked counts with its last beat.
    async fn promises_of_others(&self, stream: &Stream, directory: &Directory) -> BTreeMap<HostId, Stamp> {
        let mut owners: Vec<HostId> = directory.active().map(|chain| chain.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners.retain(|owner| *owner != self.id);
        let asked = owners.into_iter().map(|owner| async move {
            let promise = match self.ask_for_promise(stream, owner).await {
                Some(promise) => Some(promise),
                None => read_beat(self, owner).await.map(|beat| beat.promise),
            };
            promise.map(|promise| (owner, promise))
        });
        futures_util::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    async fn ask_for_promise(&self, stream: &Stream, owner: HostId) -> Option<Stamp> {
        let to = self.peer(owner).await?;
        let request = PromiseRequest {
            host: owner,
            stream: stream.id.clone(),
            stamp: self.clock.now(),
        };
        let asked = tokio::time::timeout(self.config.promise_timeout, self.peers.promise(&to, request));
        asked.await.ok()?.ok()
    }
}
