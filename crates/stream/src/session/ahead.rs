//! Pages that a lane reads while its commit is under way: the readers whom that answers come back for them.

use std::collections::VecDeque;

use super::deliver::event_bytes;
use super::limits::{PAGE_EVENTS_MAX, SET_BYTES_DEFAULT};
use crate::{Log, Page, Position, ReadLimit, StreamId};

/// Pages one after the other, each with the position that it follows.
#[derive(Default)]
pub(super) struct Ahead {
    pages: VecDeque<(Position, Page)>,
    events: usize,
    bytes: usize,
}

impl Ahead {
    /// The page after `after`, if it is here; those before it are of no use any more.
    pub fn take(&mut self, after: Position) -> Option<Page> {
        while let Some((follows, page)) = self.pages.pop_front() {
            self.events -= page.events.len();
            self.bytes -= bytes_of(&page);
            if follows == after {
                return Some(page);
            }
        }
        None
    }

    /// What was not used of a page that had been taken.
    pub fn put_back(&mut self, follows: Position, page: Page) {
        self.count(&page);
        self.pages.push_front((follows, page));
    }

    fn count(&mut self, page: &Page) {
        self.events += page.events.len();
        self.bytes += bytes_of(page);
    }

    /// Reads on from `after` until it has as much as `enough`, the stream ends or it is dropped. Whoever wants a page that could
    /// not be read asks again, and hears why.
    pub async fn fill(&mut self, log: &dyn Log, (stream, after): (&StreamId, Position), enough: ReadLimit) {
        if self.pages.front().is_some_and(|(follows, _)| *follows != after) {
            *self = Self::default();
        }
        let limit = ReadLimit {
            events: enough.events.clamp(1, PAGE_EVENTS_MAX),
            bytes: enough.bytes.clamp(1, SET_BYTES_DEFAULT),
        };
        let mut next = self.pages.back().map_or(after, |(_, page)| page.next);
        while self.events < enough.events && self.bytes < enough.bytes {
            let Ok(page) = log.read(stream, next, limit).await else {
                return;
            };
            if !page.more || page.next <= next || page.events.is_empty() {
                return;
            }
            self.count(&page);
            let follows = std::mem::replace(&mut next, page.next);
            self.pages.push_back((follows, page));
            // Else a log that has all of it in memory would keep the commit's answer waiting.
            tokio::task::yield_now().await;
        }
    }
}

fn bytes_of(page: &Page) -> usize {
    page.events.iter().map(event_bytes).sum()
}
