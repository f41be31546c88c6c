//! Whose turn it is to poll a queue on whose invocations there is a limit: one node's at a time.
//!
//! ```text
//!   nobody's ─▶ taken ─▶ kept up, every third of it ─▶ given back when the last invocation has ended
//!                 ▲            │ not for two thirds of a lease: nothing more is taken up
//!                 └── has stood still for a whole lease: anybody's
//! ```
//! Whoever waits counts from when it saw the last writing, whoever holds from before it began it, so that no two hold at
//! once, whatever their clocks show. A node that was cut off takes nothing up any more, but what it has in hand runs
//! on to its deadline beside what the next one takes up. At one node a lock does, for any number of pollers.

use std::sync::Arc;
use std::time::Duration;

use bowline_store::Version as StoreVersion;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use tokio::time::Instant;

use super::mapping::Until;
use crate::registry::Registry;

/// How often a node looks whether it may poll.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The right to poll among the pollers of this node.
pub(super) enum Local {
    /// Beside others.
    Shared(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

/// A node that wants the right to poll among all nodes.
pub(super) struct Candidate<'a> {
    registry: &'a Registry,
    mapping: &'a str,
    lease: Duration,
    /// Tells this candidate's writing from everybody else's.
    holder: String,
    watch: Watch,
}

/// The right to poll among all nodes.
pub(super) struct Turn<'a> {
    candidate: Candidate<'a>,
    held: Held,
}

/// What is known of one's own lease.
#[derive(Clone, Copy)]
struct Held {
    at: StoreVersion,
    /// No later than its last writing.
    since: Instant,
}

/// How long a lease that somebody else holds has stood still.
#[derive(Default)]
struct Watch(Option<(StoreVersion, Instant)>);

impl Watch {
    /// Whether the lease is anybody's.
    fn is_over(&mut self, at: StoreVersion, lease: Duration) -> bool {
        match self.0 {
            Some((seen, since)) if seen == at => since.elapsed() >= lease,
            _ => {
                self.0 = Some((at, Instant::now()));
                false
            }
        }
    }
}

impl Until {
    /// Waits for the mapping's earlier pollers at this node: for all of them where there is a limit, else for one that
    /// has a limit. `None` if there is nothing to wait for any more.
    pub(super) async fn local_turn(&self, mapping: &str, is_limited: bool) -> Option<Local> {
        let lock = Arc::clone(self.engine.turns.lock().entry(mapping.to_owned()).or_default());
        let turn = async {
            match is_limited {
                true => Local::Alone(lock.write_owned().await),
                false => Local::Shared(lock.read_owned().await),
            }
        };
        tokio::select! {
            () = self.stopped() => None,
            turn = turn => Some(turn),
        }
    }
}

impl<'a> Candidate<'a> {
    pub fn new((registry, mapping): (&'a Registry, &'a str), holder: String, lease: Duration) -> Self {
        Self {
            registry,
            mapping,
            lease,
            holder,
            watch: Watch::default(),
        }
    }

    /// How long to wait before looking again.
    pub fn pause(&self) -> Duration {
        LOOK_EVERY.min(self.lease / 6)
    }

    /// Takes the right if it is there to be taken.
    pub async fn look(mut self) -> Result<Turn<'a>, Self> {
        match self.attempt().await {
            Ok(Some(held)) => return Ok(Turn { candidate: self, held }),
            Ok(None) => {}
            Err(error) => tracing::debug!(
                mapping = self.mapping,
                error,
                "it is not known whose turn it is to poll"
            ),
        }
        Err(self)
    }

    async fn attempt(&mut self) -> Result<Option<Held>, String> {
        let found = self.registry.lease(self.mapping).await;
        let seen = match found.map_err(|error| error.to_string())? {
            None => None,
            Some(found) if self.watch.is_over(found.at, self.lease) => Some(found.at),
            Some(_) => return Ok(None),
        };
        let began = Instant::now();
        match self.registry.put_lease(self.mapping, &self.holder, seen).await {
            Ok(at) => Ok(Some(Held { at, since: began })),
            // Somebody was faster; or it was written and the answer lost, and nobody keeps it up.
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Turn<'_> {
    /// Keeps the right up; returns when it is lost, or may be.
    pub async fn keep(&mut self) {
        let lease = self.candidate.lease;
        loop {
            tokio::time::sleep(lease / 3).await;
            let began = Instant::now();
            let Candidate {
                registry,
                mapping,
                holder,
                ..
            } = &self.candidate;
            let renewed = registry.put_lease(mapping, holder, Some(self.held.at));
            match tokio::time::timeout(lease / 6, renewed).await {
                Ok(Ok(at)) => self.held = Held { at, since: began },
                // It may have been written, and the answer lost.
                Ok(Err(_)) | Err(_) => self.look_again().await,
            }
            if self.held.since.elapsed() >= lease * 2 / 3 {
                tracing::warn!(
                    mapping = self.candidate.mapping,
                    "the right to poll a queue alone is lost"
                );
                return;
            }
        }
    }

    async fn look_again(&mut self) {
        let Candidate { registry, mapping, .. } = self.candidate;
        let found = tokio::time::timeout(self.candidate.lease / 6, registry.lease(mapping)).await;
        if let Ok(Ok(Some(found))) = found
            && found.holder == self.candidate.holder
        {
            self.held.at = found.at;
        }
    }

    /// Lets another node poll at once.
    pub async fn give_back(self) {
        let Candidate { registry, mapping, .. } = self.candidate;
        if let Err(error) = registry.delete_lease(mapping, self.held.at).await {
            tracing::debug!(mapping, %error, "another node may poll a queue after a lease only");
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::clock::Clock;
    use bowline_store::{MemoryStore, Sharing};

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn registry() -> Registry {
        Registry::new(Arc::new(MemoryStore::default()), Sharing::Shared, Clock::system(), 0)
    }

    fn candidate<'a>(registry: &'a Registry, holder: &str) -> Candidate<'a> {
        Candidate::new((registry, "m"), holder.to_owned(), LEASE)
    }

    /// Looks again and again for so long.
    async fn looking<'a>(mut candidate: Candidate<'a>, time: Duration) -> Result<Turn<'a>, Candidate<'a>> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            candidate = match candidate.look().await {
                Ok(turn) => return Ok(turn),
                Err(candidate) => candidate,
            };
            tokio::time::sleep(candidate.pause()).await;
        }
        Err(candidate)
    }

    #[tokio::test(start_paused = true)]
    async fn one_polls_until_it_gives_its_turn_back() {
        let registry = registry();
        let mut first = candidate(&registry, "first").look().await.ok().expect("nobody has it");
        let second = candidate(&registry, "second");
        let second = tokio::select! {
            () = first.keep() => panic!("it is lost though nothing is wrong"),
            second = looking(second, LEASE * 10) => second,
        };
        let Err(second) = second else {
            panic!("two hold at once")
        };
        first.give_back().await;
        assert!(second.look().await.is_ok(), "it was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_is_replaced_after_a_lease_and_has_stopped_before() {
        let registry = registry();
        let mut first = candidate(&registry, "first").look().await.ok().expect("nobody has it");
        let second = looking(candidate(&registry, "second"), LEASE - Duration::from_secs(1)).await;
        let Err(second) = second else {
            panic!("it was taken too early")
        };
        let mut second = looking(second, Duration::from_secs(2))
            .await
            .ok()
            .expect("it stood still");
        tokio::select! {
            () = first.keep() => {}
            () = second.keep() => panic!("the one that holds it loses it"),
        }
        first.give_back().await;
        let third = looking(candidate(&registry, "third"), LEASE / 3 - Duration::from_secs(1)).await;
        assert!(third.is_err(), "what is another's was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_reach_the_store_stops_in_time() {
        let registry = registry();
        let mut turn = candidate(&registry, "first").look().await.ok().expect("nobody has it");
        let began = Instant::now();
        // As if its writing had never arrived: somebody else's stands there.
        registry
            .put_lease("m", "other", Some(turn.held.at))
            .await
            .expect("the store is there");
        turn.keep().await;
        assert!(began.elapsed() < LEASE, "it stops after {:?}", began.elapsed());
    }
}
