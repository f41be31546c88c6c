//! Checks that the limits hold, and that what lies within them is taken.

use bytes::Bytes;

use super::{Fixture, absent, key, must_commit, must_scan, put};
use crate::limits::{
    COMMIT_BYTES_MAX, CONDITIONS_PER_COMMIT_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX, WRITES_PER_COMMIT_MAX,
};
use crate::{CommitError, Condition, Write};

fn filled(bytes: usize) -> Bytes {
    Bytes::from(vec![b'x'; bytes])
}

fn puts(count: usize, value: &Bytes) -> Vec<Write> {
    (0..count)
        .map(|index| Write::Put(key(&format!("{index}")), value.clone()))
        .collect()
}

pub async fn what_exceeds_a_limit_is_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let long_key = filled(KEY_BYTES_MAX + 1);
    let too_much = [
        (vec![], vec![put("a", "1"), Write::Put(long_key.clone(), Bytes::new())]),
        (vec![], vec![put("a", "1"), Write::Delete(long_key.clone())]),
        (vec![Condition::Absent(long_key)], vec![put("a", "1")]),
        (
            vec![],
            vec![put("a", "1"), Write::Put(key("b"), filled(VALUE_BYTES_MAX + 1))],
        ),
        (vec![], puts(WRITES_PER_COMMIT_MAX + 1, &Bytes::new())),
        (vec![absent("b"); CONDITIONS_PER_COMMIT_MAX + 1], vec![put("a", "1")]),
        (
            vec![],
            puts(COMMIT_BYTES_MAX / VALUE_BYTES_MAX, &filled(VALUE_BYTES_MAX)),
        ),
    ];
    for (case, (conditions, writes)) in too_much.into_iter().enumerate() {
        let refused = store.commit(conditions, writes).await;
        assert!(
            matches!(refused, Err(CommitError::TooLarge(_))),
            "case {case}: {refused:?}"
        );
        assert_eq!(must_scan(&*store, &key(""), None, 9).await, [], "case {case}");
    }
}

pub async fn what_reaches_a_limit_is_taken(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let (name, value) = (filled(KEY_BYTES_MAX), filled(VALUE_BYTES_MAX));
    must_commit(&*store, vec![], vec![Write::Put(name.clone(), value.clone())]).await;
    let entry = store
        .get(&name)
        .await
        .expect("the store is reachable")
        .expect("the key was put");
    assert!(entry.value == value, "the value came back changed");
    must_commit(
        &*store,
        vec![absent("b"); CONDITIONS_PER_COMMIT_MAX],
        puts(WRITES_PER_COMMIT_MAX, &key("x")),
    )
    .await;
    assert_eq!(
        must_scan(&*store, &key(""), None, usize::MAX).await.len(),
        WRITES_PER_COMMIT_MAX + 1
    );
}
