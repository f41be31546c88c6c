//! The memory that sandboxes may have together: whoever makes one holds a claim first.
//!
//! A sandbox counts with the memory that it is allowed, not with what it uses at the moment, so that the
//! budget holds whatever the functions do. Claims are granted in the order in which they were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bowline_foundation::units::Mebibytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The budget, and what is left of it.
pub(crate) struct Room {
    left: Arc<Semaphore>,
    budget: Mebibytes,
    /// Who waits for room, so that what becomes idle is looked at again.
    waiting: AtomicU32,
    /// Told when a sandbox becomes idle while somebody waits.
    pub idled: Notify,
    /// Tells all who wait for a place that a sandbox has become idle, or is gone.
    pub moved: Arc<Notify>,
    claimed_bytes: Gauge,
}

/// Memory that a sandbox has, or will have; given back when dropped.
pub(crate) struct Claim {
    _permit: OwnedSemaphorePermit,
    amount: Mebibytes,
    moved: Arc<Notify>,
    claimed_bytes: Gauge,
}

/// Somebody who waits; counted until dropped.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl Room {
    pub fn new(budget: Mebibytes, claimed_bytes: Gauge) -> Self {
        Self {
            left: Arc::new(Semaphore::new(budget.0 as usize)),
            budget,
            waiting: AtomicU32::new(0),
            idled: Notify::new(),
            moved: Arc::default(),
            claimed_bytes,
        }
    }

    pub fn budget(&self) -> Mebibytes {
        self.budget
    }

    /// What is claimed at the moment.
    pub fn claimed(&self) -> Mebibytes {
        let left = u32::try_from(self.left.available_permits()).unwrap_or(u32::MAX);
        Mebibytes(self.budget.0.saturating_sub(left))
    }

    /// Claims memory if there is enough and nobody has waited longer for it.
    pub fn try_claim(&self, amount: Mebibytes) -> Option<Claim> {
        let permit = self.left.clone().try_acquire_many_owned(amount.0).ok()?;
        Some(self.granted(permit, amount))
    }

    /// Waits for its turn, and for enough memory.
    pub async fn claim(&self, amount: Mebibytes) -> Claim {
        let permit = self.left.clone().acquire_many_owned(amount.0).await;
        self.granted(permit.expect("the room is never closed"), amount)
    }

    fn granted(&self, permit: OwnedSemaphorePermit, amount: Mebibytes) -> Claim {
        let claimed_bytes = self.claimed_bytes.clone();
        claimed_bytes.inc_by(bytes(amount));
        Claim {
            _permit: permit,
            amount,
            moved: self.moved.clone(),
            claimed_bytes,
        }
    }

    /// Counts somebody in who waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(&self.waiting)
    }

    /// A sandbox has become idle: whoever waits may have it, or its room.
    pub fn idled(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.idled.notify_one();
            self.moved.notify_waiters();
        }
    }
}

impl Claim {
    pub fn amount(&self) -> Mebibytes {
        self.amount
    }

    /// Gives the memory of a sandbox back that is gone, and tells who waits for its place.
    pub fn vacate(self) {
        let moved = self.moved.clone();
        drop(self);
        moved.notify_waiters();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed_bytes.dec_by(bytes(self.amount));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn bytes(amount: Mebibytes) -> i64 {
    i64::try_from(amount.bytes()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_budget_is_never_exceeded_and_comes_back() {
        let room = Room::new(Mebibytes(256), Gauge::default());
        let first = room.try_claim(Mebibytes(128)).unwrap();
        let _second = room.try_claim(Mebibytes(100)).unwrap();
        assert!(room.try_claim(Mebibytes(29)).is_none());
        assert_eq!(room.claimed(), Mebibytes(228));
        drop(first);
        assert_eq!(room.claimed(), Mebibytes(100));
        assert_eq!(room.claimed_bytes.get(), 100 * 1024 * 1024);
        assert!(room.try_claim(Mebibytes(156)).is_some());
    }

    #[tokio::test]
    async fn a_small_claim_does_not_overtake_a_big_one_that_waits() {
        let room = Room::new(Mebibytes(256), Gauge::default());
        let first = room.try_claim(Mebibytes(200)).unwrap();
        let mut big = std::pin::pin!(room.claim(Mebibytes(256)));
        assert!(futures_like_poll(&mut big).await.is_none());
        assert!(
            room.try_claim(Mebibytes(10)).is_none(),
            "what is left is kept for the big one"
        );
        drop(first);
        assert!(futures_like_poll(&mut big).await.is_some());
    }

    /// Polls once.
    async fn futures_like_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
