//! Deleting streams, and changing their settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_store::blob::Blobs;
use bowline_store::{CommitError, Condition, Entry, Key, MemoryStore, ReadError as StoreError, Store, Version, Write};
use bowline_stream::session::{self, Caller, CreateRequest, ReadRequest, Start};
use bowline_stream::{AlterError, AppendError, CreateError, ReadError, Settings, SettingsChange, StreamId};

use crate::node::{Node, numbered, numbers, options};

const SECOND: Duration = Duration::from_secs(1);

fn caller() -> Caller {
    Caller {
        who: "ada".to_owned(),
        request_id: "r-1".to_owned(),
    }
}

fn stream() -> StreamId {
    StreamId::new("orders", 2).unwrap()
}

/// What the store holds under a prefix, by key.
async fn keys(store: &dyn Store, prefix: &'static str) -> Vec<String> {
    let found = store
        .scan(&Key::from_static(prefix.as_bytes()), None, 10_000)
        .await
        .unwrap();
    found
        .into_iter()
        .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
        .collect()
}

/// What is left of the stream and its sessions, but for audit rows.
async fn left(store: &dyn Store) -> Vec<String> {
    let mut left = Vec::new();
    for prefix in [
        "stream/directory/orders",
        "stream/head/orders",
        "stream/node/orders",
        "stream/doomed/",
        "sessions/session/",
        "sessions/of/",
        "sessions/marker/",
        "sessions/parked/",
    ] {
        left.extend(keys(store, prefix).await);
    }
    left
}

/// A host whose clock a test moves, with blobs and a short head.
async fn node(store: Arc<dyn Store>, blobs: &Blobs, clock: &Clock) -> Node {
    let mut options = options(store);
    options.clock = clock.clone();
    options.blobs = Some(blobs.clone());
    options.config.head.bytes_max = 256;
    options.config.maintain_every = Duration::from_millis(1);
    options.config.commit_retry = Duration::from_millis(50);
    Node::start(options).await
}

/// Twenty appends, the older ones in a blob, and a session with a set in flight.
async fn furnish(
    node: &Node,
    store: &Arc<dyn Store>,
    blobs: &Blobs,
    clock: &Clock,
) -> (session::Service, session::SessionId) {
    let settings = Settings {
        tier_after: Some(SECOND * 60),
        ..Settings::default()
    };
    node.handle.create(&stream(), settings).await.unwrap();
    for round in 0..20 {
        node.append(&stream(), numbered(round * 10..round * 10 + 10)).await;
    }
    clock.advance(SECOND * 200);
    while blobs.list().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sessions = session::Service::start(session::Options {
        clock: clock.clone(),
        entropy: Entropy::seeded(3),
        store: Arc::clone(store),
        log: Arc::new(node.handle.clone()),
    });
    let request = CreateRequest {
        stream: stream(),
        start: Start::Oldest,
        settings: session::Settings::default(),
        client_token: None,
    };
    let id = sessions.handle().create(&caller(), request).await.unwrap();
    let batch = sessions.handle().read(&id, ReadRequest::default()).await.unwrap();
    assert!(batch.is_some(), "control: the session delivers");
    (sessions, id)
}

#[tokio::test(start_paused = true)]
async fn a_deleted_stream_is_gone_with_its_events_its_sessions_and_its_blobs() {
    let (store, blobs) = (Arc::<MemoryStore>::default() as Arc<dyn Store>, Blobs::in_memory());
    let clock = Clock::fake(Timestamp::from_micros(1 << 40));
    let node = node(Arc::clone(&store), &blobs, &clock).await;
    let (sessions, session) = furnish(&node, &store, &blobs, &clock).await;
    assert!(left(&*store).await.len() > 5, "control: there is something to go");
    node.handle.delete(&caller(), &stream()).await.unwrap();
    assert_eq!(left(&*store).await, Vec::<String>::new());
    assert_eq!(blobs.list().await.unwrap(), []);
    let appended = node.handle.append(&stream(), numbered(0..1)).await;
    assert!(matches!(appended, Err(AppendError::NoSuchStream(_))), "{appended:?}");
    let read = node.handle.stat(&stream()).await;
    assert!(matches!(read, Err(ReadError::NoSuchStream(_))), "{read:?}");
    let delivered = sessions.handle().read(&session, ReadRequest::default()).await;
    assert!(
        matches!(delivered, Err(session::ReadError::NoSuchSession(_))),
        "{delivered:?}"
    );
    let again = node.handle.delete(&caller(), &stream()).await;
    assert!(matches!(again, Err(AlterError::NoSuchStream(_))), "{again:?}");
    let audit = store
        .scan(&Key::from_static(b"sessions/audit/"), None, 100)
        .await
        .unwrap();
    let told = audit
        .iter()
        .filter(|(_, entry)| String::from_utf8_lossy(&entry.value).contains("DeleteStream"));
    assert_eq!(told.count(), 1, "one row tells of it");
    sessions.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_the_same_name_begins_anew() {
    let (store, blobs) = (Arc::<MemoryStore>::default() as Arc<dyn Store>, Blobs::in_memory());
    let clock = Clock::fake(Timestamp::from_micros(1 << 40));
    let first = node(Arc::clone(&store), &blobs, &clock).await;
    let (sessions, _) = furnish(&first, &store, &blobs, &clock).await;
    sessions.shut_down().await;
    assert_eq!(
        first.read_all(&stream(), 100).await.len(),
        200,
        "control: nodes are in memory too"
    );
    first.handle.delete(&caller(), &stream()).await.unwrap();
    clock.advance(SECOND);
    first.create("orders").await;
    for round in 0..20 {
        first
            .append(&stream(), numbered(round * 10 + 1000..round * 10 + 1010))
            .await;
    }
    let expected: Vec<usize> = (1000..1200).collect();
    assert_eq!(numbers(&first.read_all(&stream(), 100).await), expected);
    first.crash().await;
    let second = node(Arc::clone(&store), &blobs, &clock).await;
    assert_eq!(numbers(&second.read_all(&stream(), 100).await), expected);
}

/// A store whose host dies after so many commits.
struct Dying {
    inner: Arc<dyn Store>,
    commits_left: AtomicUsize,
}

#[async_trait]
impl Store for Dying {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let left = self
            .commits_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.inner.commit(conditions, writes).await,
            Err(_) => Err(CommitError::Unavailable("dead".to_owned())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_cut_off_anywhere_is_finished_by_the_next_host() {
    let (mut whole, mut finished) = (0, 0);
    for commits in 0.. {
        let (store, blobs) = (Arc::<MemoryStore>::default() as Arc<dyn Store>, Blobs::in_memory());
        let clock = Clock::fake(Timestamp::from_micros(1 << 40));
        let dying = Arc::new(Dying {
            inner: Arc::clone(&store),
            commits_left: AtomicUsize::new(usize::MAX),
        });
        let mut begun = options(Arc::clone(&dying) as Arc<dyn Store>);
        begun.clock = clock.clone();
        begun.blobs = Some(blobs.clone());
        begun.config.head.bytes_max = 256;
        // Nothing but the deletion commits from here on.
        begun.config.maintain_every = Duration::from_millis(1);
        let first = Node::start(begun).await;
        let (sessions, _) = furnish(&first, &store, &blobs, &clock).await;
        sessions.shut_down().await;
        tokio::time::sleep(SECOND).await;
        dying.commits_left.store(commits, Ordering::SeqCst);
        let deleted = first.handle.delete(&caller(), &stream()).await;
        let spare = dying.commits_left.load(Ordering::SeqCst);
        first.crash().await;
        if deleted.is_err() {
            let second = node(Arc::clone(&store), &blobs, &clock).await;
            assert_eq!(
                second.read_all(&stream(), 100).await.len(),
                200,
                "untouched after {commits} commits"
            );
            whole += 1;
            continue;
        }
        let half = !left(&*store).await.is_empty();
        let second = node(Arc::clone(&store), &blobs, &clock).await;
        if half {
            let refused = second.handle.create(&stream(), Settings::default()).await;
            let is_told =
                matches!(&refused, Err(CreateError::Unavailable { reason, .. }) if reason.contains("removed"));
            assert!(refused.is_ok() || is_told, "{refused:?}");
            if refused.is_ok() {
                second.handle.delete(&caller(), &stream()).await.unwrap();
            }
        }
        for _ in 0..1000 {
            if left(&*store).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(left(&*store).await, Vec::<String>::new(), "after {commits} commits");
        assert_eq!(blobs.list().await.unwrap(), [], "after {commits} commits");
        finished += usize::from(half);
        if spare > 0 {
            break;
        }
    }
    assert!(
        whole > 0 && finished > 2,
        "control: it was cut off before and in between: {whole}, {finished}"
    );
}

#[tokio::test(start_paused = true)]
async fn settings_are_changed_later_one_by_one() {
    let (store, blobs) = (Arc::<MemoryStore>::default() as Arc<dyn Store>, Blobs::in_memory());
    let clock = Clock::fake(Timestamp::from_micros(1 << 40));
    let node = node(Arc::clone(&store), &blobs, &clock).await;
    node.create("orders").await;
    for round in 0..20 {
        node.append(&stream(), numbered(round * 10..round * 10 + 10)).await;
        clock.advance(SECOND);
    }
    let limited = SettingsChange {
        age_max: Some(Some(SECOND * 30)),
        chains_max: Some(5),
        ..SettingsChange::default()
    };
    let now = node.handle.set(&caller(), &stream(), limited).await.unwrap();
    assert_eq!(
        (now.age_max, now.chains_max, now.bytes_max),
        (Some(SECOND * 30), 5, None)
    );
    clock.advance(SECOND * 200);
    while node.handle.stat(&stream()).await.unwrap().trimmed == bowline_stream::Position::START {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let unlimited = SettingsChange {
        age_max: Some(None),
        bytes_max: Some(Some(7)),
        ..SettingsChange::default()
    };
    let now = node.handle.set(&caller(), &stream(), unlimited).await.unwrap();
    assert_eq!((now.age_max, now.chains_max, now.bytes_max), (None, 5, Some(7)));
    assert_eq!(node.handle.stat(&stream()).await.unwrap().settings, now);
    let audit = store
        .scan(&Key::from_static(b"sessions/audit/"), None, 100)
        .await
        .unwrap();
    assert_eq!(audit.len(), 2, "each change leaves a row");
    let missing = StreamId::new("nobody", 2).unwrap();
    let refused = node.handle.set(&caller(), &missing, limited).await;
    assert!(matches!(refused, Err(AlterError::NoSuchStream(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_makes_or_trims_a_stream_is_in_the_audit_trail() {
    let (store, blobs) = (Arc::<MemoryStore>::default() as Arc<dyn Store>, Blobs::in_memory());
    let clock = Clock::fake(Timestamp::from_micros(1 << 40));
    let node = node(Arc::clone(&store), &blobs, &clock).await;
    let rows = async || {
        let found = store
            .scan(&Key::from_static(b"sessions/audit/"), None, 100)
            .await
            .unwrap();
        let text = |(_, entry): &(Key, Entry)| String::from_utf8_lossy(&entry.value).into_owned();
        found.iter().map(text).collect::<Vec<_>>()
    };
    node.create("platform").await;
    assert_eq!(rows().await, Vec::<String>::new(), "control: nobody asked for it");
    let (handle, ada) = (&node.handle, caller());
    handle.create_for(&ada, &stream(), Settings::default()).await.unwrap();
    let again = handle.create_for(&ada, &stream(), Settings::default()).await;
    assert!(matches!(again, Err(CreateError::Exists { .. })), "{again:?}");
    node.append(&stream(), numbered(0..10)).await;
    let events = node.read_all(&stream(), 100).await;
    let until = events[4].position;
    for _ in 0..2 {
        handle.trim(&ada, &stream(), until).await.unwrap();
    }
    let rows = rows().await;
    assert_eq!(rows.len(), 2, "one row a change: {rows:?}");
    for action in ["CreateStream", "TrimStream"] {
        let told = rows.iter().filter(|row| row.contains(action) && row.contains("ada"));
        assert_eq!(told.count(), 1, "{action}: {rows:?}");
    }
}
