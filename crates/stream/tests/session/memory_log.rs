//! A stream in memory that can be appended to, trimmed, and made to fail.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_stream::{ChainId, Event, EventId, HostId, Log, Page, Position, ReadError, ReadLimit, Stamp, StreamId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub struct MemoryLog {
    stream: StreamId,
    clock: Clock,
    state: Mutex<State>,
    appended: Notify,
    away: AtomicBool,
    /// Whether waiting ends before anything is appended.
    hasty: AtomicBool,
    /// How long a page takes.
    page_ms: AtomicU64,
    /// Most events of a page, however many are asked for.
    page_max: usize,
}

#[derive(Default)]
struct State {
    events: BTreeMap<Position, Event>,
    last: Position,
    trimmed: Position,
    count: u64,
}

impl MemoryLog {
    pub fn new(stream: StreamId, clock: Clock) -> Self {
        Self {
            stream,
            clock,
            state: Mutex::default(),
            appended: Notify::new(),
            away: AtomicBool::new(false),
            hasty: AtomicBool::new(false),
            page_ms: AtomicU64::new(0),
            page_max: 64,
        }
    }

    /// Appends an event; two hosts take turns, as their chains would.
    pub fn append(&self, key: Option<&str>, body: impl Into<Bytes>) -> Position {
        let mut state = self.state.lock();
        let stamp = Stamp::of(self.clock.now()).max(state.last.stamp.next());
        let side = state.count % 2;
        let position = Position {
            stamp,
            host: HostId(1 + side),
            chain: ChainId(1 + u32::try_from(side).unwrap()),
            index: state.count / 2,
        };
        let event = Event {
            position,
            id: EventId(u128::from(state.count).to_be_bytes()),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            body: body.into(),
        };
        state.events.insert(position, event);
        state.last = position;
        state.count += 1;
        drop(state);
        self.appended.notify_waiters();
        position
    }

    /// What the event at a position is called.
    pub fn number_at(&self, position: Position) -> u64 {
        let state = self.state.lock();
        std::str::from_utf8(&state.events[&position].body)
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Takes away everything up to `to`.
    pub fn trim(&self, to: Position) {
        let mut state = self.state.lock();
        state.trimmed = state.trimmed.max(to);
        state.events.retain(|at, _| *at > to);
    }

    /// Undoes the last append, for a test that goes through the same steps again.
    pub fn forget_last(&self) {
        self.state.lock().events.pop_last();
    }

    pub fn be_hasty(&self) {
        self.hasty.store(true, Ordering::Release);
    }

    pub fn slow_down(&self, page_ms: u64) {
        self.page_ms.store(page_ms, Ordering::Release);
    }

    pub fn go_away(&self) {
        self.away.store(true, Ordering::Release);
    }

    pub fn come_back(&self) {
        self.away.store(false, Ordering::Release);
    }

    fn check(&self, stream: &StreamId) -> Result<(), ReadError> {
        if *stream != self.stream {
            return Err(ReadError::NoSuchStream(stream.clone()));
        }
        if self.away.load(Ordering::Acquire) {
            return Err(ReadError::Unavailable {
                stream: stream.clone(),
                reason: "away".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn read(&self, stream: &StreamId, after: Position, limit: ReadLimit) -> Result<Page, ReadError> {
        self.check(stream)?;
        match self.page_ms.load(Ordering::Acquire) {
            0 => {}
            page_ms => tokio::time::sleep(Duration::from_millis(page_ms)).await,
        }
        let state = self.state.lock();
        if after < state.trimmed {
            return Err(ReadError::Trimmed {
                stream: stream.clone(),
                available: state.trimmed,
            });
        }
        let rest = state.events.range((Bound::Excluded(after), Bound::Unbounded));
        let (mut events, mut bytes) = (Vec::new(), 0);
        for (_, event) in rest.take(limit.events.min(self.page_max)) {
            bytes += event.body.len() + event.key.as_ref().map_or(0, Bytes::len);
            if !events.is_empty() && bytes > limit.bytes {
                break;
            }
            events.push(event.clone());
        }
        let next = events.last().map_or(after, |event| event.position);
        Ok(Page {
            next,
            more: state.events.last_key_value().is_some_and(|(last, _)| next < *last),
            events,
        })
    }

    async fn end(&self, stream: &StreamId) -> Result<Position, ReadError> {
        self.check(stream)?;
        Ok(self.state.lock().last)
    }

    async fn wait(&self, _: &StreamId, after: Position) {
        let mut appended = std::pin::pin!(self.appended.notified());
        appended.as_mut().enable();
        if self.state.lock().last <= after && !self.hasty.load(Ordering::Acquire) {
            appended.await;
        }
    }
}

/// A moment all tests begin at.
pub fn start() -> Timestamp {
    Timestamp::from_micros(1_795_217_079_000_000)
}
