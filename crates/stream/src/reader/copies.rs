//! Copies: an event that was forwarded, whose answer was lost, and that was stored once more elsewhere.
//!
//! Every event that may have a copy carries its origin, and all copies have stamps after it. So whether an
//! earlier copy exists is seen in the events between the origin and the event itself; the later one is
//! dropped. That depends only on what is stored, so all readers drop the same ones.

use std::collections::HashSet;

use super::cursor::Take;
use super::merge::Merge;
use super::{Trouble, View};
use crate::host::{Inner, Stream};
use crate::record::Item;
use crate::{Event, EventId, Position, Stamp};

/// Events in their order, and the origins of those that have one.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub events: Vec<Event>,
    /// By the event's place among them, ascending. Few events have one.
    origins: Vec<(usize, Stamp)>,
}

impl Found {
    /// With room for so many events.
    pub fn with_capacity(events: usize) -> Self {
        Self {
            events: Vec::with_capacity(events),
            origins: Vec::new(),
        }
    }

    pub fn push(&mut self, item: Item) {
        self.origins
            .extend(item.origin.map(|origin| (self.events.len(), origin)));
        self.events.push(item.event);
    }

    /// Takes the last event away.
    pub fn pop(&mut self) {
        self.events.pop();
        self.origins.pop_if(|(at, _)| *at == self.events.len());
    }
}

impl FromIterator<Item> for Found {
    fn from_iter<T: IntoIterator<Item = Item>>(items: T) -> Self {
        let mut found = Self::default();
        items.into_iter().for_each(|item| found.push(item));
        found
    }
}

/// The events of a page after `after`, without later copies.
pub(super) async fn dropped(
    host: &Inner,
    stream: &Stream,
    view: &View,
    (after, found): (Position, Found),
) -> Result<Vec<Event>, Trouble> {
    let Found { mut events, origins } = found;
    let Some(origin) = origins.iter().map(|(_, origin)| *origin).min() else {
        return Ok(events);
    };
    let mut seen = before(host, stream, view, (Position::before(origin.next()), after)).await?;
    let (mut origins, mut at) = (origins.into_iter().peekable(), 0);
    events.retain(|event| {
        let has_origin = origins.next_if(|(of, _)| *of == at).is_some();
        at += 1;
        !has_origin || seen.insert(event.id)
    });
    Ok(events)
}

/// The identifiers of events with an origin that lie after `from`, up to `until` inclusive.
async fn before(
    host: &Inner,
    stream: &Stream,
    view: &View,
    (from, until): (Position, Position),
) -> Result<HashSet<EventId>, Trouble> {
    let mut seen = HashSet::new();
    if from >= until {
        return Ok(seen);
    }
    let mut merge = Merge::after(host, stream, view, from).await?;
    merge
        .each(|item| {
            if item.event.position > until {
                return Take::Enough;
            }
            if item.origin.is_some() {
                seen.insert(item.event.id);
            }
            Take::More
        })
        .await?;
    Ok(seen)
}
