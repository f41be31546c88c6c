//! Crashes and restarts: what was acknowledged is there, once, and later events come after it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_store::{
    CommitError, Condition, Entry, Key, MemoryStore, OpenError, ReadError, SqliteStore, Store, Version, Write,
};
use bowline_stream::{Log, Position};

use crate::node::{Node, given, limit, numbered, numbers, options};

#[tokio::test]
async fn a_new_process_adopts_the_chains_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite");
    let mut ids = Vec::new();
    let mut stream = None;
    for round in 0..4 {
        let store = Arc::new(reopened(&path).await);
        let node = Node::start(options(store)).await;
        ids.push(node.handle.id());
        let stream = match &stream {
            None => stream.insert(node.create("orders").await),
            Some(stream) => stream,
        };
        node.append(stream, numbered(round * 100..round * 100 + 50)).await;
        let found = node.read_all(stream, 1000).await;
        assert!(found.is_sorted_by_key(|event| event.position));
        let expected: Vec<usize> = (0..=round).flat_map(|round| round * 100..round * 100 + 50).collect();
        assert_eq!(numbers(&found), expected);
        node.crash().await;
    }
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
}

/// Opens a store whose last owner may still be closing it: a read that was under way ends on a thread of its own.
async fn reopened(path: &Path) -> SqliteStore {
    for _ in 0..1000 {
        match SqliteStore::open(path) {
            Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the store stays in use");
}

#[tokio::test]
async fn a_retry_after_a_restart_is_known() {
    let store = Arc::new(MemoryStore::default());
    let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
    let stream = node.create("orders").await;
    let first = node.append(&stream, vec![given(1)]).await;
    node.append(&stream, numbered(10..900)).await;
    node.crash().await;
    let node = Node::start(options(store)).await;
    assert_eq!(node.append(&stream, vec![given(1)]).await, first);
    assert_ne!(
        node.append(&stream, vec![given(2)]).await,
        first,
        "control: another one is new"
    );
}

#[tokio::test]
async fn nothing_is_stored_behind_a_reader_of_the_process_before() {
    let store = Arc::new(MemoryStore::default());
    let mut next = Position::START;
    let mut stream = None;
    for _ in 0..5 {
        let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
        let stream = match &stream {
            None => stream.insert(node.create("orders").await),
            Some(stream) => stream,
        };
        let stored = node.append(stream, numbered(0..1)).await;
        assert!(stored[0] > next, "{} is behind {next}", stored[0]);
        let page = node.handle.read(stream, next, limit(10)).await.unwrap();
        assert_eq!(page.events.len(), 1);
        next = page.next;
        node.crash().await;
    }
}

/// Where a process dies: a move-out is one commit, so there is a before and an after, and nothing between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CrashPoint {
    BeforeCommit,
    AfterCommit,
}

/// A store whose armed commit comes to its crash point and never returns.
struct Crashing {
    inner: Arc<dyn Store>,
    armed: Mutex<Option<CrashPoint>>,
}

#[async_trait]
impl Store for Crashing {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let point = *self.armed.lock().unwrap();
        if point != Some(CrashPoint::BeforeCommit) {
            let committed = self.inner.commit(conditions, writes).await;
            if point.is_none() {
                return committed;
            }
        }
        std::future::pending().await
    }
}

/// j-T2
#[tokio::test(start_paused = true)]
async fn killed_before_and_after_commits_nothing_is_lost_or_repeated() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut acknowledged = Vec::new();
    let mut stream = None;
    for run in 0..500 {
        let store = Arc::new(Crashing {
            inner: Arc::clone(&memory),
            armed: Mutex::default(),
        });
        let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
        let stream = match &stream {
            None => stream.insert(node.create("orders").await),
            Some(stream) => stream,
        };
        let number = run * 1000;
        node.append(stream, numbered(number..number + 3)).await;
        acknowledged.extend(number..number + 3);
        let point = if run % 2 == 0 {
            CrashPoint::BeforeCommit
        } else {
            CrashPoint::AfterCommit
        };
        *store.armed.lock().unwrap() = Some(point);
        // Every third batch is large enough to move out.
        let count = if run % 3 == 0 { 300 } else { 1 };
        let append = node.handle.append(stream, numbered(number + 3..number + 3 + count));
        let unheard = tokio::time::timeout(Duration::from_millis(100), append).await;
        assert!(unheard.is_err(), "the process died");
        node.crash().await;
    }
    let node = Node::start(options(Arc::clone(&memory))).await;
    let found = numbers(&node.read_all(&stream.unwrap(), 1000).await);
    assert!(
        found.windows(2).all(|pair| pair[0] < pair[1]),
        "something came twice or in disorder"
    );
    let missing = acknowledged
        .iter()
        .filter(|number| found.binary_search(number).is_err())
        .count();
    assert_eq!(missing, 0, "something is lost");
    let unheard: usize = (0..500)
        .filter(|run| run % 2 == 1)
        .map(|run| if run % 3 == 0 { 300 } else { 1 })
        .sum();
    assert_eq!(
        found.len(),
        acknowledged.len() + unheard,
        "control: what died after its commit is there"
    );
}

#[tokio::test]
async fn a_clock_that_was_set_back_neither_stops_the_host_nor_disturbs_the_order() {
    let store = Arc::new(MemoryStore::default());
    let at = |micros| Clock::fake(Timestamp::from_micros(micros));
    let mut stream = None;
    for (round, clock) in [at(1 << 50), at(1 << 49)].into_iter().enumerate() {
        let mut options = options(Arc::clone(&store) as Arc<dyn Store>);
        options.clock = clock;
        let node = Node::start(options).await;
        let stream = match &stream {
            None => stream.insert(node.create("orders").await),
            Some(stream) => stream,
        };
        node.append(stream, numbered(round * 10..round * 10 + 10)).await;
        let found = node.read_all(stream, 100).await;
        assert_eq!(numbers(&found), (0..round * 10 + 10).collect::<Vec<_>>());
        node.crash().await;
    }
}
