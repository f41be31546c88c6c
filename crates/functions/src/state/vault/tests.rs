//! One resource: versions, leases, limits.

use std::sync::Arc;

use bowline_store::MemoryStore;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn later(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

fn vault(store: &dyn Store, writers: Writers) -> Vault<'_> {
    Vault {
        store,
        name: "counter",
        id: "id",
        writers,
        anchor: Vec::new(),
    }
}

fn put(value: &str) -> Edit {
    Edit::Put(value.to_owned())
}

/// The pause of one who waits for a lease here.
fn short(_: Duration) -> Option<Duration> {
    Some(Duration::from_millis(1))
}

#[tokio::test]
async fn entries_come_back_with_the_version_that_wrote_them() {
    let store = MemoryStore::default();
    let vault = vault(&store, Writers::Any);
    assert_eq!(vault.write("a", &put("1"), None, Some(0)).await.expect("it is new"), 1);
    assert_eq!(vault.write("b", &put("2"), None, None).await.expect("anybody may"), 2);
    let mismatch = vault.write("a", &put("3"), None, Some(2)).await;
    assert!(matches!(
        mismatch,
        Err(StateError::VersionMismatch { actual: 1, expected: 2 })
    ));
    assert_eq!(
        vault.write("a", &put("3"), None, Some(1)).await.expect("as expected"),
        3
    );
    let entry = vault.read("a").await.expect("it is there");
    assert_eq!((entry.version, entry.value.as_str()), (3, "3"));
    vault.write("a", &Edit::Delete, None, None).await.expect("it is there");
    assert!(matches!(vault.read("a").await, Err(StateError::NoSuchEntry(_))));
    let gone = vault.write("a", &Edit::Delete, None, None).await;
    assert!(matches!(gone, Err(StateError::NoSuchEntry(_))));
    let (head, _) = vault.head().await.expect("it is there");
    assert_eq!((head.version, head.entries, head.bytes), (4, 1, 2));
}

#[tokio::test]
async fn only_the_holder_of_the_lease_writes_and_one_who_lost_it_does_not() {
    let store = MemoryStore::default();
    let vault = vault(&store, Writers::One);
    let without = vault.write("a", &put("1"), None, None).await;
    assert!(matches!(without, Err(StateError::NoLease(_))));
    let first = vault.acquire("one", later(5), || NOW, Some).await.expect("it is free");
    vault
        .write("a", &put("1"), Some(&first), None)
        .await
        .expect("it holds it");
    let busy = vault.acquire("two", NOW, || NOW, Some).await;
    assert!(matches!(busy, Err(StateError::LeaseBusy(_))));
    // Its time is over: another one takes it, and the first writes nothing more, whatever its clock says.
    let second = vault
        .acquire("two", later(20), || later(6), Some)
        .await
        .expect("it has run out");
    assert_eq!((first.epoch, second.epoch), (1, 2));
    let lost = vault.write("a", &put("2"), Some(&first), None).await;
    assert!(matches!(lost, Err(StateError::NoLease(_))));
    vault
        .release(&first)
        .await
        .expect("one that is lost need not be given back");
    vault
        .write("a", &put("3"), Some(&second), None)
        .await
        .expect("it still holds it");
    vault.release(&second).await.expect("it held it");
    let third = vault
        .acquire("three", later(5), || NOW, Some)
        .await
        .expect("it was given back");
    assert_eq!(third.epoch, 3);
}

#[tokio::test]
async fn a_lease_that_nobody_was_told_of_is_given_back_by_its_holder_and_end() {
    let store = MemoryStore::default();
    let vault = vault(&store, Writers::One);
    vault.acquire("one", later(5), || NOW, Some).await.expect("it is free");
    for (holder, until) in [("two", later(5)), ("one", later(6))] {
        vault.release_all(holder, until).await.expect("another's is none");
        let (head, _) = vault.head().await.expect("it is there");
        assert!(head.lease.is_some(), "{holder} has none that ends then");
    }
    vault.release_all("one", later(5)).await.expect("it held it");
    let (head, _) = vault.head().await.expect("it is there");
    assert_eq!((head.lease, head.epoch), (None, 1));
}

#[tokio::test]
async fn one_who_has_left_waits_no_longer() {
    let store = MemoryStore::default();
    let vault = vault(&store, Writers::One);
    vault.acquire("one", later(5), || NOW, Some).await.expect("it is free");
    let left = vault.acquire("two", later(5), || NOW, |_| None).await;
    assert!(matches!(left, Err(StateError::LeaseBusy(_))));
}

#[tokio::test]
async fn limits_hold_and_change_nothing() {
    let store = MemoryStore::default();
    let vault = vault(&store, Writers::Any);
    let large = format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX - 2));
    vault.write("a", &put(&large), None, None).await.expect("just inside");
    let larger = format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX - 1));
    let refused = vault.write("a", &put(&larger), None, None).await;
    assert!(matches!(refused, Err(StateError::TooLarge)));
    let (head, _) = vault.head().await.expect("it is there");
    assert_eq!((head.version, head.entries), (1, 1));
    let most = BYTES_MAX as usize / (VALUE_BYTES_MAX + 3);
    for number in 1..most {
        vault
            .write(&format!("k{number:02}"), &put(&large), None, None)
            .await
            .expect("there is room");
    }
    let full = vault.write("last", &put(&large), None, None).await;
    assert!(matches!(full, Err(StateError::TooLarge)));
}

#[tokio::test]
async fn fifty_increments_under_the_lease_are_fifty_and_without_it_fewer() {
    for (writers, expected) in [(Writers::One, Some(50)), (Writers::Any, None)] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move {
                    let vault = vault(&*store, writers);
                    let lease = match writers {
                        Writers::One => Some(vault.acquire(&number.to_string(), later(60), || NOW, short).await?),
                        Writers::Any => None,
                    };
                    let seen: u64 = match vault.read("n").await {
                        Ok(entry) => entry.value.parse().expect("it is a number"),
                        Err(_) => 0,
                    };
                    tokio::task::yield_now().await;
                    vault
                        .write("n", &put(&(seen + 1).to_string()), lease.as_ref(), None)
                        .await?;
                    match lease {
                        Some(lease) => vault.release(&lease).await,
                        None => Ok(()),
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics").expect("no write fails");
        }
        let value: u64 = vault(&*store, writers)
            .read("n")
            .await
            .expect("it was written")
            .value
            .parse()
            .expect("a number");
        match expected {
            Some(expected) => assert_eq!(value, expected),
            None => assert!(
                value < 50,
                "control: without a lease increments are lost, here none was"
            ),
        }
    }
}
