//! Many workers at once: g-T4, the limits of replies, and readers who stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_store::{CommitError, Condition, Entry, Key, MemoryStore, SqliteStore, Store, Version, Write};
use bowline_stream::session::limits::{IN_FLIGHT_SETS_MAX, READERS_PER_SESSION_MAX, READS_PER_COMMIT_MAX};
use bowline_stream::session::{Handle, Mode, ReadError, ReadRequest, SessionId, Settings};

use crate::world::{World, at_most, numbers, seconds};

const WORKERS: usize = 64;

/// Counts commits and single reads.
#[derive(Default)]
struct Counted {
    inner: MemoryStore,
    /// How long a commit takes.
    commit_ms: AtomicU64,
    gets: AtomicU64,
    commits: AtomicU64,
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, bowline_store::ReadError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, bowline_store::ReadError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        match self.commit_ms.load(Ordering::Relaxed) {
            0 => {}
            commit_ms => tokio::time::sleep(Duration::from_millis(commit_ms)).await,
        }
        self.inner.commit(conditions, writes).await
    }
}

/// Reads until the end, pausing now and then; the sets in the order this worker got them.
async fn work(handle: Handle, session: SessionId, pause: Duration, events_max: usize) -> Vec<Vec<u64>> {
    let mut sets = Vec::new();
    loop {
        match handle.read(&session, at_most(events_max)).await {
            Ok(Some(batch)) => sets.push(numbers(&batch)),
            Ok(None) => return sets,
            Err(ReadError::RetryLater(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// g-T4, with the workers spread over three nodes.
#[tokio::test(start_paused = true)]
async fn many_workers_share_a_stream_without_gap_or_overlap() {
    const EVENTS: u64 = 100_000;
    let world = World::with_events(EVENTS);
    let settings = Settings {
        mode: Mode::AtMostOnce,
        ..Settings::default()
    };
    let session = world.session(settings).await;
    let nodes = [world.another_node(), world.another_node(), world.another_node()];
    let workers = (0..WORKERS).map(|number| {
        let pause = Duration::from_millis(world.entropy.number() % 50);
        let handle = nodes[number % nodes.len()].handle();
        tokio::spawn(work(handle, session.clone(), pause, 1 + number * 7))
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        for set in worker.await.unwrap() {
            assert!(
                set.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "each set is contiguous"
            );
            all.extend(set);
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=EVENTS), "complete, and nothing twice");
}

#[tokio::test(start_paused = true)]
async fn readers_who_wait_together_cost_one_commit() {
    let store = Arc::new(Counted::default());
    let world = World::over(store.clone());
    world.append(1..=WORKERS as u64);
    let session = world.session(Settings::default()).await;
    let before = store.commits.load(Ordering::Relaxed);
    let reads = (0..WORKERS).map(|_| {
        let (handle, session) = (world.handle.clone(), session.clone());
        tokio::spawn(async move { handle.read(&session, at_most(1)).await.unwrap().unwrap() })
    });
    let mut got = Vec::new();
    for read in reads.collect::<Vec<_>>() {
        got.extend(numbers(&read.await.unwrap()));
    }
    assert!(
        got.into_iter().eq(1..=WORKERS as u64),
        "in the order in which they came"
    );
    assert_eq!(store.commits.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_set_keeps_to_bytes_and_an_oversized_event_comes_alone() {
    let world = World::new();
    for size in [10, 10, 10, 5000, 10] {
        world.log.append(Some("k"), vec![b'7'; size]);
    }
    let session = world.session(Settings::default()).await;
    let mut sizes = Vec::new();
    let request = ReadRequest {
        bytes_max: 25,
        ..ReadRequest::default()
    };
    while let Some(batch) = world.handle.read(&session, request.clone()).await.unwrap() {
        sizes.push(batch.events.iter().map(|event| event.body.len()).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![10, 10], vec![10], vec![5000], vec![10]]);
    let none = world.handle.read(&session, at_most(0)).await.unwrap_err();
    assert!(matches!(none, ReadError::Invalid(_)), "{none}");
}

/// A reader that goes away while it waits takes nothing with it, and holds up nobody.
#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_takes_nothing() {
    let world = World::new();
    let session = world.session(Settings::default()).await;
    let patient = ReadRequest {
        wait: seconds(20),
        ..at_most(1)
    };
    let gone = tokio::time::timeout(seconds(1), world.handle.read(&session, patient.clone())).await;
    assert!(gone.is_err(), "it waited");
    world.append([1]);
    let batch = world.take(&session, 1).await;
    assert_eq!((batch.attempt, numbers(&batch)), (1, vec![1]));
}

/// A set and the acknowledgement of the one before are one commit.
#[tokio::test(start_paused = true)]
async fn a_worker_costs_one_commit_a_set() {
    let store = Arc::new(Counted::default());
    let world = World::over(store.clone());
    world.append(1..=20);
    let session = world.session(Settings::default()).await;
    let commits = || store.commits.load(Ordering::Relaxed);
    let before = commits();
    let mut request = at_most(1);
    for _ in 0..10 {
        let batch = world.handle.read(&session, request.clone()).await.unwrap().unwrap();
        request.done = batch.token;
    }
    assert_eq!(commits() - before, 10);
    let before = commits();
    for _ in 0..5 {
        let batch = world.take(&session, 1).await;
        world.handle.ack(&session, batch.token.unwrap()).await.unwrap();
    }
    assert_eq!(commits() - before, 10, "control: one after the other they are two");
}

/// Also a reader for whom a commit has no room, since so many wait before it.
#[tokio::test(start_paused = true)]
async fn a_reader_behind_many_others_acknowledges_its_set() {
    let world = World::with_events(2);
    let session = world.session(Settings::default()).await;
    let (first, second) = (world.take(&session, 1).await, world.take(&session, 1).await);
    for _ in 0..READS_PER_COMMIT_MAX {
        let (handle, session) = (world.handle.clone(), session.clone());
        let patient = ReadRequest {
            wait: seconds(20),
            ..at_most(1)
        };
        tokio::spawn(async move { handle.read(&session, patient).await });
    }
    tokio::time::sleep(seconds(1)).await;
    let request = ReadRequest {
        done: first.token,
        ..at_most(1)
    };
    assert_eq!(world.handle.read(&session, request.clone()).await.unwrap(), None);
    let shown = world.handle.show(&session).await.unwrap();
    let left: Vec<u64> = shown.in_flight.iter().map(|set| set.batch).collect();
    assert_eq!(left, [second.batch]);
    let stale = world.handle.read(&session, request).await.unwrap_err();
    assert!(matches!(stale, ReadError::StaleToken(_)), "{stale}");
}

/// Pages for the readers who come back are read while a commit is under way: a hundred pages and ten commits take a second each.
#[tokio::test(start_paused = true)]
async fn a_busy_lane_reads_while_it_commits() {
    const EVENTS: u64 = 6_400;
    let store = Arc::new(Counted::default());
    let world = World::over(store.clone());
    world.append(1..=EVENTS);
    let settings = Settings {
        mode: Mode::AtMostOnce,
        ..Settings::default()
    };
    let session = world.session(settings).await;
    world.log.slow_down(10);
    store.commit_ms.store(100, Ordering::Relaxed);
    let begin = tokio::time::Instant::now();
    let workers = (0..10).map(|_| {
        let (handle, session) = (world.handle.clone(), session.clone());
        tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(batch) = handle.read(&session, at_most(64)).await.unwrap() {
                all.extend(numbers(&batch));
            }
            all
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    let took = begin.elapsed();
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=EVENTS), "complete, and nothing twice");
    assert!(took < Duration::from_millis(1_600), "{took:?}");
}

/// A stream may end a wait too early; the lane then does not turn without pause.
#[tokio::test(start_paused = true)]
async fn a_hasty_stream_does_not_keep_a_waiting_lane_busy() {
    let store = Arc::new(Counted::default());
    let world = World::over(store.clone());
    let session = world.session(Settings::default()).await;
    world.log.be_hasty();
    let before = store.gets.load(Ordering::Relaxed);
    let patient = ReadRequest {
        wait: seconds(1),
        ..at_most(1)
    };
    assert_eq!(world.handle.read(&session, patient).await.unwrap(), None);
    let rounds = store.gets.load(Ordering::Relaxed) - before;
    assert!((10..=110).contains(&rounds), "{rounds} in a second");
}

#[tokio::test(start_paused = true)]
async fn too_many_readers_are_told_to_come_later() {
    let world = World::new();
    let session = world.session(Settings::default()).await;
    let patient = ReadRequest {
        wait: seconds(20),
        ..at_most(1)
    };
    let reads = (0..=READERS_PER_SESSION_MAX).map(|_| {
        let (handle, session, request) = (world.handle.clone(), session.clone(), patient.clone());
        tokio::spawn(async move { handle.read(&session, request).await })
    });
    let (mut empty, mut later) = (0, 0);
    for read in reads.collect::<Vec<_>>() {
        match read.await.unwrap() {
            Ok(None) => empty += 1,
            Err(ReadError::RetryLater(_)) => later += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((empty, later), (READERS_PER_SESSION_MAX, 1));
    world.take_nothing(&session).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_sets_are_in_flight() {
    let world = World::with_events(IN_FLIGHT_SETS_MAX as u64 + 2);
    let session = world.session(Settings::default()).await;
    let first = world.take(&session, 1).await;
    assert_eq!(world.drain(&session, 1).await.len(), IN_FLIGHT_SETS_MAX - 1);
    assert_eq!(
        world.handle.stat(&session).await.unwrap().in_flight_sets,
        IN_FLIGHT_SETS_MAX as u64
    );
    let patient = ReadRequest {
        wait: seconds(20),
        ..at_most(1)
    };
    let settle = async {
        tokio::time::sleep(seconds(1)).await;
        world.handle.ack(&session, first.token.unwrap()).await.unwrap();
    };
    let (got, ()) = tokio::join!(world.handle.read(&session, patient), settle);
    assert_eq!(numbers(&got.unwrap().unwrap()), [IN_FLIGHT_SETS_MAX as u64 + 1]);
    world.take_nothing(&session).await;
}

/// Real threads over a database, at one node and at two: every event once. What it prints is a measurement,
/// not a promise; run with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_over_a_database_acknowledge_every_event_once() {
    for nodes in [1, 2] {
        let (reads, took) = work_over_a_database(nodes, 2048).await;
        let rate = reads as f64 / took.as_secs_f64();
        println!("{WORKERS} workers at {nodes} nodes: {rate:.0} reads with acknowledgement a second");
    }
}

async fn work_over_a_database(nodes: usize, events: u64) -> (usize, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("sessions.db")).unwrap();
    let world = World::over(Arc::new(store));
    world.append(1..=events);
    let session = world.session(Settings::default()).await;
    let nodes: Vec<_> = (0..nodes).map(|_| world.another_node()).collect();
    let clock = Clock::system();
    let before = clock.monotonic();
    let workers = (0..WORKERS).map(|number| {
        let handle = nodes[number % nodes.len()].handle();
        tokio::spawn(read_and_acknowledge(handle, session.clone()))
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    let took = clock.monotonic().since(before);
    all.sort_unstable();
    assert!(all.iter().copied().eq(1..=events));
    assert_eq!(world.handle.show(&session).await.unwrap().in_flight, []);
    (all.len(), took)
}

async fn read_and_acknowledge(handle: Handle, session: SessionId) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        match handle.read(&session, at_most(1)).await {
            Ok(Some(batch)) => {
                handle.ack(&session, batch.token.unwrap()).await.unwrap();
                all.extend(numbers(&batch));
            }
            Ok(None) => return all,
            Err(ReadError::RetryLater(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
