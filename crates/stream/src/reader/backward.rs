//! Reading newest first.

use std::sync::Arc;

use super::cursor::{Source, search};
use super::{ATTEMPTS, Freshness, Trouble, View, copies};
use crate::host::{Handle, Inner, Stream};
use crate::record::{Head, Item, Run, RunReader};
use crate::{ChainId, Event, Position, ReadError, ReadLimit, StreamId};

/// Consecutive events, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backward {
    pub events: Vec<Event>,
    /// From where to read on: everything before it is still to come.
    pub next: Position,
    /// Whether there are earlier events.
    pub more: bool,
}

impl Handle {
    /// The newest events before `before`, newest first. The end of the stream is the greatest position.
    pub async fn read_back(
        &self,
        stream: &StreamId,
        before: Position,
        limit: ReadLimit,
    ) -> Result<Backward, ReadError> {
        let host = self.inner();
        let stream = host.to_read(stream).await?;
        let mut wanted = Freshness::Beyond(before);
        for _ in 0..ATTEMPTS {
            let viewed = host.view(&stream, wanted).await;
            let (view, _) = viewed.map_err(|trouble| trouble.of(&stream.id))?;
            match page(&host, &stream, &view, (before, limit)).await {
                Err(Trouble::Stale) => wanted = Freshness::New,
                page => return page.map_err(|trouble| trouble.of(&stream.id)),
            }
        }
        Err(Trouble::Stale.of(&stream.id))
    }
}

async fn page(
    host: &Inner,
    stream: &Stream,
    view: &View,
    (before, limit): (Position, ReadLimit),
) -> Result<Backward, Trouble> {
    let source = Source { host, stream };
    let before = before.min(view.end());
    let mut chains = Vec::new();
    for (&chain, head) in &view.heads {
        let mut cursor = BackCursor::new(chain, Arc::clone(head));
        cursor.seek(&source, before).await?;
        chains.push(cursor);
    }
    let (mut items, mut bytes): (Vec<Item>, usize) = (Vec::new(), 0);
    let mut more = false;
    while let Some(latest) = latest(&chains) {
        let position = chains[latest].peek().expect("the latest cursor stands at an event");
        if position <= view.trimmed(stream) {
            break;
        }
        if items.len() >= limit.events || (bytes >= limit.bytes && !items.is_empty()) {
            more = true;
            break;
        }
        let item = chains[latest].next(&source, before).await?;
        bytes += item.event.body.len() + item.event.key.as_ref().map_or(0, bytes::Bytes::len);
        items.push(item);
    }
    let next = items.last().map_or(view.trimmed(stream), |item| item.event.position);
    let found: copies::Found = items.into_iter().rev().collect();
    let mut events = copies::dropped(host, stream, view, (just_before(next), found)).await?;
    events.reverse();
    Ok(Backward { events, next, more })
}

/// The greatest position under `position`.
fn just_before(position: Position) -> Position {
    match position.index.checked_sub(1) {
        Some(index) => Position { index, ..position },
        None => Position {
            chain: ChainId(position.chain.0.saturating_sub(1)),
            index: u64::MAX,
            ..position
        },
    }
}

fn latest(chains: &[BackCursor]) -> Option<usize> {
    let places = chains
        .iter()
        .enumerate()
        .filter_map(|(at, chain)| Some((chain.peek()?, at)));
    places.max().map(|(_, at)| at)
}

/// A place in one chain from which events are read backward: through the head, then the nodes.
struct BackCursor {
    chain: ChainId,
    head: Arc<Head>,
    /// The first node whose events are at hand or were given; the head stands after the last node.
    node: u64,
    /// Oldest first.
    items: Vec<Item>,
}

impl BackCursor {
    fn new(chain: ChainId, head: Arc<Head>) -> Self {
        Self {
            chain,
            node: head.next_node,
            head,
            items: Vec::new(),
        }
    }

    fn peek(&self) -> Option<Position> {
        self.items.last().map(|item| item.event.position)
    }

    /// Stands at the latest event before `before`.
    async fn seek(&mut self, source: &Source<'_>, before: Position) -> Result<(), Trouble> {
        self.items = items_of(&self.head.runs, self.chain, before)?;
        let is_in_nodes = self.items.is_empty() && self.head.next_node > self.head.first_node;
        if is_in_nodes {
            self.node = self.end_of_search(source, before).await?;
        }
        self.fill(source, before).await
    }

    /// The number after the first node that ends at or after `before`.
    async fn end_of_search(&self, source: &Source<'_>, before: Position) -> Result<u64, Trouble> {
        let low = search(source, (self.chain, &self.head), before.stamp).await?;
        Ok((low + 1).min(self.head.next_node))
    }

    async fn next(&mut self, source: &Source<'_>, before: Position) -> Result<Item, Trouble> {
        let item = self.items.pop().expect("the caller has peeked");
        self.fill(source, before).await?;
        Ok(item)
    }

    async fn fill(&mut self, source: &Source<'_>, before: Position) -> Result<(), Trouble> {
        while self.items.is_empty() && self.node > self.head.first_node {
            self.node -= 1;
            let node = source.node(self.chain, self.node, 1).await?;
            self.items = items_of(&node.runs, self.chain, before)?;
        }
        Ok(())
    }
}

fn items_of(runs: &[Run], chain: ChainId, before: Position) -> Result<Vec<Item>, Trouble> {
    let mut items = Vec::new();
    for run in runs {
        let mut reader = RunReader::new(run.clone(), chain);
        while reader.peek().is_some_and(|position| position < before) {
            items.push(reader.next()?);
        }
    }
    Ok(items)
}
