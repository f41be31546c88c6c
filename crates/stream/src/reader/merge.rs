//! The merge of a view's chains into one page, oldest first.

use std::collections::{HashMap, VecDeque};

use super::copies::{self, Found};
use super::cursor::{Cursor, Source, Take};
use super::{Trouble, View};
use crate::host::{Inner, Stream};
use crate::record::Item;
use crate::{ChainId, Page, Position, ReadLimit};

/// Events that a page gets room for at once; larger ones grow.
const ROOM_MAX: usize = 1024;
/// Pages whose ends are remembered.
const PLACES_MAX: usize = 256;

/// Where recent pages ended: the node of each chain from which the next page goes on.
#[derive(Debug, Default)]
pub(crate) struct Places {
    nodes: HashMap<Position, Vec<(ChainId, u64)>>,
    oldest_first: VecDeque<Position>,
}

impl Places {
    pub(super) fn get(&self, after: Position, chain: ChainId) -> Option<u64> {
        let nodes = self.nodes.get(&after)?;
        nodes.iter().find(|(id, _)| *id == chain).map(|(_, node)| *node)
    }

    fn put(&mut self, next: Position, nodes: Vec<(ChainId, u64)>) {
        if self.nodes.insert(next, nodes).is_none() {
            self.oldest_first.push_back(next);
        }
        if self.oldest_first.len() > PLACES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.nodes.remove(&oldest);
        }
    }
}

/// Cursors over all chains of a view; gives their events in the order of positions, up to the safe time.
pub(super) struct Merge<'a> {
    source: Source<'a>,
    view: &'a View,
    cursors: Vec<Cursor>,
}

impl<'a> Merge<'a> {
    pub async fn after(host: &'a Inner, stream: &'a Stream, view: &'a View, after: Position) -> Result<Self, Trouble> {
        let source = Source { host, stream };
        let mut cursors = Vec::with_capacity(view.heads.len());
        for (&chain, head) in &view.heads {
            if head.bound() < after.stamp || head.next_index == 0 {
                continue;
            }
            let hint = stream.places.lock().get(after, chain);
            cursors.push(Cursor::seek(&source, (chain, head.clone()), after, hint).await?);
        }
        Ok(Self { source, view, cursors })
    }

    /// The cursor that stands at the earliest event, and the position before which it may go on alone.
    fn first(&self) -> Option<(usize, Position)> {
        let mut best: Option<(usize, Position)> = None;
        let mut second = self.view.end();
        for (at, cursor) in self.cursors.iter().enumerate() {
            let Some(position) = cursor.peek() else { continue };
            match best {
                Some((_, earliest)) if position >= earliest => second = second.min(position),
                _ => {
                    if let Some((_, earliest)) = best {
                        second = second.min(earliest);
                    }
                    best = Some((at, position));
                }
            }
        }
        best.filter(|(_, position)| *position < self.view.end())
            .map(|(at, _)| (at, second))
    }

    /// Hands events to `take` until it has had enough; says whether it had.
    pub async fn each(&mut self, mut take: impl FnMut(Item) -> Take) -> Result<bool, Trouble> {
        while let Some((at, until)) = self.first() {
            if self.cursors[at].each(&self.source, until, &mut take).await? == Take::Enough {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many events to make room for.
    fn room(&self, limit: ReadLimit) -> usize {
        let left: u64 = self.cursors.iter().map(Cursor::left).sum();
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        left.min(limit.events).min(ROOM_MAX)
    }

    fn places(&self) -> Vec<(ChainId, u64)> {
        self.cursors
            .iter()
            .map(|cursor| (cursor.chain, cursor.node()))
            .collect()
    }
}

/// One page of what a view shows after `after`.
pub(super) async fn forward(
    host: &Inner,
    stream: &Stream,
    view: &View,
    after: Position,
    limit: ReadLimit,
) -> Result<Page, Trouble> {
    let mut merge = Merge::after(host, stream, view, after).await?;
    let (mut found, mut bytes) = (Found::with_capacity(merge.room(limit)), 0);
    let is_full = merge
        .each(|item| {
            bytes += item.event.body.len() + item.event.key.as_ref().map_or(0, bytes::Bytes::len);
            found.push(item);
            if found.events.len() >= limit.events || bytes >= limit.bytes {
                Take::Enough
            } else {
                Take::More
            }
        })
        .await?;
    let is_over = is_full && bytes > limit.bytes && found.events.len() > 1;
    if is_over {
        found.pop();
    }
    let next = match found.events.last() {
        Some(last) if is_full => last.position,
        _ => view.end().max(after),
    };
    if !is_over {
        stream.places.lock().put(next, merge.places());
    }
    let events = copies::dropped(host, stream, view, (after, found)).await?;
    Ok(Page {
        events,
        next,
        more: is_full,
    })
}
