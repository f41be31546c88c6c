//! A world with streams.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_functions::events::{Folder, Options, Timing};
use bowline_functions::model::events::{
    CreateMapping, Mapping, MappingChange, MappingStart, MappingState, PutEventInvoke, PutMode,
};
use bowline_store::Store;
use bowline_store::blob::Blobs;
use bowline_stream::session;
use bowline_stream::{
    Config, Event, Log as _, NoPeers, Page, Position, ReadError, ReadLimit, Record, Sharing, StreamId,
};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::fake::PATIENCE;
use crate::world::{World, WorldSettings, caller, open, request, target};

/// A world whose node has streams.
pub struct Events {
    pub world: World,
    pub streams: Streams,
    pub clock: Clock,
    folder: Arc<TempDir>,
    watched: Vec<Folder>,
}

/// A stream host and a session service.
pub struct Streams {
    pub host: bowline_stream::Handle,
    sessions: session::Service,
    running: JoinHandle<()>,
}

impl Streams {
    pub async fn start(store: Arc<dyn Store>, clock: Clock) -> Self {
        let options = bowline_stream::Options {
            store: store.clone(),
            blobs: None,
            clock: clock.clone(),
            entropy: Entropy::system(),
            peers: Arc::new(NoPeers),
            address: String::new(),
            sharing: Sharing::Exclusive,
            config: Config::default(),
        };
        let (service, host) = options.start().await.unwrap();
        let running = tokio::spawn(service.run());
        let sessions = session::Service::start(session::Options {
            clock,
            entropy: Entropy::system(),
            store,
            log: Arc::new(host.clone()),
        });
        Self {
            host,
            sessions,
            running,
        }
    }

    pub fn options(&self) -> Options {
        Options {
            host: self.host.clone(),
            sessions: self.sessions.handle(),
            timing: timing(),
            queues: None,
            buckets: None,
            folders: Vec::new(),
        }
    }

    pub async fn stop(self) {
        self.sessions.shut_down().await;
        self.running.abort();
        let _ = self.running.await;
        // What the host's tasks hold goes when the runtime has dropped them.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

/// As the service waits, but much shorter.
pub fn timing() -> Timing {
    Timing {
        retry_delays: [Duration::from_millis(20), Duration::from_millis(40)],
        backoff_first: Duration::from_millis(10),
        backoff_longest: Duration::from_millis(100),
        lease: Duration::from_secs(1),
        wait: Duration::from_millis(500),
        look_every: Duration::from_millis(200),
    }
}

impl Events {
    pub async fn new() -> Self {
        Self::at(Clock::system()).await
    }

    pub async fn at(clock: Clock) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), clock, Vec::new()).await
    }

    /// A node that watches folders.
    pub async fn watching(watched: Vec<Folder>) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), Clock::system(), watched).await
    }

    pub async fn over(folder: Arc<TempDir>, clock: Clock, watched: Vec<Folder>) -> Self {
        let (store, blobs): (Arc<dyn Store>, Blobs) = open(folder.path());
        let streams = Streams::start(store.clone(), clock.clone()).await;
        let options = Options {
            folders: watched.clone(),
            ..streams.options()
        };
        let events = (clock.clone(), Some(options));
        let settings = WorldSettings::default();
        let world = World::over_streams(store, blobs, folder.clone(), settings, events).await;
        Self {
            world,
            streams,
            clock,
            folder,
            watched,
        }
    }

    pub async fn stop(mut self) -> Arc<TempDir> {
        self.world.stop().await;
        self.streams.stop().await;
        self.folder
    }

    /// Stops the node and starts another on what it kept.
    pub async fn restart(self) -> Self {
        let (clock, watched) = (self.clock.clone(), self.watched.clone());
        Self::over(self.stop().await, clock, watched).await
    }

    /// Makes a stream; returns its ARN as a destination.
    pub async fn stream(&self, name: &str) -> String {
        let id = StreamId::new(name, 2).unwrap();
        self.streams.host.create(&id, Default::default()).await.unwrap();
        format!("arn:aws:sqs:us-east-1:000000000000:{name}")
    }

    /// Leaves an event with a function.
    pub async fn send(&self, name: &str, event: Value) {
        self.world.handle.accept(&target(name), request(event)).await.unwrap();
    }

    pub async fn configure(&self, name: &str, request: PutEventInvoke) {
        let (caller, target) = (caller(), target(name));
        let put = self
            .world
            .handle
            .put_event_invoke(&caller, &target, request, PutMode::Replace);
        put.await.unwrap();
    }

    /// Waits until a metric has reached a value.
    pub async fn until_metric(&self, begin: &str, value: f64) {
        let reached = tokio::time::timeout(PATIENCE * 3, async {
            while self.world.metric(begin) < value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let reached = reached.await;
        assert!(reached.is_ok(), "{begin} is {}", self.world.metric(begin));
    }

    /// Has a function tell of its successes a stream that is gone, by the ARN of a queue: it may yet be one.
    pub async fn goes_to_one_that_is_away(&self, name: &str, stream: &str) {
        let on_success = PutEventInvoke {
            on_success: Some(self.stream(stream).await),
            ..PutEventInvoke::default()
        };
        self.configure(name, on_success).await;
        let caller = session::Caller {
            who: "test".to_owned(),
            request_id: "test".to_owned(),
        };
        let id = StreamId::new(stream, 2).unwrap();
        self.streams.host.delete(&caller, &id).await.unwrap();
    }

    pub async fn append(&self, stream: &str, key: Option<&str>, body: &str) -> Position {
        let record = Record {
            id: None,
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let id = StreamId::new(stream, 2).unwrap();
        self.streams.host.append(&id, vec![record]).await.unwrap()[0]
    }

    /// All events of a stream now.
    pub async fn read(&self, stream: &str) -> Vec<Event> {
        self.page(stream).await.events
    }

    async fn page(&self, stream: &str) -> Page {
        let id = StreamId::new(stream, 2).unwrap();
        let limit = ReadLimit {
            events: 10_000,
            bytes: 100_000_000,
        };
        let mut whole = Page {
            events: Vec::new(),
            next: Position::START,
            more: true,
        };
        while whole.more {
            match self.streams.host.read(&id, whole.next, limit).await {
                // A stream of the platform is made when it is needed.
                Err(ReadError::NoSuchStream(_)) => whole.more = false,
                page => {
                    let page = page.unwrap();
                    whole.events.extend(page.events);
                    (whole.next, whole.more) = (page.next, page.more);
                }
            }
        }
        whole
    }

    /// Waits until a stream has so many events; returns their bodies.
    pub async fn read_until(&self, stream: &str, count: usize) -> Vec<Value> {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let page = self.page(stream).await;
                if page.events.len() >= count {
                    return page.events;
                }
                let id = StreamId::new(stream, 2).unwrap();
                let _ = tokio::time::timeout(Duration::from_millis(50), self.streams.host.wait(&id, page.next)).await;
                tokio::task::yield_now().await;
            }
        });
        let events = match found.await {
            Ok(events) => events,
            Err(_) => panic!("`{stream}` has {} events", self.read(stream).await.len()),
        };
        let read = |event: &Event| serde_json::from_slice(&event.body).unwrap();
        events.iter().map(read).collect()
    }

    /// Has a function read a stream from its beginning, and waits until it does.
    pub async fn map(&self, name: &str, stream: &str, settings: MappingChange) -> Mapping {
        let request = CreateMapping {
            function: target(name),
            source_arn: source(stream),
            start: Some(MappingStart::TrimHorizon),
            settings,
            tags: Default::default(),
        };
        let mapping = self.world.handle.create_mapping(&caller(), request).await.unwrap();
        self.until_mapping(&mapping.id, MappingState::Enabled).await
    }

    pub async fn until_mapping(&self, id: &str, state: MappingState) -> Mapping {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let mapping = self.world.handle.get_mapping(&caller(), id).unwrap();
                if mapping.state == state {
                    return mapping;
                }
                tokio::task::yield_now().await;
            }
        });
        found.await.unwrap()
    }
}

pub fn source(stream: &str) -> String {
    format!("arn:aws:kinesis:us-east-1:000000000000:stream/{stream}")
}
