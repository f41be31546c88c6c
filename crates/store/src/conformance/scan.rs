//! Checks of scans: order, prefix, start, limit, over keys of any bytes.

use bytes::Bytes;

use super::{Fixture, key, must_commit, must_scan};
use crate::{Key, Write};

/// All keys of at most `length` bytes over the two ends of the alphabet and a letter, in order.
fn keys(length: usize) -> Vec<Key> {
    let mut all = vec![Vec::new()];
    let mut longest = vec![Vec::new()];
    for _ in 0..length {
        longest = longest
            .iter()
            .flat_map(|start: &Vec<u8>| [0x00, b'a', 0xff].map(|byte| [&start[..], &[byte]].concat()))
            .collect();
        all.extend(longest.iter().cloned());
    }
    all.sort();
    all.into_iter().map(Bytes::from).collect()
}

pub async fn scans_agree_with_a_filter(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    // Every second key is there, so that scans also start after keys that are not.
    let stored: Vec<Key> = keys(3).into_iter().step_by(2).collect();
    let writes = stored
        .iter()
        .rev()
        .map(|key| Write::Put(key.clone(), key.clone()))
        .collect();
    must_commit(&*store, vec![], writes).await;
    let starts: Vec<Option<Key>> = [None].into_iter().chain(keys(3).into_iter().map(Some)).collect();
    for prefix in keys(2) {
        for after in &starts {
            for limit in [0, 1, 3, usize::MAX] {
                let found = must_scan(&*store, &prefix, after.as_ref(), limit).await;
                let expected = stored
                    .iter()
                    .filter(|key| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after))
                    .take(limit);
                assert!(
                    found.iter().map(|(key, _)| key).eq(expected),
                    "prefix {prefix:?}, after {after:?}, limit {limit}: {found:?}"
                );
                assert!(
                    found.iter().all(|(key, entry)| *key == entry.value),
                    "values are with their keys"
                );
            }
        }
    }
}

pub async fn pages_make_up_the_whole(fixture: &mut dyn Fixture) {
    const ENTRIES: usize = 250;
    let store = fixture.store();
    let name = |index: usize| key(&format!("page/{index:04}"));
    let writes = (0..ENTRIES).map(|index| Write::Put(name(index), key("x"))).collect();
    must_commit(&*store, vec![], writes).await;
    must_commit(&*store, vec![], vec![Write::Put(key("pagf"), key("other"))]).await;
    for size in [1, 7, 250, 251] {
        let mut found: Vec<Key> = Vec::new();
        loop {
            let page = must_scan(&*store, &key("page/"), found.last(), size).await;
            let is_last = page.len() < size;
            found.extend(page.into_iter().map(|(key, _)| key));
            if is_last {
                break;
            }
        }
        assert!(found.iter().cloned().eq((0..ENTRIES).map(name)), "pages of {size}");
    }
}
