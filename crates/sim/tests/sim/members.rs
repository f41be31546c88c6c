//! The one membership of a cluster: leases, fences, lives that follow each other.

use std::sync::Arc;
use std::time::Duration;

use bowline_sim::{World, config, record_of};
use bowline_store::{CommitError, FaultRates, MemoryStore, Store, Write};
use bowline_stream::session::Caller;
use bowline_stream::{AppendError, GuardedStore, Log, PeerError, PromiseRequest, ReadError, wait_for_silence};
use tokio::time::sleep;

use crate::hosts::{append, create, host, numbers, read_all};

const SECOND: Duration = Duration::from_secs(1);

/// Two hosts; each takes the other for dead after two seconds.
async fn pair() -> World {
    let mut world = World::new(7, FaultRates::default(), config());
    world.add(0, 0).await;
    world.add(0, 0).await;
    world
}

async fn write(store: &GuardedStore) -> Result<(), CommitError> {
    let written = store.commit(vec![], vec![Write::Put("a".into(), "x".into())]).await;
    written.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_fenced_host_writes_nothing_until_it_has_joined_anew() {
    let world = pair().await;
    let (second, was) = (host(&world, 1), host(&world, 1).id());
    let guarded = GuardedStore::new(world.store(), second.clone());
    write(&guarded).await.expect("control: a live host writes");
    // What the host had under way when it froze reaches the store later.
    world.freeze(1);
    sleep(SECOND).await;
    write(&guarded)
        .await
        .expect("control: silence alone takes nothing away");
    sleep(SECOND * 3).await;
    let refused = write(&guarded).await.unwrap_err();
    assert!(
        matches!(&refused, CommitError::Unavailable(reason) if reason.contains("try again")),
        "{refused}"
    );
    assert!(guarded.get(&"a".into()).await.unwrap().is_some(), "reads go on");
    world.thaw(1);
    sleep(SECOND).await;
    assert!(second.id() > was, "it has joined anew");
    write(&guarded).await.expect("and writes again");
}

#[tokio::test(start_paused = true)]
async fn nobody_promises_for_an_earlier_life() {
    let world = pair().await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    let was = second.id();
    let ask = |host| PromiseRequest {
        host,
        stream: stream.clone(),
        stamp: first.now(),
    };
    second.promise(ask(was)).await.expect("control: it promises for itself");
    world.freeze(1);
    sleep(SECOND * 4).await;
    world.thaw(1);
    sleep(SECOND).await;
    let refused = second.promise(ask(was)).await;
    assert!(matches!(refused, Err(PeerError::Refused(_))), "{refused:?}");
    second.promise(ask(second.id())).await.expect("and for its new life");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_fences_nobody() {
    let world = pair().await;
    let ids = [0, 1].map(|at| host(&world, at).id());
    world.set_store_away(true);
    sleep(SECOND * 20).await;
    world.set_store_away(false);
    sleep(SECOND * 6).await;
    assert_eq!([0, 1].map(|at| host(&world, at).id()), ids);
    world.cut_off(1);
    sleep(SECOND * 6).await;
    world.set_store_away(false);
    sleep(SECOND * 2).await;
    assert!(
        host(&world, 1).id() > ids[1],
        "control: one that is away alone is fenced"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_leaving_host_owned_is_adopted_at_once() {
    for leaves in [true, false] {
        let mut world = pair().await;
        let (first, second) = (host(&world, 0), host(&world, 1));
        let stream = create(&second).await;
        append(&second, &stream, 1).await;
        world.crash(1);
        if leaves {
            second.leave().await.unwrap();
        }
        sleep(SECOND).await;
        let chains = first.stat(&stream).await.unwrap().chains;
        let is_adopted = chains.iter().all(|chain| chain.owner == first.id());
        assert_eq!(is_adopted, leaves, "control: the silence of a dead host is waited for");
        if leaves {
            append(&first, &stream, 2).await;
            assert_eq!(numbers(&read_all(&first, &stream).await), [1, 2]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_hears_of_the_next_life() {
    let world = pair().await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&second).await;
    append(&second, &stream, 1).await;
    let end = second.end(&stream).await.unwrap();
    world.freeze(1);
    sleep(SECOND * 4).await;
    append(&first, &stream, 2).await;
    let (waiting, id) = (second.clone(), stream.clone());
    let waited = tokio::spawn(async move { waiting.wait(&id, end).await });
    world.thaw(1);
    tokio::time::timeout(SECOND * 2, waited)
        .await
        .expect("it is told")
        .unwrap();
    assert_eq!(numbers(&read_all(&second, &stream).await), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_store_is_still_once_all_hosts_are_silent() {
    let mut world = pair().await;
    let lease = world.config.dead_after;
    let store = world.store();
    let mut living = wait_for_silence(&*store, lease).await.unwrap();
    living.sort();
    assert_eq!(living, ["0", "1"], "control: both live");
    world.crash(0);
    assert_eq!(wait_for_silence(&*store, lease).await.unwrap(), ["1"]);
    world.crash(1);
    assert!(wait_for_silence(&*store, lease).await.unwrap().is_empty());
    let empty: Arc<dyn Store> = Arc::new(MemoryStore::default());
    assert!(wait_for_silence(&*empty, lease).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_deleted_on_one_host_is_gone_on_all_and_its_name_is_free() {
    let world = pair().await;
    let (first, second) = (host(&world, 0), host(&world, 1));
    let stream = create(&first).await;
    for number in 0..30 {
        append(&first, &stream, number).await;
    }
    assert_eq!(read_all(&second, &stream).await.len(), 30, "control: both know it");
    let caller = Caller {
        who: "ada".to_owned(),
        request_id: "r-1".to_owned(),
    };
    second.delete(&caller, &stream).await.unwrap();
    let refused = first.append(&stream, vec![record_of(99)]).await;
    assert!(matches!(refused, Err(AppendError::NoSuchStream(_))), "{refused:?}");
    sleep(SECOND).await;
    let unread = first.end(&stream).await;
    assert!(matches!(unread, Err(ReadError::NoSuchStream(_))), "{unread:?}");
    // Made anew at once, on the other host, before the first has looked again.
    create(&second).await;
    append(&second, &stream, 100).await;
    second.delete(&caller, &stream).await.unwrap();
    create(&second).await;
    append(&first, &stream, 200).await;
    append(&second, &stream, 201).await;
    for host in [&first, &second] {
        assert_eq!(numbers(&read_all(host, &stream).await), [200, 201]);
    }
}
