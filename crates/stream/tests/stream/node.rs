//! Hosts ready to be tested, and the verbs of streams.

use std::ops::Range;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{MemoryStore, Store};
use bowline_stream::{
    Config, Event, EventId, Handle, Log, NoPeers, Options, Position, ReadLimit, Record, Settings, Sharing, StreamId,
};
use tokio::task::JoinHandle;

/// A running host.
pub struct Node {
    pub handle: Handle,
    service: JoinHandle<()>,
}

pub fn options(store: Arc<dyn Store>) -> Options {
    Options {
        store,
        blobs: None,
        clock: Clock::system(),
        entropy: Entropy::seeded(1),
        peers: Arc::new(NoPeers),
        address: String::new(),
        sharing: Sharing::Exclusive,
        config: Config::default(),
    }
}

impl Node {
    pub async fn start(options: Options) -> Self {
        let (service, handle) = options.start().await.unwrap();
        let service = tokio::spawn(service.run());
        Self { handle, service }
    }

    pub async fn in_memory() -> Self {
        Self::start(options(Arc::new(MemoryStore::default()))).await
    }

    /// Ends the host as a crash would: its tasks stop wherever they are.
    pub async fn crash(mut self) {
        self.service.abort();
        let _ = (&mut self.service).await;
        drop(self);
        // What its tasks hold goes when the runtime has dropped them.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    pub async fn create(&self, name: &str) -> StreamId {
        let stream = StreamId::new(name, 2).unwrap();
        self.handle.create(&stream, Settings::default()).await.unwrap();
        stream
    }

    pub async fn append(&self, stream: &StreamId, records: Vec<Record>) -> Vec<Position> {
        self.handle.append(stream, records).await.unwrap()
    }

    /// All events there are, read in pages of `page` events.
    pub async fn read_all(&self, stream: &StreamId, page: usize) -> Vec<Event> {
        self.read_after(stream, Position::START, page).await
    }

    pub async fn read_after(&self, stream: &StreamId, mut after: Position, page: usize) -> Vec<Event> {
        let end = self.handle.end(stream).await.unwrap();
        let mut events = Vec::new();
        while after < end {
            let page = self.handle.read(stream, after, limit(page)).await.unwrap();
            assert!(page.next >= after);
            events.extend(page.events);
            after = page.next;
        }
        events
    }
}

pub fn limit(events: usize) -> ReadLimit {
    ReadLimit {
        events,
        bytes: 16 * 1024 * 1024,
    }
}

/// Records whose bodies are the numbers.
pub fn numbered(numbers: Range<usize>) -> Vec<Record> {
    numbers.map(record).collect()
}

pub fn record(number: usize) -> Record {
    Record {
        body: number.to_string().into(),
        ..Record::default()
    }
}

/// A record with an identifier of its own.
pub fn given(number: usize) -> Record {
    Record {
        id: Some(EventId((number as u128).to_be_bytes())),
        ..record(number)
    }
}

/// The numbers in the bodies of events.
pub fn numbers(events: &[Event]) -> Vec<usize> {
    let number = |event: &Event| std::str::from_utf8(&event.body).unwrap().parse().unwrap();
    events.iter().map(number).collect()
}
