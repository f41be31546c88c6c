//! Nodes in memory: they never change, so what was read once need not be read again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::record::Node;
use crate::{ChainId, StreamId};

/// What a node takes in memory beside its bytes.
const OVERHEAD_BYTES: usize = 256;

type Name = (StreamId, ChainId, u64);

/// Nodes up to a number of bytes; the one that came first goes first.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
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
            held: Mutex::default(),
        }
    }

    pub fn get(&self, stream: &StreamId, chain: ChainId, number: u64) -> Option<Arc<Node>> {
        let name = (stream.clone(), chain, number);
        self.held.lock().nodes.get(&name).cloned()
    }

    pub fn put(&self, stream: &StreamId, chain: ChainId, number: u64, node: Arc<Node>) {
        let name = (stream.clone(), chain, number);
        let mut held = self.held.lock();
        held.bytes += size(&node);
        match held.nodes.insert(name.clone(), node) {
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
        let stream = StreamId::new("a", 2).unwrap();
        let cache = Cache::new(3 * 300);
        let node = Arc::new(Node {
            first_stamp: Stamp(1),
            last_stamp: Stamp(1),
            first_index: 0,
            runs: Vec::new(),
        });
        for number in 0..5 {
            cache.put(&stream, ChainId(1), number, Arc::clone(&node));
        }
        assert!(cache.get(&stream, ChainId(1), 0).is_none());
        assert!(cache.get(&stream, ChainId(1), 4).is_some());
        assert!(cache.get(&stream, ChainId(2), 4).is_none());
    }
}
