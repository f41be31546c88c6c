//! Random histories against a plain map: every answer of a store must be the map's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_foundation::entropy::Entropy;
use bowline_store::conformance::Fixture;
use bowline_store::{CommitError, Condition, FaultRates, FaultyStore, Key, ReadError, Store, Version, Write};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::controls::{Flaw, Flawed};
use crate::fixtures::{Lasting, Postgres, Sqlite};

/// One step of a history. Conditions speak of what the key was when the step comes.
#[derive(Clone, Debug)]
enum Step {
    Get(Key),
    Scan {
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    },
    Commit {
        conditions: Vec<Expect>,
        writes: Vec<Write>,
    },
    Reopen,
}

#[derive(Clone, Debug)]
enum Expect {
    Absent(Key),
    Current(Key),
    Former(Key),
}

fn any_key() -> impl Strategy<Value = Key> {
    vec(prop_oneof![Just(0x00), Just(b'a'), Just(0xff)], 0..=2).prop_map(Bytes::from)
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (any_key(), vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Write::Put(key, value.into())),
        1 => any_key().prop_map(Write::Delete),
    ]
}

fn any_expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        2 => any_key().prop_map(Expect::Absent),
        4 => any_key().prop_map(Expect::Current),
        1 => any_key().prop_map(Expect::Former),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_key().prop_map(Step::Get),
        4 => (any_key(), proptest::option::of(any_key()), 0usize..6)
            .prop_map(|(prefix, after, limit)| Step::Scan { prefix, after, limit }),
        8 => (vec(any_expect(), 0..3), vec(any_write(), 0..4))
            .prop_map(|(conditions, writes)| Step::Commit { conditions, writes }),
        1 => Just(Step::Reopen),
    ]
}

/// The map that a store is compared with.
#[derive(Clone, Default)]
struct Model {
    entries: BTreeMap<Key, (Bytes, Version)>,
    greatest: u64,
}

impl Model {
    fn version(&self, key: &Key) -> Option<Version> {
        self.entries.get(key).map(|(_, version)| *version)
    }

    fn condition(&self, expect: &Expect) -> Condition {
        match expect {
            Expect::Absent(key) => Condition::Absent(key.clone()),
            Expect::Current(key) => match self.version(key) {
                Some(version) => Condition::AtVersion(key.clone(), version),
                None => Condition::Absent(key.clone()),
            },
            Expect::Former(key) => {
                let version = self.version(key).map_or(self.greatest, |version| version.0 - 1);
                Condition::AtVersion(key.clone(), Version(version))
            }
        }
    }

    fn first_broken(&self, conditions: &[Condition]) -> Option<Key> {
        let broken = conditions.iter().find(|condition| match condition {
            Condition::Absent(key) => self.entries.contains_key(key),
            Condition::AtVersion(key, version) => self.version(key) != Some(*version),
        });
        broken.map(|condition| condition.key().clone())
    }

    fn apply(&mut self, writes: &[Write], version: Version) {
        self.greatest = version.0;
        for write in writes {
            match write {
                Write::Put(key, value) => drop(self.entries.insert(key.clone(), (value.clone(), version))),
                Write::Delete(key) => drop(self.entries.remove(key)),
            }
        }
    }

    fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Vec<(Key, Bytes, Version)> {
        let matching = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| *key > after));
        matching
            .take(limit)
            .map(|(key, (value, version))| (key.clone(), value.clone(), *version))
            .collect()
    }
}

async fn scan(
    store: &dyn Store,
    prefix: &Key,
    after: Option<&Key>,
    limit: usize,
) -> Option<Vec<(Key, Bytes, Version)>> {
    match store.scan(prefix, after, limit).await {
        Ok(found) => Some(
            found
                .into_iter()
                .map(|(key, entry)| (key, entry.value, entry.version))
                .collect(),
        ),
        Err(ReadError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Takes the steps on the fixture's store through `wrap`; returns how many commits left their fate open.
async fn follow(fixture: &mut dyn Fixture, wrap: fn(Arc<dyn Store>) -> Arc<dyn Store>, steps: &[Step]) -> usize {
    let mut model = Model::default();
    let mut unknown = 0;
    let mut store = wrap(fixture.store());
    for step in steps {
        match step {
            Step::Get(key) => match store.get(key).await {
                Ok(found) => assert_eq!(
                    found.map(|entry| (entry.value, entry.version)),
                    model.entries.get(key).cloned()
                ),
                Err(ReadError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            },
            Step::Scan { prefix, after, limit } => {
                if let Some(found) = scan(&*store, prefix, after.as_ref(), *limit).await {
                    assert_eq!(found, model.scan(prefix, after.as_ref(), *limit));
                }
            }
            Step::Commit { conditions, writes } => {
                let conditions: Vec<_> = conditions.iter().map(|expect| model.condition(expect)).collect();
                let outcome = store.commit(conditions.clone(), writes.clone()).await;
                unknown += usize::from(matches!(outcome, Err(CommitError::Unknown(_))));
                judge(&mut model, &*fixture.store(), outcome, (&conditions, writes)).await;
            }
            Step::Reopen => {
                drop(store);
                fixture.reopen().await;
                store = wrap(fixture.store());
            }
        }
    }
    let left = scan(&*fixture.store(), &Key::new(), None, usize::MAX).await;
    assert_eq!(left, Some(model.scan(&Key::new(), None, usize::MAX)));
    unknown
}

/// Checks the outcome of a commit and carries the model on. `truth` is the store without faults.
async fn judge(
    model: &mut Model,
    truth: &dyn Store,
    outcome: Result<Version, CommitError>,
    (conditions, writes): (&[Condition], &[Write]),
) {
    match (outcome, model.first_broken(conditions)) {
        (Ok(version), None) => {
            assert!(version.0 > model.greatest, "{version:?} after {}", model.greatest);
            model.apply(writes, version);
        }
        (Err(CommitError::Conflict(found)), Some(broken)) => assert_eq!(found, broken),
        (Err(CommitError::Unavailable(_)), _) => {}
        (Err(CommitError::Unknown(_)), broken) => {
            let now = scan(truth, &Key::new(), None, usize::MAX).await.unwrap();
            let version = now.iter().map(|(_, _, version)| *version).max();
            if broken.is_none()
                && let Some(version) = version.filter(|version| version.0 > model.greatest)
            {
                model.apply(writes, version);
            } else if broken.is_none() {
                // Only deletions: they show by what is gone, and their version was given to nothing.
                model.apply(writes, Version(model.greatest));
            }
            assert_eq!(now, model.scan(&Key::new(), None, usize::MAX), "not wholly applied");
        }
        (outcome, broken) => panic!("{outcome:?}, where the broken condition is {broken:?}"),
    }
}

fn run(fixture: &mut dyn Fixture, wrap: fn(Arc<dyn Store>) -> Arc<dyn Store>, steps: &[Step]) -> usize {
    runtime().block_on(follow(fixture, wrap, steps))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Takes the steps on a fresh schema; returns how many commits left their fate open.
fn run_on_postgres(wrap: fn(Arc<dyn Store>) -> Arc<dyn Store>, steps: &[Step]) -> usize {
    runtime().block_on(async {
        match Postgres::new().await {
            Some(mut fixture) => follow(&mut fixture, wrap, steps).await,
            None => 0,
        }
    })
}

fn bare(store: Arc<dyn Store>) -> Arc<dyn Store> {
    store
}

fn failing(store: Arc<dyn Store>) -> Arc<dyn Store> {
    let rates = FaultRates {
        fail_before: 0.2,
        lose_reply: 0.3,
        ..FaultRates::default()
    };
    Arc::new(FaultyStore::new(store, rates, Entropy::seeded(5)))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(256))]
    #[test]
    fn memory_agrees_with_the_model(steps in vec(any_step(), 0..60)) {
        run(&mut Lasting::memory(), bare, &steps);
    }
}

proptest! {
    #![proptest_config(config(48))]
    #[test]
    fn sqlite_agrees_with_the_model(steps in vec(any_step(), 0..60)) {
        run(&mut Sqlite::new(), bare, &steps);
    }
}

proptest! {
    #![proptest_config(config(32))]
    #[test]
    fn postgres_agrees_with_the_model(steps in vec(any_step(), 0..60)) {
        run_on_postgres(bare, &steps);
    }
}

proptest! {
    #![proptest_config(config(24))]
    #[test]
    fn a_failing_postgres_agrees_with_the_model(steps in vec(any_step(), 0..60)) {
        run_on_postgres(failing, &steps);
    }
}

#[test]
fn failing_stores_agree_with_the_model() {
    let unknown = AtomicUsize::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(config(256));
    let outcome = runner.run(&vec(any_step(), 0..60), |steps| {
        unknown.fetch_add(run(&mut Lasting::memory(), failing, &steps), Ordering::Relaxed);
        Ok(())
    });
    outcome.unwrap();
    assert!(unknown.into_inner() > 100, "control: replies were lost");
}

#[test]
fn control_flawed_stores_disagree_with_the_model() {
    for flaw in Flaw::VISIBLE_ALONE {
        let mut runner = proptest::test_runner::TestRunner::new(config(512));
        let outcome = runner.run(&vec(any_step(), 0..60), |steps| {
            let agreed = std::panic::catch_unwind(|| run(&mut Lasting::new(Flawed::new(flaw)), bare, &steps));
            agreed.map(drop).map_err(|_| TestCaseError::fail("disagrees"))
        });
        assert!(outcome.is_err(), "{flaw:?} went unnoticed");
    }
}

#[test]
fn control_the_flawless_twin_agrees_with_the_model() {
    let mut runner = proptest::test_runner::TestRunner::new(config(64));
    let outcome = runner.run(&vec(any_step(), 0..60), |steps| {
        run(&mut Lasting::new(Flawed::new(Flaw::None)), bare, &steps);
        Ok(())
    });
    outcome.unwrap();
}
