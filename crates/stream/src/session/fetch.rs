//! Reading the events of a set again.

use std::collections::VecDeque;

use super::deliver::{event_bytes, just_before};
use super::error::{Fault, LogFault};
use super::filter::{Filter, Match};
use super::limits::{PAGE_EVENTS_MAX, SET_BYTES_MAX};
use super::record::{Chosen, MarkerRecord};
use super::service::Inner;
use crate::{Event, Position, ReadLimit, StreamId};

/// What is left of a set.
pub(super) enum Fetched {
    Events(Vec<Event>),
    /// Some or all of it has been trimmed.
    Trimmed(Position),
}

impl Fetched {
    fn of(found: Result<Vec<Event>, LogFault>) -> Result<Self, LogFault> {
        match found {
            Ok(events) => Ok(Self::Events(events)),
            Err(LogFault::Trimmed(available)) => Ok(Self::Trimmed(available)),
            Err(fault) => Err(fault),
        }
    }
}

impl Inner {
    /// The events of a set that was given out before.
    pub async fn fetch(
        &self,
        stream: &StreamId,
        filter: Option<&Filter>,
        set: &MarkerRecord,
    ) -> Result<Fetched, LogFault> {
        match &set.events {
            None => Fetched::of(self.fetch_range(stream, filter, set).await),
            Some(chosen) => self.fetch_chosen(stream, chosen, usize::MAX).await,
        }
    }

    async fn fetch_range(
        &self,
        stream: &StreamId,
        filter: Option<&Filter>,
        set: &MarkerRecord,
    ) -> Result<Vec<Event>, LogFault> {
        let (mut found, mut after, count) = (Vec::new(), set.after, set.count as usize);
        while found.len() < count && after < set.to {
            let events = match filter {
                None => count - found.len(),
                Some(_) => PAGE_EVENTS_MAX,
            };
            let bytes = SET_BYTES_MAX;
            let page = self.log.read(stream, after, ReadLimit { events, bytes }).await?;
            after = match page.events.last() {
                Some(event) => event.position,
                None if page.more && page.next > after => page.next,
                None => set.to,
            };
            let within = page.events.into_iter().take_while(|event| event.position <= set.to);
            let passes = |event: &Event| filter.is_none_or(|filter| filter.judge(event).verdict == Match::Yes);
            found.extend(within.filter(passes));
        }
        Ok(found)
    }

    /// The events at these positions, in their order. It stops early only with as many bytes as are asked for.
    pub async fn fetch_chosen(
        &self,
        stream: &StreamId,
        chosen: &[Chosen],
        bytes_max: usize,
    ) -> Result<Fetched, LogFault> {
        Fetched::of(self.read_chosen(stream, chosen, bytes_max).await)
    }

    async fn read_chosen(
        &self,
        stream: &StreamId,
        chosen: &[Chosen],
        bytes_max: usize,
    ) -> Result<Vec<Event>, LogFault> {
        let mut found = Vec::with_capacity(chosen.len());
        let mut bytes = 0;
        let mut wanted: VecDeque<Position> = chosen.iter().map(|chosen| chosen.at).collect();
        while let Some(first) = wanted.front().copied().filter(|_| bytes < bytes_max) {
            let limit = ReadLimit {
                events: wanted.len(),
                bytes: SET_BYTES_MAX,
            };
            let page = self.log.read(stream, just_before(first), limit).await?;
            for event in page.events {
                let passed = wanted.partition_point(|at| *at < event.position);
                wanted.drain(..passed);
                if wanted.pop_front_if(|at| *at == event.position).is_some() {
                    bytes += event_bytes(&event);
                    found.push(event);
                }
            }
            // Whatever the page held, this one has been asked for.
            wanted.pop_front_if(|at| *at == first);
        }
        Ok(found)
    }

    /// The filter that a session's record names.
    pub fn filter_of(&self, text: Option<&str>) -> Result<Option<Filter>, Fault> {
        text.map(Filter::compile).transpose().map_err(Fault::damaged)
    }
}
