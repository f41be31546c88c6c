//! Appending to chains of one host: heads and nodes, order, repetitions, limits.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore, SqliteStore, Store};
use bowline_stream::{AppendError, CreateError, Log, Position, Record, Settings, StreamId};
use bytes::Bytes;

use crate::node::{Node, given, limit, numbered, numbers, options, record};

async fn keys(store: &dyn Store, prefix: &'static str) -> Vec<Bytes> {
    let prefix = Bytes::from_static(prefix.as_bytes());
    let found = store.scan(&prefix, None, 10_000).await.unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

/// j-T1
#[tokio::test]
async fn a_thousand_events_lie_in_one_head_and_nodes_without_a_hole() {
    let store = Arc::new(MemoryStore::default());
    let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
    let stream = node.create("orders").await;
    for number in 0..1000 {
        let before = store.get(&head_key(1)).await.unwrap().unwrap().version;
        node.append(&stream, vec![record(number)]).await;
        let after = store.get(&head_key(1)).await.unwrap().unwrap().version;
        assert!(after > before, "append {number} did not touch the head");
    }
    assert_eq!(keys(&*store, "stream/head/orders/").await.len(), 2, "one head a chain");
    let nodes = keys(&*store, "stream/node/orders/").await;
    assert!(nodes.len() > 3, "control: something has moved out");
    for (number, key) in nodes.iter().enumerate() {
        assert!(
            key.ends_with(&(number as u64).to_be_bytes()),
            "node {number} is missing"
        );
    }
    let events = node.read_all(&stream, 77).await;
    assert_eq!(numbers(&events), (0..1000).collect::<Vec<_>>());
    assert!(events.is_sorted_by_key(|event| event.position));
    let indices: Vec<u64> = events.iter().map(|event| event.position.index).collect();
    assert_eq!(indices, (0..1000).collect::<Vec<_>>());
}

fn head_key(chain: u32) -> Bytes {
    let mut key = b"stream/head/orders/".to_vec();
    key.extend(chain.to_be_bytes());
    key.into()
}

/// j-T3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_commits_and_each_event_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("store.sqlite")).unwrap());
    let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
    let stream = node.create("orders").await;
    let commits = store.writer_stats().commits;
    let mut writers = Vec::new();
    for writer in 0..32 {
        let (handle, stream) = (node.handle.clone(), stream.clone());
        writers.push(tokio::spawn(async move {
            let mut positions = Vec::new();
            for number in 0..20 {
                let records = vec![record(writer * 100 + number)];
                positions.extend(handle.append(&stream, records).await.unwrap());
            }
            positions
        }));
    }
    let mut expected = Vec::new();
    for (writer, task) in writers.into_iter().enumerate() {
        let positions = task.await.unwrap();
        assert!(
            positions.is_sorted(),
            "an append acknowledged before another began comes first"
        );
        expected.extend(
            positions
                .into_iter()
                .enumerate()
                .map(|(number, at)| (at, writer * 100 + number)),
        );
    }
    expected.sort_unstable();
    let events = node.read_all(&stream, 100).await;
    let found: Vec<_> = events
        .iter()
        .map(|event| event.position)
        .zip(numbers(&events))
        .collect();
    assert_eq!(found, expected);
    let commits = store.writer_stats().commits - commits;
    assert!(
        commits < 320,
        "640 appends took {commits} commits: they do not share them"
    );
}

#[tokio::test]
async fn batches_large_and_small_come_back_as_they_went_in() {
    let node = Node::in_memory().await;
    let stream = node.create("orders").await;
    let mut next = 0;
    for size in [1, 3, 300, 2, 1, 5_000, 1, 1, 40] {
        let positions = node.append(&stream, numbered(next..next + size)).await;
        assert_eq!(positions.len(), size);
        next += size;
    }
    let large = Record {
        key: Some("k".into()),
        body: Bytes::from(vec![7; bowline_stream::BODY_BYTES_MAX]),
        ..Record::default()
    };
    node.append(&stream, vec![large.clone()]).await;
    node.append(&stream, vec![record(next + 1)]).await;
    let mut events = node.read_all(&stream, 1000).await;
    let found = events.remove(next);
    assert_eq!((found.key, found.body), (large.key, large.body));
    assert_eq!(numbers(&events), (0..next).chain([next + 1]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_identifier_is_stored_once() {
    let node = Node::in_memory().await;
    let stream = node.create("orders").await;
    let first = node.append(&stream, vec![given(1), given(2)]).await;
    node.append(&stream, numbered(10..400)).await;
    assert_eq!(node.append(&stream, vec![given(1), given(2)]).await, first);
    let control = node.append(&stream, vec![record(1)]).await;
    assert_ne!(control, first[..1]);
    let found = numbers(&node.read_all(&stream, 1000).await);
    assert_eq!(found.iter().filter(|number| **number == 2).count(), 1);
    assert_eq!(
        found.iter().filter(|number| **number == 1).count(),
        2,
        "the one without an identifier is new"
    );
}

#[tokio::test]
async fn a_lost_reply_neither_loses_nor_doubles_an_event() {
    let store = Arc::new(FaultyStore::new(
        Arc::new(MemoryStore::default()),
        FaultRates::default(),
        Entropy::seeded(3),
    ));
    let node = Node::start(options(Arc::clone(&store) as Arc<dyn Store>)).await;
    let stream = node.create("orders").await;
    for number in 0..60 {
        store.script(match number % 3 {
            0 => vec![Fault::LoseReply],
            1 => vec![Fault::FailBefore, Fault::LoseReply, Fault::FailBefore],
            _ => vec![],
        });
        node.append(&stream, vec![record(number)]).await;
    }
    store.script([]);
    assert_eq!(numbers(&node.read_all(&stream, 7).await), (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_tailing_reader_sees_each_append() {
    let node = Node::in_memory().await;
    let stream = node.create("orders").await;
    let (handle, id) = (node.handle.clone(), stream.clone());
    let reader = tokio::spawn(async move {
        let (mut after, mut seen) = (Position::START, Vec::new());
        while seen.len() < 50 {
            let page = handle.read(&id, after, limit(10)).await.unwrap();
            if page.events.is_empty() {
                handle.wait(&id, page.next).await;
            }
            seen.extend(numbers(&page.events));
            after = page.next;
        }
        seen
    });
    for number in 0..50 {
        node.append(&stream, vec![record(number)]).await;
        tokio::task::yield_now().await;
    }
    let seen = tokio::time::timeout(Duration::from_secs(10), reader)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let node = Node::in_memory().await;
    let stream = node.create("orders").await;
    let nobody = StreamId::new("nobody", 2).unwrap();
    let other = StreamId::new("orders", 3).unwrap();
    for missing in [&nobody, &other] {
        let error = node.handle.append(missing, numbered(0..1)).await.unwrap_err();
        assert!(matches!(error, AppendError::NoSuchStream(_)), "{error}");
        let error = node.handle.read(missing, Position::START, limit(1)).await.unwrap_err();
        assert!(matches!(error, bowline_stream::ReadError::NoSuchStream(_)), "{error}");
    }
    let error = node.handle.create(&other, Settings::default()).await.unwrap_err();
    assert!(matches!(error, CreateError::Exists { existing } if existing == stream));
    assert!(matches!(
        node.handle.append(&stream, vec![]).await,
        Err(AppendError::Empty)
    ));
    let body = Bytes::from(vec![0; bowline_stream::BODY_BYTES_MAX + 1]);
    let error = node
        .handle
        .append(
            &stream,
            vec![Record {
                body,
                ..Record::default()
            }],
        )
        .await
        .unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }) && !error.is_retryable());
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let store = Arc::new(FaultyStore::new(
        Arc::new(MemoryStore::default()),
        FaultRates::default(),
        Entropy::seeded(3),
    ));
    let mut options = options(Arc::clone(&store) as Arc<dyn Store>);
    options.config.queue_events_max = 10;
    options.config.commit_retry = Duration::from_millis(50);
    let node = Node::start(options).await;
    let stream = node.create("orders").await;
    store.go_away();
    let append = |number| {
        let (handle, stream) = (node.handle.clone(), stream.clone());
        tokio::spawn(async move { handle.append(&stream, numbered(number..number + 6)).await })
    };
    let waiting: Vec<_> = (0..8).map(|number| append(number * 6)).collect();
    let mut overloaded = 0;
    for append in waiting {
        match append.await.unwrap() {
            Err(AppendError::Overloaded(_)) => overloaded += 1,
            Err(AppendError::Unavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(overloaded > 0);
    store.come_back();
    node.append(&stream, numbered(0..6)).await;
    assert_eq!(numbers(&node.read_all(&stream, 10).await), (0..6).collect::<Vec<_>>());
}
