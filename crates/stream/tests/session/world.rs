//! A stream, a store, and nodes that serve sessions, in the words of the tests.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{MemoryStore, Store};
use bowline_stream::session::{
    Batch, Caller, CrashPoints, CreateRequest, Handle, Options, ReadError, ReadRequest, Service, SessionId, Settings,
    Start,
};
use bowline_stream::{Position, StreamId};

use crate::memory_log::{MemoryLog, start};

pub struct World {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub log: Arc<MemoryLog>,
    pub entropy: Entropy,
    /// The first node.
    pub handle: Handle,
    _service: Service,
}

impl World {
    pub fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default()))
    }

    pub fn over(store: Arc<dyn Store>) -> Self {
        let clock = Clock::fake(start());
        let log = Arc::new(MemoryLog::new(stream(), clock.clone()));
        let entropy = Entropy::seeded(1);
        let service = node(&clock, &entropy, &store, &log);
        Self {
            handle: service.handle(),
            _service: service,
            clock,
            store,
            log,
            entropy,
        }
    }

    /// A world whose stream holds events with the bodies `1`, `2` and so on.
    pub fn with_events(count: u64) -> Self {
        let world = Self::new();
        world.append(1..=count);
        world
    }

    pub fn append(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Position> {
        let numbers = numbers.into_iter();
        numbers
            .map(|number| self.log.append(None, number.to_string()))
            .collect()
    }

    /// A further node over the same store and stream.
    pub fn another_node(&self) -> Service {
        node(&self.clock, &self.entropy, &self.store, &self.log)
    }

    pub fn node_with(&self, crash: CrashPoints) -> Service {
        Service::start_with(options(&self.clock, &self.entropy, &self.store, &self.log), crash)
    }

    pub async fn session(&self, settings: Settings) -> SessionId {
        self.session_from(Start::Oldest, settings).await
    }

    pub async fn session_from(&self, start: Start, settings: Settings) -> SessionId {
        let request = CreateRequest {
            stream: stream(),
            start,
            settings,
            client_token: None,
        };
        self.handle.create(&caller(), request).await.unwrap()
    }

    /// Reads, and must get a set.
    pub async fn take(&self, session: &SessionId, events_max: usize) -> Batch {
        take(&self.handle, session, events_max).await
    }

    /// Reads, and must get nothing.
    pub async fn take_nothing(&self, session: &SessionId) {
        let got = self.handle.read(session, ReadRequest::default()).await.unwrap();
        assert_eq!(got.map(|batch| numbers(&batch)), None);
    }

    /// The attempt and the numbers of each set that can be read now, nothing acknowledged.
    pub async fn drain(&self, session: &SessionId, events_max: usize) -> Vec<(u32, Vec<u64>)> {
        let mut sets = Vec::new();
        while let Some(batch) = self.handle.read(session, at_most(events_max)).await.unwrap() {
            sets.push((batch.attempt, numbers(&batch)));
        }
        sets
    }

    pub async fn read_error(&self, session: &SessionId) -> ReadError {
        self.handle.read(session, ReadRequest::default()).await.unwrap_err()
    }
}

fn node(clock: &Clock, entropy: &Entropy, store: &Arc<dyn Store>, log: &Arc<MemoryLog>) -> Service {
    Service::start(options(clock, entropy, store, log))
}

pub fn options(clock: &Clock, entropy: &Entropy, store: &Arc<dyn Store>, log: &Arc<MemoryLog>) -> Options {
    Options {
        clock: clock.clone(),
        entropy: entropy.clone(),
        store: Arc::clone(store),
        log: Arc::clone(log) as Arc<_>,
    }
}

pub async fn take(handle: &Handle, session: &SessionId, events_max: usize) -> Batch {
    let got = handle.read(session, at_most(events_max)).await.unwrap();
    got.expect("there is something to read")
}

pub fn at_most(events_max: usize) -> ReadRequest {
    ReadRequest {
        events_max,
        ..ReadRequest::default()
    }
}

pub fn stream() -> StreamId {
    "orders~2".parse().unwrap()
}

pub fn caller() -> Caller {
    Caller {
        who: "000000000000".to_owned(),
        request_id: "test".to_owned(),
    }
}

/// What the events of a set are called.
pub fn numbers(batch: &Batch) -> Vec<u64> {
    let texts = batch
        .events
        .iter()
        .map(|event| std::str::from_utf8(&event.body).unwrap());
    texts.map(|text| text.parse().unwrap()).collect()
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
