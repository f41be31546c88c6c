//! What callers see: identifiers, versions, tokens, events, index and limits, over sound stores.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_store::objects::{
    BODY_BYTES_MAX, ChangeError, Completeness, CreateError, Delete, EventKind, Expect, GetError, Health, Hit, IndexKey,
    Indexes, InvalidRequest, More, Objects, Options, Query, QueryError, Select, SetupError, StoreError,
};
use bowline_store::{Fault, MemoryStore, Store};
use bytes::Bytes;

use crate::world::{Pair, colour, create, find, named, update, with_token};

/// i-T5: after each change the version, the events and the index agree at once.
#[tokio::test]
async fn versions_events_and_index_agree_after_every_change() {
    let pair = Pair::new(Options::default());
    let objects = &pair.objects;
    let id = objects.create(create("body 1", "key 1")).await.unwrap().id;
    for version in 1..=40u64 {
        let object = objects.get(&id).await.unwrap();
        assert_eq!(
            (object.version, &object.body[..]),
            (version, format!("body {version}").as_bytes())
        );
        assert_eq!(object.indexes, colour(&format!("key {version}")));
        let mut events = Vec::new();
        while let Some(after) = Some(events.len() as u64).filter(|after| *after < version) {
            let page = objects.events(&id, after, 7).await.unwrap();
            assert_eq!(
                page.next,
                page.events
                    .last()
                    .map(|last| last.version)
                    .filter(|last| *last < version)
            );
            events.extend(page.events);
        }
        let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=version).collect::<Vec<_>>());
        for event in &events {
            assert_eq!(event.body, format!("body {}", event.version));
            assert_eq!(event.kind == EventKind::Create, event.version == 1);
        }
        assert_eq!(
            find(objects, &format!("key {version}")).await,
            std::slice::from_ref(&id)
        );
        assert!(find(objects, &format!("key {}", version - 1)).await.is_empty());
        let next = update(
            &id,
            Expect::Version(version),
            &format!("body {}", version + 1),
            &format!("key {}", version + 1),
        );
        assert_eq!(objects.update(next).await.unwrap(), version + 1);
    }
    let largest = largest_item(&pair).await;
    assert!(largest < 1024, "the item of 41 versions has {largest} bytes");
}

async fn largest_item(pair: &Pair) -> usize {
    let mut largest = 0;
    for store in &pair.inner {
        let items = store.scan(&"objects/item/".into(), None, 10).await.unwrap();
        largest = items
            .iter()
            .map(|(_, entry)| entry.value.len())
            .fold(largest, usize::max);
    }
    largest
}

#[tokio::test]
async fn a_change_keeps_indexes_unless_told_otherwise_and_a_delete_ends_all() {
    let objects = Pair::new(Options::default()).objects;
    let id = objects.create(create("x", "red")).await.unwrap().id;
    let mut keep = update(&id, Expect::Any, "y", "");
    keep.indexes = Indexes::Keep;
    assert_eq!(objects.update(keep).await.unwrap(), 2);
    assert_eq!(find(&objects, "red").await, std::slice::from_ref(&id));
    let delete = |expect| Delete {
        id: id.clone(),
        expect,
        caller: Default::default(),
    };
    assert!(matches!(
        objects.delete(delete(Expect::Version(1))).await,
        Err(ChangeError::Version { expected: 1, actual: 2 })
    ));
    assert_eq!(objects.delete(delete(Expect::Version(2))).await.unwrap(), 3);
    assert!(find(&objects, "red").await.is_empty());
    assert!(matches!(objects.get(&id).await, Err(GetError::NotFound)));
    assert!(matches!(
        objects.delete(delete(Expect::Any)).await,
        Err(ChangeError::NotFound)
    ));
    assert!(matches!(
        objects.update(update(&id, Expect::Any, "z", "red")).await,
        Err(ChangeError::NotFound)
    ));
    let events = objects.events(&id, 0, 10).await.unwrap().events;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Create, EventKind::Update, EventKind::Delete]);
}

/// A key that was given up and taken again is found, although its old entry is removed late.
#[tokio::test]
async fn a_key_that_comes_back_is_found() {
    let objects = Pair::new(Options::default()).objects;
    let id = objects.create(create("x", "red")).await.unwrap().id;
    for (version, key) in [(1, "blue"), (2, "red"), (3, "blue"), (4, "red")] {
        objects
            .update(update(&id, Expect::Version(version), "x", key))
            .await
            .unwrap();
        assert_eq!(find(&objects, key).await, std::slice::from_ref(&id));
    }
    assert!(find(&objects, "blue").await.is_empty());
}

#[tokio::test]
async fn the_same_token_gives_the_same_answer_on_any_front_end() {
    let pair = Pair::new(Options::default());
    let first = pair.objects.create(with_token(create("x", "red"), "t")).await.unwrap();
    for seed in 2..12 {
        assert_eq!(
            pair.other(seed)
                .create(with_token(create("x", "red"), "t"))
                .await
                .unwrap(),
            first
        );
    }
    assert_eq!(find(&pair.objects, "red").await.len(), 1);
    // Control: another token makes another object.
    let second = pair.objects.create(with_token(create("x", "red"), "u")).await.unwrap();
    assert_ne!(second, first);

    let mut change = update(&first.id, Expect::Version(1), "y", "red");
    change.caller.token = Some("c".to_owned());
    assert_eq!(pair.objects.update(change.clone()).await.unwrap(), 2);
    for version in 2..40 {
        assert_eq!(
            pair.other(version).update(change.clone()).await.unwrap(),
            2,
            "after {version} versions"
        );
        pair.objects
            .update(update(&first.id, Expect::Version(version), "z", "red"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn two_calls_with_one_token_at_once_make_one_object() {
    let pair = Pair::new(Options::default());
    let others: Vec<Objects> = (2..18).map(|seed| pair.other(seed)).collect();
    let calls = others
        .iter()
        .map(|objects| objects.create(with_token(create("x", "red"), "t")));
    futures_util::future::join_all(calls).await;
    let live = find(&pair.objects, "red").await;
    // Of one store there is one; two front ends that drew different stores are told apart by the next call.
    assert!((1..=2).contains(&live.len()), "{live:?}");
    assert_ne!(live.first().map(|id| &id.store), live.get(1).map(|id| &id.store));
}

#[tokio::test]
async fn a_change_whose_reply_is_lost_is_made_once() {
    let pair = Pair::new(Options::default());
    let id = pair.create_in("a", "red").await;
    // The read, then the commit, whose reply is lost.
    pair.faulty[0].script([Fault::None, Fault::LoseReply]);
    assert_eq!(
        pair.objects
            .update(update(&id, Expect::Version(1), "y", "red"))
            .await
            .unwrap(),
        2
    );
    assert_eq!(pair.objects.get(&id).await.unwrap().version, 2);
    pair.faulty[0].script([Fault::None, Fault::FailBefore]);
    let failed = pair.objects.update(update(&id, Expect::Any, "z", "red")).await;
    assert!(
        matches!(failed, Err(ChangeError::Store(StoreError::Unavailable { .. }))),
        "{failed:?}"
    );
    assert_eq!(pair.objects.get(&id).await.unwrap().version, 2);
    pair.faulty[0].script([Fault::None, Fault::LoseReply, Fault::FailBefore]);
    let unknown = pair.objects.update(update(&id, Expect::Any, "z", "red")).await;
    assert!(matches!(unknown, Err(ChangeError::Unknown(_))), "{unknown:?}");
}

/// i-T7: sixteen clients count on one object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditional_increments_are_all_counted() {
    const CLIENTS: usize = 16;
    const EACH: usize = 20;
    let pair = Arc::new(Pair::new(Options::default()));
    let id = pair.objects.create(create("0", "n0")).await.unwrap().id;
    let clients = (0..CLIENTS).map(|_| {
        let (pair, id) = (Arc::clone(&pair), id.clone());
        tokio::spawn(async move {
            let (mut successes, mut conflicts) = (0, 0);
            while successes < EACH {
                let object = pair.objects.get(&id).await.unwrap();
                let count: u64 = std::str::from_utf8(&object.body).unwrap().parse().unwrap();
                tokio::task::yield_now().await;
                let next = update(
                    &id,
                    Expect::Version(object.version),
                    &(count + 1).to_string(),
                    &format!("n{}", count + 1),
                );
                match pair.objects.update(next).await {
                    Ok(_) => successes += 1,
                    Err(ChangeError::Version { .. }) => conflicts += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            conflicts
        })
    });
    let conflicts: usize = futures_util::future::join_all(clients)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert!(conflicts > 0, "the clients met");
    let total = CLIENTS * EACH;
    let object = pair.objects.get(&id).await.unwrap();
    assert_eq!(object.body, total.to_string());
    assert_eq!(object.version, total as u64 + 1);
    let events = pair.objects.events(&id, 0, 1000).await.unwrap().events;
    assert_eq!(events.len(), total + 1);
    assert_eq!(find(&pair.objects, &format!("n{total}")).await, [id]);
}

#[tokio::test]
async fn queries_merge_stores_in_order_and_page() {
    let pair = Pair::new(Options::default());
    let mut expected = Vec::new();
    for number in 0..60 {
        let key = format!("k{:02}", (number * 7) % 20);
        let id = pair.objects.create(create("x", &key)).await.unwrap().id;
        expected.push((key, id.unique, id));
        pair.clock.advance(Duration::from_millis(3));
    }
    expected.sort();
    let mut query = Query {
        select: Select::BeginningWith(Bytes::from_static(b"k")),
        ..Query::exactly("colour", "", 7)
    };
    let mut hits: Vec<Hit> = Vec::new();
    loop {
        let page = pair.objects.query(&query).await.unwrap();
        hits.extend(page.hits);
        if page.more == More::None {
            break;
        }
        query.after = hits.last().cloned();
    }
    let found: Vec<_> = hits
        .iter()
        .map(|hit| (String::from_utf8(hit.key.to_vec()).unwrap(), hit.id.clone()))
        .collect();
    let wanted: Vec<_> = expected.into_iter().map(|(key, _, id)| (key, id)).collect();
    assert_eq!(found, wanted);
    let stores: std::collections::BTreeSet<_> = hits.iter().map(|hit| hit.id.store.clone()).collect();
    assert_eq!(stores.len(), 2);
}

/// i-T11: one store down.
#[tokio::test]
async fn a_query_names_the_store_that_it_could_not_ask() {
    let pair = Pair::new(Options::default());
    let in_a = pair.create_in("a", "red").await;
    let in_b = pair.create_in("b", "red").await;
    let mut query = Query::exactly("colour", "red", 100);
    let whole = pair.objects.query(&query).await.unwrap();
    assert!(whole.partial.is_empty() && whole.hits.iter().any(|hit| hit.id == in_a));
    pair.faulty[0].go_away();
    let page = pair.objects.query(&query).await.unwrap();
    assert_eq!(page.partial, ["a".parse().unwrap()]);
    assert!(page.hits.iter().all(|hit| hit.id.store.as_str() == "b"));
    assert!(page.hits.iter().any(|hit| hit.id == in_b));
    query.completeness = Completeness::Complete;
    let failed = pair.objects.query(&query).await;
    assert!(matches!(failed, Err(QueryError::Store(StoreError::Unavailable { .. }))));
    pair.faulty[1].go_away();
    query.completeness = Completeness::Partial;
    assert!(pair.objects.query(&query).await.is_err(), "nobody could be asked");
}

#[tokio::test]
async fn bad_requests_have_names() {
    let objects = Pair::new(Options::default()).objects;
    let refused = |request| {
        let objects = objects.clone();
        async move { objects.create(request).await.unwrap_err().to_string() }
    };
    let mut large = create("", "red");
    large.body = vec![0; BODY_BYTES_MAX + 1].into();
    assert_eq!(refused(large).await, "body has `786433` bytes, at most `786432`");
    let mut many = create("x", "");
    many.indexes = (0..17)
        .map(|number| IndexKey {
            index: format!("i{number}"),
            key: Bytes::new(),
        })
        .collect();
    assert_eq!(refused(many).await, "object has `17` index keys, at most `16`");
    let mut named = create("x", "red");
    named.indexes[0].index = "a/b".to_owned();
    assert!(refused(named).await.starts_with("index name `a/b`"));
    assert_eq!(
        refused(create("x", &"k".repeat(257))).await,
        "index key has `257` bytes, at most `256`"
    );
    assert_eq!(refused(with_token(create("x", ""), "")).await, "client token is empty");
    assert!(
        refused(with_token(create("x", ""), &"t".repeat(129)))
            .await
            .starts_with("`token` has `129`")
    );
    let page = objects.query(&Query::exactly("colour", "red", 0)).await;
    assert!(matches!(page, Err(QueryError::Invalid(InvalidRequest::Page(0)))));

    let strange = format!("v1.elsewhere.{}", "0".repeat(32)).parse().unwrap();
    assert!(matches!(
        objects.get(&strange).await,
        Err(GetError::Store(StoreError::Unknown(_)))
    ));
    let nobody = format!("v1.a.{}", "0".repeat(32)).parse().unwrap();
    assert!(matches!(objects.get(&nobody).await, Err(GetError::NotFound)));
}

#[tokio::test]
async fn the_largest_objects_fit_and_their_events_too() {
    let objects = Pair::new(Options::default()).objects;
    let mut whole = create("", &"k".repeat(256));
    whole.indexes = (0..16)
        .map(|number| IndexKey {
            index: format!("{number:064}"),
            key: vec![7; 256].into(),
        })
        .collect();
    whole.body = vec![1; BODY_BYTES_MAX].into();
    let id = objects.create(whole.clone()).await.unwrap().id;
    for version in 1..4u8 {
        let mut next = update(&id, Expect::Version(version.into()), "", "");
        next.body = vec![version + 1; BODY_BYTES_MAX].into();
        let indexes = (0..16).map(|number| IndexKey {
            index: format!("{number:064}"),
            key: vec![version; 256].into(),
        });
        next.indexes = Indexes::Replace(indexes.collect());
        objects.update(next).await.unwrap();
    }
    let mut versions = Vec::new();
    loop {
        let after = versions.len() as u64;
        let page = objects.events(&id, after, 100).await.unwrap();
        versions.extend(page.events.iter().map(|event| event.body[0]));
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(versions, [1, 2, 3, 4]);
}

#[tokio::test]
async fn all_stores_down_is_unavailable_and_the_error_says_so() {
    let pair = Pair::new(Options::default());
    pair.faulty.iter().for_each(|store| store.go_away());
    for _ in 0..6 {
        let failed = pair.objects.create(create("x", "red")).await;
        assert!(matches!(failed, Err(CreateError::Unavailable(_))), "{failed:?}");
    }
    let status = pair.objects.status().await;
    assert!(
        status
            .iter()
            .all(|store| store.health == Health::Down && store.weight == 0.0)
    );
    let failed = pair.objects.create(create("x", "red")).await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "no store is available: all stores are judged down"
    );
}

/// i-T10: the share of a store that comes back grows in steps, and a relapse takes it away.
#[tokio::test]
async fn a_store_that_comes_back_gets_its_share_in_steps() {
    let pair = Pair::new(Options::default());
    let weight = || async { pair.objects.status().await[0].weight };
    pair.faulty[0].go_away();
    for _ in 0..6 {
        pair.clock.advance(Duration::from_secs(1));
        pair.objects.tick().await;
    }
    assert_eq!(weight().await, 0.0);
    for _ in 0..50 {
        assert_eq!(
            pair.objects.create(create("x", "")).await.unwrap().id.store.as_str(),
            "b"
        );
    }
    pair.faulty[0].come_back();
    let mut weights = Vec::new();
    for _ in 0..60 {
        pair.clock.advance(Duration::from_secs(1));
        pair.objects.tick().await;
        let now = weight().await;
        if weights.last() != Some(&now) {
            weights.push(now);
        }
    }
    assert_eq!(weights, [0.05, 0.1, 0.2, 0.4, 0.5]);
    pair.faulty[0].go_away();
    for _ in 0..6 {
        pair.clock.advance(Duration::from_secs(1));
        pair.objects.tick().await;
    }
    assert_eq!(weight().await, 0.0, "a relapse");
}

#[test]
fn one_store_or_one_name_is_not_enough() {
    let store = || Arc::new(MemoryStore::default()) as Arc<dyn Store>;
    let make = |stores| {
        let clock = Clock::fake(Timestamp::from_micros(0));
        Objects::new(stores, Options::default(), clock, Entropy::seeded(1)).err()
    };
    assert_eq!(make(vec![named("a", store())]), Some(SetupError::TooFew(1)));
    let twice = SetupError::Twice("a".parse().unwrap());
    assert_eq!(make(vec![named("a", store()), named("a", store())]), Some(twice));
    assert_eq!(make(vec![named("a", store()), named("b", store())]), None);
}
