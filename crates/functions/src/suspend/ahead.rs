//! Checkpoints that are read before the runs come that they are of.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::carry::Chain;
use crate::service::Inner;

/// How many are held at once; further ones are read when their runs come.
const AHEAD_MAX: usize = 4;
/// How long one is held for its run.
const AHEAD_FOR: Duration = Duration::from_secs(5);

/// What is read ahead, or has been.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Vec<(Digest, JoinHandle<Option<Bytes>>)>>);

impl Ahead {
    /// Begins to read an announced checkpoint, unless it is being read or too many are.
    fn admit(&self, digest: Digest, read: impl FnOnce() -> JoinHandle<Option<Bytes>>) -> bool {
        let mut all = self.0.lock();
        let may = all.len() < AHEAD_MAX && all.iter().all(|(announced, _)| *announced != digest);
        if may {
            all.push((digest, read()));
        }
        may
    }

    fn forget(&self, digest: &Digest) {
        self.0.lock().retain(|(announced, reading)| {
            let stays = announced != digest;
            if !stays {
                reading.abort();
            }
            stays
        });
    }

    /// The bytes of an announced checkpoint, once they are here. Nothing if it was not announced or cannot be read.
    pub(super) async fn take(&self, digest: &Digest) -> Option<Bytes> {
        let reading = {
            let mut all = self.0.lock();
            let at = all.iter().position(|(announced, _)| announced == digest)?;
            all.swap_remove(at).1
        };
        reading.await.ok().flatten()
    }
}

impl Inner {
    /// Says to a node that a run with this checkpoint may be offered to it soon. Nothing hangs on it.
    pub(super) fn announce(self: &Arc<Self>, node: u64, checkpoint: Digest) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Some(cluster) = &inner.cluster
                && let Err(reason) = cluster.announce(node, checkpoint).await
            {
                tracing::debug!(node, reason, "a checkpoint was not announced");
            }
        });
    }

    /// Reads a checkpoint whose run may come soon.
    pub(crate) fn read_ahead(self: &Arc<Self>, checkpoint: Digest) {
        self.crash.reach("take.announced");
        let inner = self.clone();
        let reading = || {
            self.runtime.spawn(async move {
                let read = inner.suspends.ledger.announced(&checkpoint).await;
                let reported = read.inspect_err(|error| {
                    tracing::debug!(%checkpoint, error = %Chain(error), "an announced checkpoint cannot be read yet");
                });
                reported.ok()
            })
        };
        if !self.suspends.ahead.admit(checkpoint, reading) {
            return;
        }
        let inner = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(AHEAD_FOR).await;
            inner.suspends.ahead.forget(&checkpoint);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(bytes: &'static [u8]) -> JoinHandle<Option<Bytes>> {
        tokio::spawn(async move { Some(Bytes::from_static(bytes)) })
    }

    #[tokio::test]
    async fn what_was_announced_is_read_once_and_not_kept() {
        let ahead = Ahead::default();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        assert!(ahead.admit(one, || reading(b"one")) && ahead.admit(other, || reading(b"other")));
        assert!(!ahead.admit(one, || unreachable!("it is being read")));
        assert_eq!(ahead.take(&one).await.as_deref(), Some(&b"one"[..]));
        assert_eq!(ahead.take(&one).await, None);
        ahead.forget(&other);
        assert_eq!(ahead.take(&other).await, None);
        // One that cannot be read is as if it had not been announced.
        assert!(ahead.admit(one, || tokio::spawn(async { None })));
        assert_eq!(ahead.take(&one).await, None);
        let many: Vec<bool> = (0..=AHEAD_MAX as u8)
            .map(|number| ahead.admit(Digest::of(&[number]), || reading(b"")))
            .collect();
        assert_eq!(many.iter().filter(|is_taken| **is_taken).count(), AHEAD_MAX);
    }
}
