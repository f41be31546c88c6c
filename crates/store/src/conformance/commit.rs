//! Checks of single commits: conditions, atomicity, versions.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Fixture, absent, at, key, must_commit, must_get, must_scan, put, value_of};
use crate::{CommitError, Condition, Version, Write};

pub async fn a_get_sees_what_was_committed(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    assert_eq!(must_get(&*store, "a").await, None);
    let version = must_commit(&*store, vec![], vec![put("a", "1"), put("b", "")]).await;
    let entry = must_get(&*store, "a").await.expect("`a` was put");
    assert_eq!((&entry.value[..], entry.version), (&b"1"[..], version));
    assert_eq!(
        value_of(&*store, "b").await,
        Some(Bytes::new()),
        "an empty value is a value"
    );
    must_commit(&*store, vec![], vec![put("a", "2")]).await;
    assert_eq!(value_of(&*store, "a").await, Some(key("2")));
    assert_eq!(must_get(&*store, "").await, None);
    must_commit(&*store, vec![], vec![put("", "root")]).await;
    assert_eq!(value_of(&*store, "").await, Some(key("root")), "the empty key is a key");
}

pub async fn a_deleted_key_has_no_value(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    must_commit(&*store, vec![], vec![put("a", "1"), put("b", "1")]).await;
    let deletes = vec![Write::Delete(key("a")), Write::Delete(key("never was"))];
    must_commit(&*store, vec![], deletes).await;
    assert_eq!(must_get(&*store, "a").await, None);
    assert_eq!(must_scan(&*store, &key(""), None, 9).await.len(), 1);
    must_commit(&*store, vec![absent("a")], vec![put("a", "2")]).await;
    assert_eq!(value_of(&*store, "a").await, Some(key("2")));
}

pub async fn a_broken_condition_applies_nothing(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let old = must_commit(&*store, vec![], vec![put("a", "1")]).await;
    let now = must_commit(&*store, vec![at("a", old)], vec![put("a", "2")]).await;
    let future = Version(now.0 + 1);
    let refused = [
        (vec![absent("a")], "a"),
        (vec![at("a", old)], "a"),
        (vec![at("a", future)], "a"),
        (vec![at("b", now)], "b"),
        (vec![at("a", now), absent("b"), at("c", now)], "c"),
        (vec![at("c", now), at("b", now)], "c"),
    ];
    for (conditions, broken) in refused {
        let writes = vec![put("b", "new"), Write::Delete(key("a")), put("c", "new")];
        let error = store
            .commit(conditions.clone(), writes)
            .await
            .expect_err("a condition does not hold");
        assert!(
            matches!(&error, CommitError::Conflict(found) if *found == key(broken)),
            "{conditions:?}: {error}"
        );
        let left = must_scan(&*store, &key(""), None, 9).await;
        assert_eq!(left.len(), 1, "{conditions:?} left {left:?}");
        assert_eq!((&left[0].1.value[..], left[0].1.version), (&b"2"[..], now));
    }
}

pub async fn conditions_are_judged_before_the_writes(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    must_commit(&*store, vec![absent("a"), absent("a")], vec![put("a", "1")]).await;
    let conditions = vec![absent("b")];
    let error = store.commit(vec![at("b", Version(1))], vec![put("b", "1")]).await;
    assert!(matches!(error, Err(CommitError::Conflict(_))));
    must_commit(
        &*store,
        conditions,
        vec![put("b", "1"), Write::Delete(key("b")), put("b", "2")],
    )
    .await;
    assert_eq!(value_of(&*store, "b").await, Some(key("2")));
}

pub async fn the_last_write_of_a_key_counts(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    must_commit(
        &*store,
        vec![],
        vec![put("a", "1"), put("b", "1"), put("a", "2"), Write::Delete(key("b"))],
    )
    .await;
    assert_eq!(value_of(&*store, "a").await, Some(key("2")));
    assert_eq!(value_of(&*store, "b").await, None);
}

pub async fn a_commit_without_writes_only_judges(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let version = must_commit(&*store, vec![], vec![put("a", "1")]).await;
    let judged = must_commit(&*store, vec![at("a", version), absent("b")], vec![]).await;
    assert!(judged > version);
    assert!(matches!(
        store.commit(vec![absent("a")], vec![]).await,
        Err(CommitError::Conflict(_))
    ));
    assert_eq!(must_get(&*store, "a").await.map(|entry| entry.version), Some(version));
}

pub async fn all_keys_of_a_commit_share_its_version(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = must_commit(&*store, vec![], vec![put("a", "1"), put("b", "1"), put("c", "1")]).await;
    let second = must_commit(&*store, vec![], vec![put("b", "2"), put("d", "1")]).await;
    assert!(
        second > first,
        "later commits have greater versions, whatever keys they write"
    );
    let versions: Vec<_> = must_scan(&*store, &key(""), None, 9)
        .await
        .iter()
        .map(|(_, entry)| entry.version)
        .collect();
    assert_eq!(versions, [first, second, first, second]);
}

pub async fn versions_never_repeat(fixture: &mut dyn Fixture) {
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        let store = fixture.store();
        for turn in 0..4 {
            let made = must_commit(&*store, vec![absent("a")], vec![put("a", "same")]).await;
            let set = must_commit(&*store, vec![at("a", made)], vec![put("a", "same")]).await;
            let gone = must_commit(&*store, vec![at("a", set)], vec![Write::Delete(key("a"))]).await;
            for version in [made, set, gone] {
                assert!(
                    seen.last() < Some(&version),
                    "round {round}, turn {turn}: {version:?} after {:?}",
                    seen.last()
                );
                seen.insert(version);
            }
        }
        drop(store);
        fixture.reopen().await;
    }
}

pub async fn what_was_committed_survives_reopening(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let binary = Bytes::from((0..=u8::MAX).collect::<Vec<_>>());
    let version = must_commit(
        &*store,
        vec![],
        vec![Write::Put(binary.clone(), binary.clone()), put("a", "1")],
    )
    .await;
    must_commit(&*store, vec![], vec![Write::Delete(key("a"))]).await;
    drop(store);
    fixture.reopen().await;
    let store = fixture.store();
    let entry = store
        .get(&binary)
        .await
        .expect("the store is reachable")
        .expect("the key was put");
    assert_eq!((entry.value, entry.version), (binary.clone(), version));
    assert_eq!(must_get(&*store, "a").await, None);
    must_commit(
        &*store,
        vec![Condition::AtVersion(binary, version)],
        vec![put("a", "2")],
    )
    .await;
}
