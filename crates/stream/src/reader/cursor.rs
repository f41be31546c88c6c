//! A place in one chain from which events are read in order: through nodes, then the head of a view.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Trouble;
use crate::host::{Inner, Stream};
use crate::record::{Head, Item, Node, Run, RunReader, Stored};
use crate::{ChainId, Position, Stamp, key};

/// What is read at once of a chain, as far as its nodes' average size tells,
const READ_AHEAD_BYTES: u64 = 1024 * 1024;
/// and the most nodes.
const READ_AHEAD_NODES_MAX: u64 = 128;

pub(crate) struct Cursor {
    pub chain: ChainId,
    head: Arc<Head>,
    /// The node to be read when the runs at hand are used up; the head stands after the last node.
    next_node: u64,
    is_past_head: bool,
    runs: VecDeque<Run>,
    reader: Option<RunReader>,
}

/// Reads the nodes of one stream.
pub(crate) struct Source<'a> {
    pub host: &'a Inner,
    pub stream: &'a Stream,
}

impl Cursor {
    /// The place after `after` in a chain; `hint` is a node at or before it.
    pub async fn seek(
        source: &Source<'_>,
        (chain, head): (ChainId, Arc<Head>),
        after: Position,
        hint: Option<u64>,
    ) -> Result<Self, Trouble> {
        let mut cursor = Self {
            chain,
            next_node: head.next_node,
            is_past_head: false,
            runs: VecDeque::new(),
            reader: None,
            head,
        };
        let is_in_head = cursor
            .head
            .runs
            .first()
            .is_some_and(|run| run.position(chain, 0) <= after);
        if !is_in_head {
            cursor.next_node = match hint.filter(|node| *node >= cursor.head.first_node) {
                Some(node) => node,
                None => search(source, (chain, &cursor.head), after.stamp).await?,
            };
        }
        cursor.advance(source).await?;
        cursor.skip_until(source, after).await?;
        Ok(cursor)
    }

    async fn skip_until(&mut self, source: &Source<'_>, after: Position) -> Result<(), Trouble> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(()) };
            if reader.last() <= after {
                self.reader = None;
                self.advance(source).await?;
                continue;
            }
            while reader.peek().is_some_and(|position| position <= after) {
                reader.skip()?;
            }
            return Ok(());
        }
    }

    /// Where the next event lies; none at the end of the view.
    pub fn peek(&self) -> Option<Position> {
        self.reader.as_ref().and_then(RunReader::peek)
    }

    /// How many events there are from the next one on.
    pub fn left(&self) -> u64 {
        self.peek()
            .map_or(0, |next| self.head.next_index.saturating_sub(next.index))
    }

    /// Hands the events before `until` to `take`, as far as they lie in one run; only if there is one. Then
    /// stands at the next event.
    pub async fn each(
        &mut self,
        source: &Source<'_>,
        until: Position,
        take: &mut impl FnMut(Item) -> Take,
    ) -> Result<Take, Trouble> {
        let reader = self.reader.as_mut().expect("the caller has peeked");
        let wish = within(reader, until, take)?;
        if reader.peek().is_none() {
            self.advance(source).await?;
        }
        Ok(wish)
    }

    /// A node at or before the next event.
    pub fn node(&self) -> u64 {
        if self.is_past_head {
            self.head.next_node
        } else {
            self.next_node.saturating_sub(1)
        }
    }

    /// Stands at the beginning of the next run.
    async fn advance(&mut self, source: &Source<'_>) -> Result<(), Trouble> {
        while self.runs.is_empty() && !self.is_past_head {
            if self.next_node < self.head.next_node {
                let ahead = at_once(&self.head, self.next_node);
                let node = source.node(self.chain, self.next_node, ahead).await?;
                self.runs.extend(node.runs.iter().cloned());
                self.next_node += 1;
            } else {
                self.runs.extend(self.head.runs.iter().cloned());
                self.is_past_head = true;
            }
        }
        self.reader = self.runs.pop_front().map(|run| RunReader::new(run, self.chain));
        Ok(())
    }
}

/// What a receiver of events says after each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    More,
    Enough,
}

/// The part of [`Cursor::each`] that runs once an event: it waits for nothing.
fn within(reader: &mut RunReader, until: Position, take: &mut impl FnMut(Item) -> Take) -> Result<Take, Trouble> {
    while reader.peek().is_some_and(|position| position < until) {
        if take(reader.next()?) == Take::Enough {
            return Ok(Take::Enough);
        }
    }
    Ok(Take::More)
}

/// How many nodes of a chain are read at once, from the number `from` on.
pub(super) fn at_once(head: &Head, from: u64) -> usize {
    let nodes = (head.next_node - head.first_node).max(1);
    let bytes = (head.node_bytes / nodes).max(1);
    let ahead = (READ_AHEAD_BYTES / bytes).clamp(1, READ_AHEAD_NODES_MAX);
    usize::try_from(ahead.min(head.next_node - from)).expect("at most so many nodes")
}

/// The first node that ends at or after `stamp`, by bisection; the next node's number if none does.
pub(super) async fn search(source: &Source<'_>, (chain, head): (ChainId, &Head), stamp: Stamp) -> Result<u64, Trouble> {
    let (mut low, mut high) = (head.first_node, head.next_node);
    if stamp == Stamp(0) {
        return Ok(low);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if source.node(chain, middle, 1).await?.last_stamp < stamp {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

impl Source<'_> {
    /// A node from memory or the store; up to `ahead` nodes, itself included, are read at once.
    pub async fn node(&self, chain: ChainId, number: u64, ahead: usize) -> Result<Arc<Node>, Trouble> {
        let cache = &self.host.cache;
        let known = || cache.get(self.stream.serial, chain, number);
        if let Some(node) = known() {
            return Ok(node);
        }
        if self.stream.ahead.wait(chain, number).await
            && let Some(node) = known()
        {
            return Ok(node);
        }
        self.fetch(chain, number, ahead).await
    }

    /// A node from the store, with up to `ahead` nodes, itself included, which go to memory.
    pub async fn fetch(&self, chain: ChainId, number: u64, ahead: usize) -> Result<Arc<Node>, Trouble> {
        let cache = &self.host.cache;
        let name = self.stream.id.name();
        let after = number.checked_sub(1).map(|before| key::node(name, chain, before));
        let found = self
            .host
            .store
            .scan(&key::nodes(name, chain), after.as_ref(), ahead)
            .await?;
        let mut wanted = None;
        for (key, entry) in found {
            let last = key::node_number(&key).ok_or_else(|| Trouble::Damaged("a node's key is short".to_owned()))?;
            match Stored::decode(&entry.value)? {
                Stored::Node(node) => {
                    let node = Arc::new(node);
                    cache.put(self.stream.serial, chain, last, Arc::clone(&node));
                    if last == number {
                        wanted = Some(node);
                    }
                }
                Stored::Pack(pack) if wanted.is_none() && pack.first_number <= number => {
                    for (offset, node) in self.unpack(&pack).await?.into_iter().enumerate() {
                        let (node, at) = (Arc::new(node), pack.first_number + offset as u64);
                        cache.put(self.stream.serial, chain, at, Arc::clone(&node));
                        if at == number {
                            wanted = Some(node);
                        }
                    }
                }
                Stored::Pack(_) => break,
            }
        }
        wanted.ok_or(Trouble::Stale)
    }

    async fn unpack(&self, pack: &crate::record::Pack) -> Result<Vec<Node>, Trouble> {
        let blobs = self.host.blobs.as_ref();
        let blobs = blobs.ok_or_else(|| Trouble::Unavailable("cold nodes need the blob store".to_owned()))?;
        let bytes = blobs.get(&pack.digest).await.map_err(|error| match error {
            // The pack may have been trimmed since it was read; a new view will tell.
            bowline_store::blob::BlobError::NotFound(_) => Trouble::Stale,
            error => Trouble::Unavailable(error.to_string()),
        })?;
        pack.nodes.iter().map(|place| packed(&bytes, place)).collect()
    }
}

fn packed(bytes: &Bytes, place: &crate::record::Packed) -> Result<Node, Trouble> {
    let (from, length) = (place.offset as usize, place.length as usize);
    if from + length > bytes.len() {
        return Err(Trouble::Damaged("a pack is shorter than its list of nodes".to_owned()));
    }
    match Stored::decode(&bytes.slice(from..from + length))? {
        Stored::Node(node) => Ok(node),
        Stored::Pack(_) => Err(Trouble::Damaged("a pack holds a pack".to_owned())),
    }
}
