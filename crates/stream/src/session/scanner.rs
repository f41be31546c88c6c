//! New events of a stream, one after the other, as far as the session's filter lets them pass.

use std::collections::VecDeque;

use super::ahead::Ahead;
use super::deliver::event_bytes;
use super::error::LogFault;
use super::filter::{Filter, Match};
use super::limits::{EVENTS_EXAMINED_MAX, FILTER_STEPS_PER_COMMIT_MAX, PAGE_EVENTS_MAX};
use crate::{Event, Log, Page, Position, ReadLimit, StreamId};

pub(super) struct Scanner<'a> {
    log: &'a dyn Log,
    ahead: Ahead,
    stream: &'a StreamId,
    filter: Option<&'a Filter>,
    /// Read but not taken; the first one has passed the filter if `head_passes`.
    buffer: VecDeque<Event>,
    head_passes: bool,
    /// Where the next page begins.
    next: Position,
    more: bool,
    /// Everything up to here has been taken or skipped.
    pub cursor: Position,
    pub tally: Tally,
    steps: u64,
    examined: usize,
    /// What is wanted from one page.
    pub want: ReadLimit,
}

/// What a scanner has left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub skipped: u64,
    pub errors: u64,
}

impl<'a> Scanner<'a> {
    pub fn new(
        (log, ahead): (&'a dyn Log, Ahead),
        stream: &'a StreamId,
        filter: Option<&'a Filter>,
        cursor: Position,
    ) -> Self {
        Self {
            log,
            ahead,
            stream,
            filter,
            buffer: VecDeque::new(),
            head_passes: false,
            next: cursor,
            more: true,
            cursor,
            tally: Tally::default(),
            steps: 0,
            examined: 0,
            want: ReadLimit { events: 1, bytes: 1 },
        }
    }

    /// The next event that passes; none at the end of the stream, or when enough has been skipped for now.
    pub async fn peek(&mut self) -> Result<Option<&Event>, LogFault> {
        while !self.head_passes {
            match self.buffer.front() {
                Some(_) if self.is_tired() => return Ok(None),
                Some(_) => self.judge_head(),
                None if !self.more || self.is_tired() => return Ok(None),
                None => self.read_page().await?,
            }
        }
        Ok(self.buffer.front())
    }

    /// Events that are at hand, whether or not they pass.
    pub fn ready(&self) -> usize {
        self.buffer.len()
    }

    /// Takes all that is at hand if it is no more than this, in events and in bytes, and nothing is left out.
    pub fn take_all(&mut self, limit: ReadLimit) -> Option<Vec<Event>> {
        let fits =
            self.buffer.len() <= limit.events && self.buffer.iter().map(event_bytes).sum::<usize>() <= limit.bytes;
        let last = self.buffer.back().filter(|_| fits && self.filter.is_none())?;
        self.cursor = last.position;
        self.head_passes = false;
        Some(std::mem::take(&mut self.buffer).into())
    }

    /// Takes what `peek` has shown.
    pub fn take(&mut self) -> Option<Event> {
        self.head_passes = false;
        let event = self.buffer.pop_front()?;
        self.cursor = event.position;
        Some(event)
    }

    /// Where the stream ends, if everything up to there has been taken or skipped.
    pub fn tail(&self) -> Option<Position> {
        (self.buffer.is_empty() && !self.more).then(|| self.next.max(self.cursor))
    }

    /// What was read and not taken, for the next scanner.
    pub fn into_ahead(mut self) -> Ahead {
        if self.more && !self.buffer.is_empty() {
            let page = Page {
                events: self.buffer.into(),
                next: self.next,
                more: true,
            };
            self.ahead.put_back(self.cursor, page);
        }
        self.ahead
    }

    fn is_tired(&self) -> bool {
        self.examined >= EVENTS_EXAMINED_MAX || self.steps >= FILTER_STEPS_PER_COMMIT_MAX
    }

    fn judge_head(&mut self) {
        let Some(head) = self.buffer.front() else { return };
        let Some(filter) = self.filter else {
            self.head_passes = true;
            return;
        };
        let judgement = filter.judge(head);
        self.examined += 1;
        self.steps += judgement.steps;
        if judgement.verdict == Match::Yes {
            self.head_passes = true;
            return;
        }
        self.tally.skipped += 1;
        self.tally.errors += u64::from(judgement.verdict == Match::Error);
        self.take();
    }

    async fn read_page(&mut self) -> Result<(), LogFault> {
        let limit = ReadLimit {
            events: if self.filter.is_some() {
                PAGE_EVENTS_MAX
            } else {
                self.want.events
            },
            bytes: self.want.bytes,
        };
        let page = match self.ahead.take(self.next) {
            Some(page) => page,
            None => self.log.read(self.stream, self.next, limit).await?,
        };
        let last = page.events.last().map_or(self.next, |event| event.position);
        let reached = page.next.max(last);
        // A page that promises more and leads nowhere would never end.
        self.more = page.more && reached > self.next;
        self.next = reached;
        // It is read only when nothing is at hand.
        self.buffer = page.events.into();
        Ok(())
    }
}
