//! Nodes in memory: they never change, so what was read once need not be read again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ChainId;
use crate::record::Node;

/// What a node takes in memory beside its bytes.
const OVERHEAD_BYTES: usize = 256;

/// A stream by its serial, a chain, and a node by its number.
type Name = (u64, ChainId, u64);

/// Nodes up to a number of bytes; the one that came first goes first.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    serials: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    nodes: HashMap<Name, Arc<Node>>,
    oldest_first: VecDeque<Name>,
    bytes: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            serials: AtomicU64::default(),
            held: Mutex::default(),
        }
    }

    /// A number for a stream, by which its nodes go here: its name may be given again.
    pub fn serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    pub fn get(&self, stream: u64, chain: ChainId, number: u64) -> Option<Arc<Node>> {
        let name = (stream, chain, number);
        self.held.lock().nodes.get(&name).cloned()
    }

    /// The first of these numbers whose node is not here.
    pub fn first_missing(&self, stream: u64, chain: ChainId, mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
        let held = self.held.lock();
        numbers.find(|number| !held.nodes.contains_key(&(stream, chain, *number)))
    }

    pub fn put(&self, stream: u64, chain: ChainId, number: u64, node: Arc<Node>) {
        let name = (stream, chain, number);
        let mut held = self.held.lock();
        held.bytes += size(&node);
        match held.nodes.insert(name, node) {
            Some(before) => held.bytes -= size(&before),
            None => held.oldest_first.push_back(name),
        }
        while held.bytes > self.bytes_max
            && let Some(oldest) = held.oldest_first.pop_front()
        {
            if let Some(gone) = held.nodes.remove(&oldest) {
                held.bytes -= size(&gone);
            }
        }
    }
}

fn size(node: &Node) -> usize {
    usize::try_from(node.bytes()).unwrap_or(usize::MAX) + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stamp;

    #[test]
    fn the_first_goes_first_when_it_is_full() {
        let cache = Cache::new(3 * 300);
        let (stream, other) = (cache.serial(), cache.serial());
        let node = Arc::new(Node {
            first_stamp: Stamp(1),
            last_stamp: Stamp(1),
            first_index: 0,
            runs: Vec::new(),
        });
        for number in 0..5 {
            cache.put(stream, ChainId(1), number, Arc::clone(&node));
        }
        assert!(cache.get(stream, ChainId(1), 0).is_none());
        assert!(cache.get(stream, ChainId(1), 4).is_some());
        assert!(cache.get(stream, ChainId(2), 4).is_none());
        assert!(cache.get(other, ChainId(1), 4).is_none());
        assert_eq!(cache.first_missing(stream, ChainId(1), 3..9), Some(5));
        assert_eq!(cache.first_missing(stream, ChainId(1), 3..5), None);
    }
}
