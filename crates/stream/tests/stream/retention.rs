//! Retention, cold nodes in blobs, and reading backward and from a time.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_store::blob::Blobs;
use bowline_store::{MemoryStore, Store};
use bowline_stream::session::Caller;
use bowline_stream::{Log, Position, ReadError, Settings, Stamp, StreamId};

use crate::node::{Node, limit, numbered, numbers, options};

const SECOND: Duration = Duration::from_secs(1);

/// A host whose clock a test moves, with blobs, that does a round of maintenance every millisecond.
async fn node(store: &Arc<MemoryStore>, blobs: &Blobs, clock: &Clock) -> Node {
    let mut options = options(Arc::clone(store) as Arc<dyn Store>);
    options.clock = clock.clone();
    options.blobs = Some(blobs.clone());
    options.config.copies_within = SECOND;
    options.config.head.bytes_max = 1024;
    options.config.maintain_every = Duration::from_millis(1);
    Node::start(options).await
}

fn ada() -> Caller {
    Caller {
        who: "ada".to_owned(),
        request_id: "r-1".to_owned(),
    }
}

fn stream() -> StreamId {
    StreamId::new("orders", 2).unwrap()
}

/// Appends `rounds` times ten events, a second apart.
async fn fill(node: &Node, clock: &Clock, rounds: usize) {
    for round in 0..rounds {
        node.append(&stream(), numbered(round * 10..round * 10 + 10)).await;
        clock.advance(SECOND);
    }
}

/// Keys of nodes in the store.
async fn nodes(store: &MemoryStore) -> usize {
    let prefix = bytes::Bytes::from_static(b"stream/node/");
    store.scan(&prefix, None, 10_000).await.unwrap().len()
}

/// Lets maintenance work until `is_done`.
async fn until<F: Future<Output = bool>>(is_done: impl Fn() -> F) {
    for _ in 0..5_000 {
        if is_done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come to that");
}

#[tokio::test(start_paused = true)]
async fn old_events_are_trimmed_and_readers_are_told() {
    let (store, blobs, clock) = (
        Arc::default(),
        Blobs::in_memory(),
        Clock::fake(Timestamp::from_micros(1 << 40)),
    );
    let node = node(&store, &blobs, &clock).await;
    let settings = Settings {
        age_max: Some(SECOND * 30),
        ..Settings::default()
    };
    node.handle.create(&stream(), settings).await.unwrap();
    fill(&node, &clock, 25).await;
    tokio::time::sleep(SECOND).await;
    let all = node.read_all(&stream(), 100).await;
    assert_eq!(all.len(), 250, "control: nothing is too old yet");
    let before = nodes(&store).await;
    clock.advance(SECOND * 20);
    until(|| async { nodes(&store).await < before }).await;
    let read = node.handle.read(&stream(), Position::START, limit(10)).await;
    let Err(ReadError::Trimmed { available, .. }) = read else {
        panic!("{read:?}")
    };
    let left = node.read_after(&stream(), available, 100).await;
    assert_eq!(left, all[250 - left.len()..], "what is left is the end");
    assert!((50..=180).contains(&left.len()), "{}", left.len());
    let stat = node.handle.stat(&stream()).await.unwrap();
    assert_eq!(stat.trimmed, available);
    assert!(stat.events < 250 && stat.events >= left.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_too_large_loses_its_oldest_events() {
    let (store, blobs, clock) = (
        Arc::default(),
        Blobs::in_memory(),
        Clock::fake(Timestamp::from_micros(1 << 40)),
    );
    let node = node(&store, &blobs, &clock).await;
    let settings = Settings {
        bytes_max: Some(20_000),
        ..Settings::default()
    };
    node.handle.create(&stream(), settings).await.unwrap();
    fill(&node, &clock, 40).await;
    let bytes = node.handle.stat(&stream()).await.unwrap().bytes;
    assert!(bytes < 20_000, "control: small enough so far, with {bytes} bytes");
    assert!(node.handle.read(&stream(), Position::START, limit(1)).await.is_ok());
    fill(&node, &clock, 300).await;
    until(|| async { node.handle.stat(&stream()).await.unwrap().bytes < 30_000 }).await;
    let trimmed = node.handle.stat(&stream()).await.unwrap().trimmed;
    let left = numbers(&node.read_after(&stream(), trimmed, 100).await);
    assert_eq!(left.last(), Some(&2999));
    assert!(left.len() < 1500, "{}", left.len());
}

#[tokio::test(start_paused = true)]
async fn cold_nodes_move_to_blobs_and_read_the_same() {
    let (store, blobs, clock) = (
        Arc::default(),
        Blobs::in_memory(),
        Clock::fake(Timestamp::from_micros(1 << 40)),
    );
    let first = node(&store, &blobs, &clock).await;
    let settings = Settings {
        tier_after: Some(SECOND * 60),
        age_max: Some(SECOND * 100_000),
        ..Settings::default()
    };
    first.handle.create(&stream(), settings).await.unwrap();
    fill(&first, &clock, 55).await;
    let all = first.read_all(&stream(), 100).await;
    tokio::time::sleep(SECOND).await;
    let before = nodes(&store).await;
    assert_eq!(
        (blobs.list().await.unwrap().len(), before > 3),
        (0, true),
        "control: all nodes are warm"
    );
    clock.advance(SECOND * 200);
    until(|| async { nodes(&store).await < before }).await;
    assert!(!blobs.list().await.unwrap().is_empty());
    first.crash().await;
    let second = node(&store, &blobs, &clock).await;
    assert_eq!(
        second.read_all(&stream(), 33).await,
        all,
        "read by a host that remembers nothing"
    );
    let back = second
        .handle
        .read_back(&stream(), Position::before(Stamp(u64::MAX)), limit(1000))
        .await
        .unwrap();
    assert!(back.events.iter().rev().eq(&all));
    let orphan = blobs.put("left by a crash".into()).await.unwrap();
    assert_eq!(
        second.handle.sweep_blobs(Duration::ZERO).await,
        Ok(0),
        "control: nothing is old enough"
    );
    tokio::time::sleep(SECOND).await;
    clock.advance(Duration::from_secs(4_000_000_000));
    until(|| async { !blobs.list().await.unwrap().contains(&orphan) }).await;
    let cold = blobs.list().await.unwrap();
    fill(&second, &clock, 60).await;
    clock.advance(SECOND * 200_000);
    until(|| async { !blobs.list().await.unwrap().iter().any(|digest| cold.contains(digest)) }).await;
    assert!(!cold.is_empty(), "control: there was something to be deleted");
}

#[tokio::test]
async fn reading_backward_gives_the_same_events_the_other_way_round() {
    let node = Node::in_memory().await;
    let stream = node.create("orders").await;
    for round in 0..60 {
        node.append(&stream, numbered(round * 7..round * 7 + 7)).await;
    }
    let all = node.read_all(&stream, 100).await;
    for page in [1, 10, 1000] {
        let (mut before, mut seen) = (Position::before(Stamp(u64::MAX)), Vec::new());
        loop {
            let back = node.handle.read_back(&stream, before, limit(page)).await.unwrap();
            before = back.next;
            seen.extend(back.events);
            if !back.more {
                break;
            }
        }
        seen.reverse();
        assert_eq!(seen, all, "in pages of {page}");
    }
    let middle = all[200].position;
    let back = node.handle.read_back(&stream, middle, limit(5)).await.unwrap();
    assert!(back.events.iter().rev().eq(&all[195..200]));
}

#[tokio::test(start_paused = true)]
async fn reading_may_begin_at_a_time() {
    let (store, blobs, clock) = (
        Arc::default(),
        Blobs::in_memory(),
        Clock::fake(Timestamp::from_micros(1 << 40)),
    );
    let node = node(&store, &blobs, &clock).await;
    node.handle.create(&stream(), Settings::default()).await.unwrap();
    fill(&node, &clock, 30).await;
    let begin = Timestamp::from_micros(1 << 40).after(SECOND * 10);
    let found = node
        .read_after(&stream(), Position::before(Stamp::of(begin)), 1000)
        .await;
    assert_eq!(numbers(&found), (100..300).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn trimming_by_hand_hides_what_is_before() {
    let (store, blobs, clock) = (
        Arc::default(),
        Blobs::in_memory(),
        Clock::fake(Timestamp::from_micros(1 << 40)),
    );
    let node = node(&store, &blobs, &clock).await;
    node.handle.create(&stream(), Settings::default()).await.unwrap();
    fill(&node, &clock, 60).await;
    let all = node.read_all(&stream(), 1000).await;
    let before = nodes(&store).await;
    let until_here = all[399].position;
    node.handle.trim(&ada(), &stream(), until_here).await.unwrap();
    let read = node.handle.read(&stream(), all[10].position, limit(1)).await;
    assert!(matches!(read, Err(ReadError::Trimmed { available, .. }) if available == until_here));
    assert_eq!(node.read_after(&stream(), until_here, 1000).await, all[400..]);
    let back = node
        .handle
        .read_back(&stream(), Position::before(Stamp(u64::MAX)), limit(1000))
        .await
        .unwrap();
    assert_eq!((back.events.len(), back.more), (200, false));
    until(|| async { nodes(&store).await < before }).await;
    assert_eq!(node.read_after(&stream(), until_here, 1000).await, all[400..]);
}
