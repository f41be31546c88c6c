//! The checks that every implementation of [`Store`] passes.
//!
//! Each check is an async function that takes a [`Fixture`] with an empty store and panics if the
//! contract is broken. [`store_conformance!`](crate::store_conformance) makes one test of each.

mod commit;
mod concurrency;
mod limits;
mod scan;

pub use commit::*;
pub use concurrency::*;
pub use limits::*;
pub use scan::*;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Condition, Entry, Key, Store, Version, Write};

/// A store under test.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The store as it is open now.
    fn store(&self) -> Arc<dyn Store>;

    /// Closes the store and opens the same data again; no one else holds the store. Does nothing where
    /// the data live only as long as the store.
    async fn reopen(&mut self);
}

/// Makes a module's worth of tests: one for each check, over the fixture that the expression yields.
///
/// With `if available` before it the expression is a future that yields an `Option`; without a fixture the
/// tests do nothing, and it is for the expression to say so.
#[macro_export]
macro_rules! store_conformance {
    (if available $fixture:expr) => {
        $crate::store_conformance! { @list $fixture.await }
    };
    ($fixture:expr) => {
        $crate::store_conformance! { @list Some($fixture) }
    };
    (@list $fixture:expr) => {
        $crate::store_conformance! {
            @tests $fixture;
            a_get_sees_what_was_committed
            a_deleted_key_has_no_value
            a_broken_condition_applies_nothing
            conditions_are_judged_before_the_writes
            the_last_write_of_a_key_counts
            a_commit_without_writes_only_judges
            all_keys_of_a_commit_share_its_version
            versions_never_repeat
            what_was_committed_survives_reopening
            scans_agree_with_a_filter
            pages_make_up_the_whole
            one_of_many_creators_wins
            no_increment_is_lost
            a_scan_sees_whole_commits
            a_dropped_commit_is_whole_or_nothing
            many_commits_wait_together
            what_exceeds_a_limit_is_refused
            what_reaches_a_limit_is_taken
        }
    };
    (@tests $fixture:expr; $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $check() {
                if let Some(mut fixture) = $fixture {
                    $crate::conformance::$check(&mut fixture).await;
                }
            }
        )*
    };
}

fn key(text: &str) -> Key {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key_text: &str, value: &str) -> Write {
    Write::Put(key(key_text), key(value))
}

fn absent(key_text: &str) -> Condition {
    Condition::Absent(key(key_text))
}

fn at(key_text: &str, version: Version) -> Condition {
    Condition::AtVersion(key(key_text), version)
}

async fn must_commit(store: &dyn Store, conditions: Vec<Condition>, writes: Vec<Write>) -> Version {
    store
        .commit(conditions, writes)
        .await
        .expect("the conditions hold and the store is reachable")
}

async fn must_get(store: &dyn Store, key_text: &str) -> Option<Entry> {
    store.get(&key(key_text)).await.expect("the store is reachable")
}

async fn value_of(store: &dyn Store, key_text: &str) -> Option<Bytes> {
    must_get(store, key_text).await.map(|entry| entry.value)
}

async fn must_scan(store: &dyn Store, prefix: &Key, after: Option<&Key>, limit: usize) -> Vec<(Key, Entry)> {
    store.scan(prefix, after, limit).await.expect("the store is reachable")
}
