//! The wrapper fails in every way it promises, the same way for the same seed.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::{CommitError, Fault, FaultRates, FaultyStore, Key, MemoryStore, ReadError, Store, Write};

fn put(key: &'static str) -> Vec<Write> {
    vec![Write::Put(Key::from_static(key.as_bytes()), Key::from_static(b"x"))]
}

fn wrapped(rates: FaultRates, seed: u64) -> (Arc<MemoryStore>, FaultyStore) {
    let inner = Arc::new(MemoryStore::default());
    let outer = FaultyStore::new(Arc::clone(&inner) as Arc<dyn Store>, rates, Entropy::seeded(seed));
    (inner, outer)
}

#[tokio::test]
async fn scripted_faults_come_in_order() {
    let (inner, store) = wrapped(FaultRates::default(), 1);
    store.script([Fault::FailBefore, Fault::LoseReply, Fault::None, Fault::LoseReply]);
    assert!(matches!(
        store.commit(vec![], put("before")).await,
        Err(CommitError::Unavailable(_))
    ));
    assert_eq!(inner.get(&"before".into()).await.unwrap(), None);
    assert!(matches!(
        store.commit(vec![], put("lost")).await,
        Err(CommitError::Unknown(_))
    ));
    assert!(inner.get(&"lost".into()).await.unwrap().is_some());
    store.commit(vec![], put("fine")).await.unwrap();
    assert!(matches!(
        store.get(&"fine".into()).await,
        Err(ReadError::Unavailable(_))
    ));
    assert!(
        store.get(&"fine".into()).await.unwrap().is_some(),
        "the script is at its end"
    );
}

#[tokio::test]
async fn a_store_that_is_away_answers_nothing_until_it_is_back() {
    let (inner, store) = wrapped(FaultRates::default(), 1);
    store.go_away();
    assert!(matches!(store.get(&"a".into()).await, Err(ReadError::Unavailable(_))));
    assert!(matches!(
        store.scan(&Key::new(), None, 1).await,
        Err(ReadError::Unavailable(_))
    ));
    assert!(matches!(
        store.commit(vec![], put("a")).await,
        Err(CommitError::Unavailable(_))
    ));
    assert_eq!(inner.get(&"a".into()).await.unwrap(), None);
    store.come_back();
    store.commit(vec![], put("a")).await.unwrap();
}

#[tokio::test]
async fn a_delayed_call_takes_longer_and_works() {
    const DELAY: Duration = Duration::from_millis(30);
    let clock = Clock::system();
    let (_, store) = wrapped(FaultRates::default(), 1);
    store.script([Fault::Delay(DELAY)]);
    let start = clock.monotonic();
    store.commit(vec![], put("a")).await.unwrap();
    assert!(clock.monotonic().since(start) >= DELAY);
}

#[tokio::test]
async fn one_seed_gives_one_history() {
    async fn history(seed: u64) -> Vec<String> {
        let rates = FaultRates {
            fail_before: 0.3,
            lose_reply: 0.3,
            ..FaultRates::default()
        };
        let (_, store) = wrapped(rates, seed);
        let mut history = Vec::new();
        for _ in 0..60 {
            history.push(format!("{:?}", store.commit(vec![], put("a")).await));
        }
        history
    }
    let first = history(7).await;
    assert_eq!(first, history(7).await);
    assert_ne!(first, history(8).await);
    for kind in ["Ok", "Err(Unavailable", "Err(Unknown"] {
        let count = first.iter().filter(|outcome| outcome.starts_with(kind)).count();
        assert!((9..=36).contains(&count), "`{kind}` came {count} times of 60");
    }
}
