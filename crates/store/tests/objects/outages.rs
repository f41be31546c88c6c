//! i-T1 to i-T4 and i-T12: two store processes, one of them killed, both ways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_store::objects::{ChangeError, Expect, GetError, Health, ObjectId, Objects, Options, Query, StoreError};
use bowline_store::{Store, Write};
use tokio::sync::Semaphore;

use crate::wire::StoreProcess;
use crate::world::{create, find, front_end, named, update};

const CREATES: usize = 20_000;
const AT_ONCE: usize = 128;

async fn create_many(objects: &Objects, count: usize, key: &str) -> Vec<ObjectId> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for _ in 0..count {
        let place = Arc::clone(&room).acquire_owned().await.unwrap();
        let (objects, key) = (objects.clone(), key.to_owned());
        tasks.push(tokio::spawn(async move {
            let created = objects.create(create("body", &key)).await;
            drop(place);
            created.unwrap().id
        }));
    }
    let ids = futures_util::future::join_all(tasks).await;
    ids.into_iter().map(Result::unwrap).collect()
}

fn in_store<'a>(ids: &'a [ObjectId], store: &'a str) -> impl Iterator<Item = &'a ObjectId> {
    ids.iter().filter(move |id| id.store.as_str() == store)
}

fn both(stores: &[StoreProcess; 2]) -> Objects {
    let stores = vec![named("a", stores[0].client()), named("b", stores[1].client())];
    front_end(stores, Options::default(), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_go_on_while_either_store_is_down() {
    let mut stores = [StoreProcess::start(), StoreProcess::start()];
    let clock = Clock::system();
    let objects = both(&stores);
    let begun = clock.monotonic();
    let mut ids = create_many(&objects, CREATES, "").await;
    let seconds = clock.monotonic().since(begun).as_secs_f64();
    println!("{:.0} creates/s over two stores", CREATES as f64 / seconds);
    compare_speed(&stores, &objects).await;
    let share = in_store(&ids, "a").count() as f64 / CREATES as f64;
    assert!((0.48..=0.52).contains(&share), "share of `a`: {share}");

    for (down, up) in [("a", "b"), ("b", "a")] {
        let victim = usize::from(down == "b");
        let objects = both(&stores);
        let marked = create_many(&objects, 20, &format!("before {down}")).await;
        ids.extend(marked.clone());
        stores[victim].kill();
        // Every one of these succeeds: inside the window of detection by the retry on the other store.
        let created = create_many(&objects, 500, "").await;
        assert_eq!(in_store(&created, up).count(), 500);
        let health: BTreeMap<_, _> = objects
            .status()
            .await
            .into_iter()
            .map(|status| (status.store.to_string(), status.health))
            .collect();
        assert_eq!((health[down], health[up]), (Health::Down, Health::Up));
        assert!(objects.metrics().create_retries < 200, "{:?}", objects.metrics());
        ids.extend(created);
        check_outage(&objects, &marked, (down, up)).await;
        stores[victim].restart();
        for id in in_store(&marked, down) {
            // Those of the other store have been changed.
            assert_eq!(objects.get(id).await.unwrap().version, 1, "intact");
        }
    }
    check_files(&mut stores, &ids).await;
}

/// For the record only: bare commits over the same two processes, and creates with an index key.
async fn compare_speed(stores: &[StoreProcess; 2], objects: &Objects) {
    const COMMITS: usize = 5_000;
    let clock = Clock::system();
    let per_second = |begun| COMMITS as f64 / clock.monotonic().since(begun).as_secs_f64();
    let clients = [stores[0].client(), stores[1].client()];
    let room = Semaphore::new(AT_ONCE);
    let begun = clock.monotonic();
    let commits = (0..COMMITS).map(|number| {
        let (client, room) = (&clients[number % 2], &room);
        async move {
            let _place = room.acquire().await.unwrap();
            let write = Write::Put(format!("raw/{number}").into(), "body".into());
            client.commit(vec![], vec![write]).await.unwrap();
        }
    });
    futures_util::future::join_all(commits).await;
    println!("{:.0} bare commits/s over two stores", per_second(begun));
    let begun = clock.monotonic();
    create_many(objects, COMMITS, "speed").await;
    println!("{:.0} creates/s with an index key", per_second(begun));
}

/// i-T4, i-T11: one store's objects are away, the other's are as ever.
async fn check_outage(objects: &Objects, ids: &[ObjectId], (down, up): (&str, &str)) {
    for id in in_store(ids, down) {
        let is_down =
            |store: &StoreError| matches!(store, StoreError::Unavailable { store, .. } if store.as_str() == down);
        assert!(matches!(objects.get(id).await, Err(GetError::Store(error)) if is_down(&error)));
        let change = objects.update(update(id, Expect::Any, "y", "red")).await;
        assert!(matches!(change, Err(ChangeError::Store(error)) if is_down(&error)));
    }
    for id in in_store(ids, up) {
        assert_eq!(objects.get(id).await.unwrap().body, "body");
        let key = format!("before {down}");
        assert_eq!(
            objects.update(update(id, Expect::Version(1), "y", &key)).await.unwrap(),
            2
        );
    }
    let page = objects
        .query(&Query::exactly("colour", format!("before {down}"), 100))
        .await
        .unwrap();
    assert_eq!(page.partial, [down.parse().unwrap()]);
    assert_eq!(page.hits.len(), in_store(ids, up).count());
}

/// i-T3: the identifier names the store whose files have the object.
async fn check_files(stores: &mut [StoreProcess; 2], ids: &[ObjectId]) {
    let files = [stores[0].open_files(), stores[1].open_files()];
    for id in ids {
        let key = format!("objects/item/{}", id.unique).into();
        let own = usize::from(id.store.as_str() == "b");
        assert!(files[own].get(&key).await.unwrap().is_some(), "{id}");
        assert!(files[1 - own].get(&key).await.unwrap().is_none(), "{id}");
    }
}

/// i-T12: a lost disk takes its own objects only; a third store joins without a rewrite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_and_a_third_store() {
    let mut stores = [StoreProcess::start(), StoreProcess::start()];
    let objects = both(&stores);
    let ids = create_many(&objects, 100, "red").await;
    // The folder is made anew with nothing in it.
    stores[0] = StoreProcess::start();
    let third = StoreProcess::start();
    let named = vec![
        named("a", stores[0].client()),
        named("b", stores[1].client()),
        named("c", third.client()),
    ];
    let objects = front_end(named, Options::default(), 2);
    for id in in_store(&ids, "b") {
        assert_eq!(objects.get(id).await.unwrap().body, "body");
    }
    for id in in_store(&ids, "a") {
        assert!(matches!(objects.get(id).await, Err(GetError::NotFound)));
    }
    assert_eq!(find(&objects, "red").await.len(), in_store(&ids, "b").count());
    let more = create_many(&objects, 300, "blue").await;
    for store in ["a", "b", "c"] {
        let share = in_store(&more, store).count();
        assert!((60..=140).contains(&share), "`{store}` got {share} of 300");
    }
    assert_eq!(find(&objects, "blue").await.len(), 300);
}

/// A store that stands still is as good as down: creates go on within their deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_go_on_while_a_store_stands_still() {
    let stores = [StoreProcess::start(), StoreProcess::start()];
    let options = Options {
        call_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let named = vec![named("a", stores[0].client()), named("b", stores[1].client())];
    let objects = front_end(named, options, 3);
    create_many(&objects, 50, "red").await;
    stores[0].signal("STOP");
    let created = create_many(&objects, 100, "blue").await;
    assert_eq!(in_store(&created, "b").count(), 100);
    assert!(objects.metrics().creates_in_doubt > 0);
    assert_eq!(objects.status().await[0].health, Health::Down);
    // Awake again it carries out what it was asked meanwhile; the sweep leaves one object a request.
    stores[0].signal("CONT");
    objects.tick().await;
    loop {
        let report = objects.sweep().await;
        if report.unresolved == 0 {
            break;
        }
    }
    let found = find(&objects, "blue").await;
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|id| created.contains(id)));
}
