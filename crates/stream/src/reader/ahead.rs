//! Reading ahead: while a page is used, the nodes that the next one wants come from the store.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::View;
use super::cursor::{Source, at_once};
use crate::host::{Inner, Stream};
use crate::{ChainId, Position};

/// The nodes of a stream that are on their way though nobody waits for them yet.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    coming: Mutex<Option<(ChainId, Range<u64>)>>,
    came: Notify,
}

impl Ahead {
    /// Claims the reading of these nodes. One such reading a stream at a time.
    fn begin(&self, chain: ChainId, nodes: Range<u64>) -> bool {
        let mut coming = self.coming.lock();
        if coming.is_some() {
            return false;
        }
        *coming = Some((chain, nodes));
        true
    }

    fn end(&self) {
        *self.coming.lock() = None;
        self.came.notify_waiters();
    }

    /// Waits for a node that is on its way; says whether it was.
    pub async fn wait(&self, chain: ChainId, number: u64) -> bool {
        let is_coming = || {
            let coming = self.coming.lock();
            coming
                .as_ref()
                .is_some_and(|(of, nodes)| *of == chain && nodes.contains(&number))
        };
        if !is_coming() {
            return false;
        }
        let came = self.came.notified();
        tokio::pin!(came);
        came.as_mut().enable();
        if is_coming() {
            came.await;
        }
        true
    }
}

/// A claim that ends however the reading does.
struct Claim(Arc<Stream>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.ahead.end();
    }
}

impl Inner {
    /// Has the nodes read in the background that follow a page which ended here.
    pub(super) fn read_ahead(self: &Arc<Self>, stream: &Arc<Stream>, view: &View, next: Position) {
        let Some((chain, nodes)) = self.missing_after(stream, view, next) else {
            return;
        };
        if !stream.ahead.begin(chain, nodes.clone()) {
            return;
        }
        let (host, claim) = (Arc::clone(self), Claim(Arc::clone(stream)));
        // Not a task of the service: readers wait for it, also while the host joins anew.
        tokio::spawn(async move {
            let source = Source {
                host: &host,
                stream: &claim.0,
            };
            let count = usize::try_from(nodes.end - nodes.start).unwrap_or(usize::MAX);
            // Whoever wants the first node asks again and hears what is wrong.
            let _ = source.fetch(chain, nodes.start, count).await;
        });
    }

    /// The nodes of a chain that are not in memory though one of them will be wanted soon: before half of
    /// what is read at once is used up.
    fn missing_after(&self, stream: &Stream, view: &View, next: Position) -> Option<(ChainId, Range<u64>)> {
        view.heads.iter().find_map(|(&chain, head)| {
            let node = stream.places.lock().get(next, chain)?;
            let soon = node + at_once(head, node.min(head.next_node)) as u64 / 2;
            let soon = node..soon.min(head.next_node);
            let first = self.cache.first_missing(stream.serial, chain, soon)?;
            Some((chain, first..first + at_once(head, first) as u64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_wants_a_node_that_is_coming_waits_for_it() {
        let ahead = Ahead::default();
        let chain = ChainId(1);
        assert!(!ahead.wait(chain, 3).await, "nothing is coming");
        assert!(ahead.begin(chain, 2..5));
        assert!(!ahead.begin(chain, 5..9), "one at a time");
        assert!(!ahead.wait(chain, 5).await, "others are coming");
        assert!(!ahead.wait(ChainId(2), 3).await, "of another chain");
        let waited = async {
            assert!(ahead.wait(chain, 3).await);
        };
        let ended = async {
            tokio::task::yield_now().await;
            ahead.end();
        };
        tokio::join!(waited, ended);
        assert!(ahead.begin(chain, 5..9), "the first has ended");
    }
}
