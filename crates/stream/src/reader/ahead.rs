//! Reading ahead: while a page is used, the nodes that the next one wants come from the store.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::View;
use super::cursor::{Source, at_once};
use crate::host::{Inner, Stream};
use crate::{ChainId, Position};

/// How many such readings of a stream run at the same time: while one waits for the disk, another one decodes.
const AT_ONCE_MAX: usize = 2;
/// How far beyond the page they go, in what is read at once.
const CHUNKS_AHEAD: u64 = 3;

/// The nodes of a stream that are on their way though nobody waits for them yet.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    coming: Mutex<Vec<(ChainId, Range<u64>)>>,
    came: Notify,
}

impl Ahead {
    fn has_room(&self) -> bool {
        self.coming.lock().len() < AT_ONCE_MAX
    }

    /// Claims the reading of these nodes, unless enough of them are being read or the first one is.
    fn begin(&self, chain: ChainId, nodes: &Range<u64>) -> bool {
        let mut coming = self.coming.lock();
        if coming.len() == AT_ONCE_MAX || covers(&coming, chain, nodes.start) {
            return false;
        }
        coming.push((chain, nodes.clone()));
        true
    }

    fn end(&self, chain: ChainId, nodes: &Range<u64>) {
        self.coming.lock().retain(|(of, range)| (*of, range) != (chain, nodes));
        self.came.notify_waiters();
    }

    fn is_coming(&self, chain: ChainId, number: u64) -> bool {
        covers(&self.coming.lock(), chain, number)
    }

    /// Waits for a node that is on its way; says whether it was.
    pub async fn wait(&self, chain: ChainId, number: u64) -> bool {
        if !self.is_coming(chain, number) {
            return false;
        }
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            if !self.is_coming(chain, number) {
                return true;
            }
            came.await;
        }
    }
}

fn covers(coming: &[(ChainId, Range<u64>)], chain: ChainId, number: u64) -> bool {
    coming.iter().any(|(of, nodes)| *of == chain && nodes.contains(&number))
}

/// A claim that ends however the reading does.
struct Claim {
    stream: Arc<Stream>,
    chain: ChainId,
    nodes: Range<u64>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.stream.ahead.end(self.chain, &self.nodes);
    }
}

impl Inner {
    /// Has the nodes read in the background that follow a page which ended here.
    pub(super) fn read_ahead(self: &Arc<Self>, stream: &Arc<Stream>, view: &View, next: Position) {
        if !stream.ahead.has_room() {
            return;
        }
        let Some((chain, nodes)) = self.missing_after(stream, view, next) else {
            return;
        };
        if !stream.ahead.begin(chain, &nodes) {
            return;
        }
        let (host, stream) = (Arc::clone(self), Arc::clone(stream));
        let claim = Claim { stream, chain, nodes };
        // Not a task of the service: readers wait for it, also while the host joins anew.
        tokio::spawn(async move {
            let source = Source {
                host: &host,
                stream: &claim.stream,
            };
            let count = usize::try_from(claim.nodes.end - claim.nodes.start).unwrap_or(usize::MAX);
            // Whoever wants the first node asks again and hears what is wrong.
            let _ = source.fetch(chain, claim.nodes.start, count).await;
        });
    }

    /// The nodes of a chain that will be wanted soon and are neither in memory nor on their way.
    fn missing_after(&self, stream: &Stream, view: &View, next: Position) -> Option<(ChainId, Range<u64>)> {
        view.heads.iter().find_map(|(&chain, head)| {
            let node = stream.places.lock().get(next, chain)?;
            let soon = node + CHUNKS_AHEAD * at_once(head, node.min(head.next_node)) as u64;
            let soon = (node..soon.min(head.next_node)).filter(|number| !stream.ahead.is_coming(chain, *number));
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
        assert!(ahead.begin(chain, &(2..5)));
        assert!(!ahead.begin(chain, &(4..9)), "that one is coming");
        assert!(ahead.begin(chain, &(5..9)));
        assert!(!ahead.begin(chain, &(9..12)), "two at a time");
        assert!(!ahead.wait(chain, 9).await, "others are coming");
        assert!(!ahead.wait(ChainId(2), 3).await, "of another chain");
        let waited = async {
            assert!(ahead.wait(chain, 3).await);
            assert!(ahead.is_coming(chain, 5), "the other one is not waited for");
        };
        let ended = async {
            tokio::task::yield_now().await;
            ahead.end(chain, &(2..5));
        };
        tokio::join!(waited, ended);
        assert!(ahead.begin(chain, &(9..12)), "the first has ended");
    }
}
