//! Membership over every store: numbers, leases, silence, fences, lost answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_store::conformance::Fixture;
use bowline_store::member::{
    FenceError, GuardedStore, JoinError, LEASE_DEFAULT, MemberOptions, Membership, RenewError, RowError, Watch, fence,
    members,
};
use bowline_store::{CommitError, Fault, FaultRates, FaultyStore, Key, MemoryStore, Store, Write};
use futures_util::future::join_all;

use crate::fixtures::{Postgres, Sqlite};

fn clock() -> Clock {
    Clock::fake(Timestamp::from_micros(1_000_000))
}

async fn join(store: &Arc<dyn Store>, clock: &Clock) -> Result<Membership, JoinError> {
    let options = MemberOptions {
        name: "node:9000".to_owned(),
        lease: LEASE_DEFAULT,
    };
    Membership::join(Arc::clone(store), clock.clone(), options).await
}

fn write() -> Vec<Write> {
    vec![Write::Put("a".into(), "x".into())]
}

fn faulty() -> (Arc<FaultyStore>, Arc<dyn Store>) {
    let store = FaultyStore::new(
        Arc::new(MemoryStore::default()),
        FaultRates::default(),
        Entropy::seeded(1),
    );
    let store = Arc::new(store);
    (Arc::clone(&store), store)
}

/// A member falls silent, is fenced, and writes no more; one that renews goes on.
async fn the_silent_are_fenced_and_write_no_more(store: Arc<dyn Store>) {
    let clock = clock();
    let (silent, lively) = (join(&store, &clock).await.unwrap(), join(&store, &clock).await.unwrap());
    let guard = silent.guard().unwrap();
    store
        .commit(vec![guard.clone()], write())
        .await
        .expect("control: a member writes");
    let mut watch = Watch::new(Arc::clone(&store), clock.clone());
    let mut fenced = Vec::new();
    for _ in 0..5 {
        for member in watch.silent().await.unwrap() {
            fence(&*store, &member).await.unwrap();
            fenced.push(member.host);
        }
        clock.advance(lively.renewal_interval());
        lively.renew().await.unwrap();
    }
    assert_eq!(fenced, [silent.host()]);
    let refused = store.commit(vec![guard], write()).await.unwrap_err();
    assert!(silent.is_fenced_by(&refused), "{refused}");
    assert!(matches!(silent.renew().await, Err(RenewError::Fenced(_))));
    store
        .commit(vec![], write())
        .await
        .expect("control: only the guard refuses it");
    store
        .commit(vec![lively.guard().unwrap()], write())
        .await
        .expect("control: the other writes on");
    let left = members(&*store).await.unwrap();
    assert_eq!(
        left.iter().map(|member| member.host).collect::<Vec<_>>(),
        [lively.host()]
    );
}

#[tokio::test]
async fn the_silent_are_fenced_in_memory() {
    the_silent_are_fenced_and_write_no_more(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn the_silent_are_fenced_on_sqlite() {
    the_silent_are_fenced_and_write_no_more(Sqlite::new().store()).await;
}

#[tokio::test]
async fn the_silent_are_fenced_on_postgres() {
    let Some(fixture) = Postgres::new().await else { return };
    the_silent_are_fenced_and_write_no_more(fixture.store()).await;
}

async fn numbers_are_given_once(store: Arc<dyn Store>) {
    let clock = clock();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let together = join_all((0..8).map(|_| join(&store, &clock))).await;
        for member in together {
            let member = member.unwrap();
            assert!(seen.insert(member.host()), "{:?} was given twice", member.host());
            member.leave().await.unwrap();
            member.leave().await.expect("leaving again changes nothing");
        }
    }
    assert_eq!(members(&*store).await.unwrap(), []);
}

#[tokio::test]
async fn numbers_are_given_once_in_memory() {
    numbers_are_given_once(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn numbers_are_given_once_on_postgres() {
    let Some(fixture) = Postgres::new().await else { return };
    numbers_are_given_once(fixture.store()).await;
}

#[tokio::test]
async fn a_lapsed_member_stops_by_itself_before_it_may_be_fenced() {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::default()), clock());
    let member = join(&store, &clock).await.unwrap();
    let mut watch = Watch::new(Arc::clone(&store), clock.clone());
    assert_eq!(watch.silent().await.unwrap(), []);
    clock.advance(LEASE_DEFAULT - Duration::from_micros(1));
    member.guard().expect("control: the lease still runs");
    clock.advance(Duration::from_micros(1));
    member.guard().expect_err("the lease is over");
    assert_eq!(
        watch.silent().await.unwrap(),
        [],
        "others wait longer than the member itself"
    );
    member.renew().await.unwrap();
    member.guard().expect("nobody had fenced it");
}

#[tokio::test]
async fn a_fence_that_comes_too_late_changes_nothing() {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::default()), clock());
    let member = join(&store, &clock).await.unwrap();
    let mut watch = Watch::new(Arc::clone(&store), clock.clone());
    watch.silent().await.unwrap();
    clock.advance(2 * LEASE_DEFAULT);
    let silent = watch.silent().await.unwrap();
    assert_eq!(silent.len(), 1, "control: it was silent");
    member.renew().await.unwrap();
    assert!(matches!(fence(&*store, &silent[0]).await, Err(FenceError::Alive(_))));
    store.commit(vec![member.guard().unwrap()], write()).await.unwrap();
    assert_eq!(watch.silent().await.unwrap(), [], "the renewal was seen");
}

#[tokio::test]
async fn lost_answers_end_no_membership_and_give_no_number_twice() {
    let (faults, store) = faulty();
    let clock = clock();
    let lose_the_commit = [Fault::None, Fault::LoseReply];
    faults.script(lose_the_commit);
    let lost = join(&store, &clock).await.err().unwrap();
    assert!(matches!(lost, JoinError::Commit(CommitError::Unknown(_))), "{lost}");
    let member = join(&store, &clock).await.unwrap();
    assert_eq!(member.host().0, 2, "the first number is gone");
    faults.script([Fault::LoseReply]);
    assert!(matches!(
        member.renew().await,
        Err(RenewError::Commit(CommitError::Unknown(_)))
    ));
    member
        .renew()
        .await
        .expect("the renewal whose answer was lost is in the way of none");
    let all = members(&*store).await.unwrap();
    assert_eq!(all.len(), 2);
    faults.script([Fault::LoseReply]);
    fence(&*store, &all[0])
        .await
        .expect("what is gone is fenced, whatever became of the answer");
    fence(&*store, &all[0]).await.expect("once more changes nothing");
    faults.script([Fault::FailBefore]);
    assert!(matches!(fence(&*store, &all[1]).await, Err(FenceError::Commit(_))));
    assert_eq!(members(&*store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::default()), clock());
    let newer = vec![Write::Put("cluster/hosts".into(), Key::from_static(b"\x02later"))];
    store.commit(vec![], newer).await.unwrap();
    let error = join(&store, &clock).await.err().unwrap();
    assert!(
        matches!(error, JoinError::Row(RowError::NewerFormat { found: 2, .. })),
        "{error}"
    );
}

/// A member that is fenced writes nothing until it has joined anew, and reads all the time.
#[tokio::test(start_paused = true)]
async fn a_guarded_store_refuses_what_a_fenced_member_writes() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let clock = clock();
    let options = MemberOptions {
        name: "node:9000".to_owned(),
        lease: LEASE_DEFAULT,
    };
    let guarded = GuardedStore::join(Arc::clone(&store), clock.clone(), options)
        .await
        .unwrap();
    let guarded = Arc::new(guarded);
    guarded.commit(vec![], write()).await.expect("control: a member writes");

    let own = members(&*store).await.unwrap().remove(0);
    fence(&*store, &own).await.unwrap();
    let refused = guarded.commit(vec![], write()).await.unwrap_err();
    assert!(
        matches!(&refused, CommitError::Unavailable(reason) if reason.contains("fenced")),
        "{refused}"
    );
    assert!(guarded.get(&"a".into()).await.unwrap().is_some(), "it still reads");

    let keeping = tokio::spawn({
        let guarded = Arc::clone(&guarded);
        async move { guarded.keep().await }
    });
    let before = own.host;
    while guarded.host() == before {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    guarded.commit(vec![], write()).await.expect("it has joined anew");
    keeping.abort();

    clock.advance(LEASE_DEFAULT);
    let refused = guarded.commit(vec![], write()).await.unwrap_err();
    assert!(
        matches!(&refused, CommitError::Unavailable(reason) if reason.contains("run out")),
        "{refused}"
    );
}
