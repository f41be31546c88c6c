//! Copies: an event that was forwarded, whose answer was lost, and that was stored once more elsewhere.
//!
//! Every event that may have a copy carries its origin, and all copies have stamps after it. So whether an
//! earlier copy exists is seen in the events between the origin and the event itself; the later one is
//! dropped. That depends only on what is stored, so all readers drop the same ones.

use std::collections::HashSet;

use super::merge::{Merge, Take};
use super::{Trouble, View};
use crate::host::{Inner, Stream};
use crate::record::Item;
use crate::{Event, EventId, Position};

/// The events of a page after `after`, without later copies.
pub(super) async fn dropped(
    host: &Inner,
    stream: &Stream,
    view: &View,
    (after, items): (Position, Vec<Item>),
) -> Result<Vec<Event>, Trouble> {
    let earliest = items.iter().filter_map(|item| item.origin).min();
    let Some(origin) = earliest else {
        return Ok(items.into_iter().map(|item| item.event).collect());
    };
    let mut seen = before(host, stream, view, (Position::before(origin.next()), after)).await?;
    let is_first = |item: &Item| item.origin.is_none() || seen.insert(item.event.id);
    let mut kept = items;
    kept.retain(is_first);
    Ok(kept.into_iter().map(|item| item.event).collect())
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
