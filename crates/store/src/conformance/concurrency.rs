//! Checks of many callers at once, and of callers that give up.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::{Fixture, absent, at, key, must_commit, must_get, must_scan, put, value_of};
use crate::{CommitError, Store, Version, Write};

pub async fn one_of_many_creators_wins(fixture: &mut dyn Fixture) {
    const CREATORS: usize = 64;
    let store = fixture.store();
    let tasks = (0..CREATORS).map(|creator| {
        let store = Arc::clone(&store);
        let writes = vec![put("owner", &creator.to_string()), put(&format!("by/{creator}"), "x")];
        tokio::spawn(async move { (creator, store.commit(vec![absent("owner")], writes).await) })
    });
    let mut winners = Vec::new();
    for done in join_all(tasks).await {
        match done.expect("the task does not panic") {
            (creator, Ok(_)) => winners.push(creator),
            (_, Err(CommitError::Conflict(lost))) => assert_eq!(lost, key("owner")),
            (creator, Err(error)) => panic!("creator {creator}: {error}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(value_of(&*store, "owner").await, Some(key(&winners[0].to_string())));
    assert_eq!(
        must_scan(&*store, &key("by/"), None, CREATORS).await.len(),
        1,
        "the others wrote nothing"
    );
}

pub async fn no_increment_is_lost(fixture: &mut dyn Fixture) {
    const TASKS: u64 = 8;
    const INCREMENTS: u64 = 10;
    let store = fixture.store();
    must_commit(&*store, vec![], vec![put("count", "0")]).await;
    let tasks = (0..TASKS).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..INCREMENTS {
                while !increment(&*store).await {}
            }
        })
    });
    join_all(tasks)
        .await
        .into_iter()
        .for_each(|done| done.expect("the task does not panic"));
    assert_eq!(
        value_of(&*store, "count").await,
        Some(key(&(TASKS * INCREMENTS).to_string()))
    );
}

async fn increment(store: &dyn Store) -> bool {
    let entry = must_get(store, "count").await.expect("`count` is never deleted");
    // Lets the others read the same count first.
    tokio::task::yield_now().await;
    let count: u64 = std::str::from_utf8(&entry.value)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a number");
    match store
        .commit(
            vec![at("count", entry.version)],
            vec![put("count", &(count + 1).to_string())],
        )
        .await
    {
        Ok(_) => true,
        Err(CommitError::Conflict(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

pub async fn a_scan_sees_whole_commits(fixture: &mut dyn Fixture) {
    const COMMITS: usize = 60;
    let store = fixture.store();
    let set = |value: &str| vec![put("pair/a", value), put("other", value), put("pair/b", value)];
    must_commit(&*store, vec![], set("start")).await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for round in 0..COMMITS {
                must_commit(&*store, vec![], set(&round.to_string())).await;
            }
        }
    });
    while !writer.is_finished() {
        let pair = must_scan(&*store, &key("pair/"), None, 9).await;
        assert_eq!(pair.len(), 2);
        assert_eq!(pair[0].1, pair[1].1, "half a commit was seen");
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer does not panic");
}

pub async fn a_dropped_commit_is_whole_or_nothing(fixture: &mut dyn Fixture) {
    const ROUNDS: usize = 100;
    let store = fixture.store();
    for round in 0..ROUNDS {
        let names = ["a", "b", "c"].map(|name| format!("{round}/{name}"));
        let writes = names.iter().map(|name| put(name, "x")).collect();
        let mut dropped = store.commit(vec![absent(&names[0])], writes);
        for _ in 0..round % 3 {
            // Whether it is done by now is no matter: it is dropped at every stage.
            if (&mut dropped).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(dropped);
        let found = must_scan(&*store, &key(&format!("{round}/")), None, 9).await.len();
        assert!(found == 0 || found == 3, "{found} of 3 keys");
    }
    must_commit(&*store, vec![], vec![put("barrier", "x")]).await;
    for round in 0..ROUNDS {
        let found = must_scan(&*store, &key(&format!("{round}/")), None, 9).await.len();
        assert!(found == 0 || found == 3, "{found} of 3 keys after all has settled");
    }
}

pub async fn many_commits_wait_together(fixture: &mut dyn Fixture) {
    const COMMITS: usize = 1000;
    let store = fixture.store();
    let commits = (0..COMMITS).map(|index| {
        let writes = vec![Write::Put(key(&format!("many/{index:04}")), Bytes::new())];
        store.commit(vec![], writes)
    });
    let versions: BTreeSet<Version> = join_all(commits)
        .await
        .into_iter()
        .map(|done| done.expect("a thousand commits may wait"))
        .collect();
    assert_eq!(versions.len(), COMMITS, "each has a version of its own");
    assert_eq!(must_scan(&*store, &key("many/"), None, usize::MAX).await.len(), COMMITS);
}
