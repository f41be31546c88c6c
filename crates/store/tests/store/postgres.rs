//! PostgreSQL as a shared store: many processes, lost servers, limits of time, formats, secrets.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_store::conformance::Fixture;
use bowline_store::{
    CommitError, Condition, Key, OpenPostgresError, PostgresOptions, PostgresStore, PostgresUrl, ReadError, Store,
    Version, Write,
};
use bowline_test_postgres::{PASSWORD, Server, is_installed, shared_url};
use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpStream};

use crate::fixtures::{Postgres, fresh_url, raw};
use crate::process::{self, Worker};

fn put(key: &str, value: &str) -> Write {
    Write::Put(
        Key::copy_from_slice(key.as_bytes()),
        Key::copy_from_slice(value.as_bytes()),
    )
}

/// A server of the test's own, none where PostgreSQL is not installed.
fn private() -> Option<Server> {
    if !is_installed() {
        eprintln!("SKIPPED: PostgreSQL is not installed");
        return None;
    }
    Some(Server::start().unwrap())
}

async fn connect(url: &PostgresUrl) -> PostgresStore {
    PostgresStore::connect(&PostgresOptions::new(url.clone()))
        .await
        .unwrap()
}

/// Reads until the store answers again; each round waits on the network, so this does not spin.
async fn get_when_back(store: &dyn Store, key: &str) -> Option<Key> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    loop {
        match store.get(&Key::copy_from_slice(key.as_bytes())).await {
            Ok(found) => return found.map(|entry| entry.value),
            Err(error) => assert!(clock.monotonic().since(begin) < Duration::from_secs(30), "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nodes_that_start_together_make_one_schema() {
    let Some(shared) = shared_url() else { return };
    for _ in 0..5 {
        let url = fresh_url(&shared);
        let stores = join_all((0..4).map(|_| connect(&url))).await;
        let versions = join_all(stores.iter().map(|store| store.commit(vec![], vec![put("a", "1")]))).await;
        let mut versions: Vec<_> = versions.into_iter().map(Result::unwrap).collect();
        versions.sort();
        versions.dedup();
        assert_eq!(versions.len(), 4, "all write the same tables");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let Some(shared) = shared_url() else { return };
    let url = fresh_url(&shared);
    let store = connect(&url).await;
    let client = raw(&shared).await;
    let set = format!("UPDATE {}.meta SET format = 2", url.schema());
    client.batch_execute(&set).await.unwrap();
    let error = PostgresStore::connect(&PostgresOptions::new(url.clone()))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, OpenPostgresError::NewerFormat { found: 2, known: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("start a newer build"), "{error}");
    store
        .commit(vec![], vec![put("a", "1")])
        .await
        .expect("control: what is open stays open");
    // A newer build takes the older functions away, and with them the older nodes' ways to write.
    let take = format!("DROP FUNCTION {0}.apply_1; DROP FUNCTION {0}.commit_1", url.schema());
    client.batch_execute(&take).await.unwrap();
    let refused = store.commit(vec![], vec![put("a", "2")]).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_store_of_an_earlier_build_gets_the_function_it_lacks() {
    let Some(shared) = shared_url() else { return };
    let url = fresh_url(&shared);
    let older = connect(&url).await;
    let client = raw(&shared).await;
    let drop = format!("DROP FUNCTION {}.commit_1", url.schema());
    client.batch_execute(&drop).await.unwrap();
    let refused = older.commit(vec![], vec![put("a", "1")]).await;
    assert!(refused.is_err(), "control: a single commit needs it: {refused:?}");
    let newer = connect(&url).await;
    newer.commit(vec![], vec![put("a", "2")]).await.expect("it was made");
    older.commit(vec![], vec![put("a", "3")]).await.expect("for all nodes");
}

#[tokio::test]
async fn a_store_may_be_opened_while_its_database_is_away() {
    let Some(server) = private() else { return };
    let url: PostgresUrl = server.url().parse().unwrap();
    let options = PostgresOptions::new(url);
    server.stop().unwrap();
    let strict = PostgresStore::connect(&options).await;
    assert!(matches!(strict, Err(OpenPostgresError::Unreachable { .. })), "control");
    let (store, away) = PostgresStore::connect_or_wait(&options).await.unwrap();
    assert!(away.is_some());
    let refused = store.commit(vec![], vec![put("a", "1")]).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");

    server.start_again().unwrap();
    assert_eq!(get_when_back(&store, "a").await, None, "the tables were made");
    store.commit(vec![], vec![put("a", "2")]).await.unwrap();
    assert_eq!(get_when_back(&store, "a").await, Some(Key::from("2")));
    let (_, away) = PostgresStore::connect_or_wait(&options).await.unwrap();
    assert_eq!(away, None);
}

/// Each connection rests for a while after it could not be made: one that answers stands in for those that do.
#[tokio::test]
async fn once_a_read_is_answered_again_none_is_refused() {
    let Some(server) = private() else { return };
    let url: PostgresUrl = server.url().parse().unwrap();
    let store = connect(&url).await;
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    server.stop().unwrap();
    let (clock, key) = (Clock::system(), Key::from("a"));
    let begin = clock.monotonic();
    // So long that all of them rest long.
    while clock.monotonic().since(begin) < Duration::from_secs(2) {
        let refused = store.get(&key).await;
        assert!(
            matches!(refused, Err(ReadError::Unavailable(_))),
            "control: {refused:?}"
        );
        tokio::task::yield_now().await;
    }
    server.start_again().unwrap();
    assert_eq!(get_when_back(&store, "a").await, Some(Key::from("1")));
    for read in 0..100 {
        let found = store.get(&key).await;
        assert!(found.is_ok(), "read {read}: {found:?}");
    }
}

#[tokio::test]
async fn a_store_that_is_lost_is_not_taken_for_an_empty_one() {
    let Some(server) = private() else { return };
    let url: PostgresUrl = server.url().parse().unwrap();
    let store = connect(&url).await;
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    let drop = format!("DROP SCHEMA {} CASCADE", url.schema());
    raw(&server.url()).await.batch_execute(&drop).await.unwrap();
    server.stop().unwrap();
    server.start_again().unwrap();
    for _ in 0..3 {
        let read = store.get(&Key::from("a")).await;
        assert!(read.is_err(), "an empty database was taken for the store: {read:?}");
    }
    let fresh = connect(&url).await;
    assert_eq!(
        get_when_back(&fresh, "a").await,
        None,
        "control: who opens it anew gets a new one"
    );
}

#[tokio::test]
async fn foreign_tables_are_refused_and_left_alone() {
    let Some(shared) = shared_url() else { return };
    let url = fresh_url(&shared);
    let client = raw(&shared).await;
    let make = format!("CREATE SCHEMA {0}; CREATE TABLE {0}.theirs (id int)", url.schema());
    client.batch_execute(&make).await.unwrap();
    let error = PostgresStore::connect(&PostgresOptions::new(url.clone()))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, OpenPostgresError::NotAStore { .. }), "{error}");
    let count = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1";
    let left: i64 = client.query_one(count, &[&url.schema()]).await.unwrap().get(0);
    assert_eq!(left, 1);
}

#[tokio::test]
async fn commits_that_wait_share_a_sync() {
    const COMMITS: u64 = 2000;
    let Some(fixture) = Postgres::new().await else { return };
    let store = fixture.postgres();
    for index in 0..10 {
        store
            .commit(vec![], vec![put(&format!("alone/{index}"), "x")])
            .await
            .unwrap();
    }
    let alone = store.writer_stats();
    assert_eq!(
        (alone.commits, alone.groups),
        (10, 10),
        "control: nothing waits, nothing is shared"
    );
    let commits = (0..COMMITS).map(|index| store.commit(vec![], vec![put(&format!("together/{index}"), "x")]));
    for done in join_all(commits).await {
        done.unwrap();
    }
    let together = store.writer_stats();
    assert_eq!(together.commits, 10 + COMMITS);
    assert!(together.groups - alone.groups <= COMMITS / 20, "{together:?}");
}

#[tokio::test]
async fn commits_of_one_key_keep_their_order() {
    const COMMITS: usize = 600;
    let Some(fixture) = Postgres::new().await else { return };
    let store = fixture.store();
    let commits = (0..COMMITS).map(|index| store.commit(vec![], vec![put("a", &index.to_string())]));
    let versions: Vec<Version> = join_all(commits).await.into_iter().map(Result::unwrap).collect();
    assert!(versions.is_sorted(), "versions follow the order of arrival");
    let last = store.get(&"a".into()).await.unwrap().unwrap();
    assert_eq!(last.value, (COMMITS - 1).to_string());
}

/// What a careless worker is called: it commits without conditions.
const CARELESS: &str = "careless";
const ROUNDS: usize = 60;

/// What one of several processes does: it counts, and creates two keys that must agree.
async fn work_beside_others(store: &dyn Store, name: &str) {
    let if_careful = |condition| if name == CARELESS { vec![] } else { vec![condition] };
    let mut made = 0;
    for round in 0..ROUNDS {
        loop {
            let entry = store.get(&"count".into()).await.unwrap().unwrap();
            let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            let conditions = if_careful(Condition::AtVersion("count".into(), entry.version));
            let counted = vec![put("count", &(count + 1).to_string())];
            match store.commit(conditions, counted).await {
                Ok(version) => {
                    assert!(version > entry.version);
                    break;
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let owner = format!("owner/{round}");
        let claim = store
            .commit(
                if_careful(Condition::Absent(Key::from(owner.clone()))),
                // The second key comes before the first in order, and locks must not depend on that.
                vec![put(&owner, name), put(&format!("first/{round}"), name)],
            )
            .await;
        made += usize::from(claim.is_ok());
        assert!(matches!(claim, Ok(_) | Err(CommitError::Conflict(_))), "{claim:?}");
    }
    process::say(&format!("made {made}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_one_database_lose_and_double_nothing() {
    let name = "postgres::four_processes_on_one_database_lose_and_double_nothing";
    let Some((store, made)) = work_of_four(name, ["0", "1", "2", "3"]).await else {
        return;
    };
    assert_eq!(made, ROUNDS, "each was made once");
    assert_eq!(store.get(&"count".into()).await.unwrap().unwrap().value, "240");
    for round in 0..ROUNDS {
        let of = async |key: String| store.get(&key.into()).await.unwrap().unwrap().value;
        assert_eq!(of(format!("owner/{round}")).await, of(format!("first/{round}")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_four_careless_processes_lose_and_double() {
    let name = "postgres::control_four_careless_processes_lose_and_double";
    let Some((store, made)) = work_of_four(name, [CARELESS; 4]).await else {
        return;
    };
    assert_eq!(made, 4 * ROUNDS);
    assert_ne!(store.get(&"count".into()).await.unwrap().unwrap().value, "240");
}

/// Has four processes work on one database; returns a store over it, and how many keys they say they made.
/// None in those processes themselves, and where there is no PostgreSQL.
async fn work_of_four(test: &str, names: [&str; 4]) -> Option<(Arc<dyn Store>, usize)> {
    if let Some((_, task)) = process::task() {
        let url: PostgresUrl = std::env::var("STORE").unwrap().parse().unwrap();
        work_beside_others(&connect(&url).await, &task).await;
        return None;
    }
    let fixture = Postgres::new().await?;
    let store = fixture.store();
    store.commit(vec![], vec![put("count", "0")]).await.unwrap();
    let url = full_url(&fixture);
    let folder = tempfile::tempdir().unwrap();
    let start = |name| Worker::start_with(test, folder.path(), name, ("STORE", &url));
    let mut workers = names.map(start);
    let made = workers.iter_mut().map(|worker| {
        let line = worker.next_line().expect("the worker ends its work");
        line.strip_prefix("made ").unwrap().parse::<usize>().unwrap()
    });
    let made = made.sum();
    Some((store, made))
}

fn full_url(fixture: &Postgres) -> String {
    format!("{}?schema={}", shared_url().unwrap(), fixture.options().url.schema())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_in_all_orders_never_deadlock() {
    let Some(fixture) = Postgres::new().await else { return };
    let url = &fixture.options().url;
    let stores = join_all((0..4).map(|_| connect(url))).await;
    let entropy = bowline_foundation::entropy::Entropy::seeded(3);
    for _ in 0..20 {
        let commits = stores.iter().flat_map(|store| {
            (0..8).map(|_| {
                let keys = (0..6).map(|_| entropy.number() % 20);
                // Now and then a commit is so large that it locks the whole store.
                let count = if entropy.number().is_multiple_of(16) { 300 } else { 0 };
                let more = (0..count).map(|index| put(&format!("large/{index}"), "x"));
                store.commit(vec![], keys.map(|key| put(&key.to_string(), "x")).chain(more).collect())
            })
        });
        for done in join_all(commits.collect::<Vec<_>>()).await {
            done.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judged_key_is_held_against_writers_of_other_nodes() {
    const ROUNDS: usize = 80;
    let Some(fixture) = Postgres::new().await else { return };
    let (left, right) = (fixture.store(), connect(&fixture.options().url).await);
    // Each writes its own key if the other's is absent: both at once would be write skew.
    for round in 0..ROUNDS {
        let [a, b] = ["a", "b"].map(|side| format!("{round}/{side}"));
        let absent = |key: &str| vec![Condition::Absent(Key::copy_from_slice(key.as_bytes()))];
        let (one, two) = futures_util::join!(
            left.commit(absent(&b), vec![put(&a, "x")]),
            right.commit(absent(&a), vec![put(&b, "x")])
        );
        assert!(one.is_ok() != two.is_ok(), "round {round}: {one:?} and {two:?}");
    }
    let (one, two) = futures_util::join!(
        left.commit(vec![], vec![put("a", "x")]),
        right.commit(vec![], vec![put("b", "x")])
    );
    assert!(one.is_ok() && two.is_ok(), "control: without conditions both write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_has_all_that_was_acknowledged() {
    let Some(server) = private() else { return };
    let store = Arc::new(connect(&server.url().parse().unwrap()).await);
    let (mut unknown, mut refused) = (0, 0);
    for round in 0..6 {
        let lanes = (0..8).map(|lane| tokio::spawn(write_until_it_fails(Arc::clone(&store), round, lane)));
        let lanes: Vec<_> = lanes.collect();
        while store.writer_stats().commits < 20 * (round + 1) {
            tokio::task::yield_now().await;
        }
        if round % 2 == 0 { server.crash() } else { server.stop() }.unwrap();
        let mut ends = Vec::new();
        for lane in lanes {
            ends.push(lane.await.unwrap());
        }
        assert!(matches!(store.get(&"a".into()).await, Err(ReadError::Unavailable(_))));
        server.start_again().unwrap();
        for (lane, (acknowledged, error)) in ends.into_iter().enumerate() {
            for number in 0..acknowledged {
                let found = get_when_back(&*store, &format!("{round}/{lane}/{number}")).await;
                assert!(found.is_some(), "{round}/{lane}/{number} was acknowledged");
            }
            let next = get_when_back(&*store, &format!("{round}/{lane}/{acknowledged}")).await;
            match error {
                CommitError::Unknown(_) => unknown += 1,
                CommitError::Unavailable(_) => {
                    refused += 1;
                    assert_eq!(next, None, "{round}/{lane}: said to be not applied");
                }
                error => panic!("{error}"),
            }
        }
    }
    assert!(
        unknown > 0,
        "control: some were in flight ({unknown} unknown, {refused} refused)"
    );
}

/// Commits numbers until one fails; returns how many were acknowledged.
async fn write_until_it_fails(store: Arc<PostgresStore>, round: u64, lane: usize) -> (usize, CommitError) {
    for number in 0.. {
        let written = store
            .commit(vec![], vec![put(&format!("{round}/{lane}/{number}"), "x")])
            .await;
        if let Err(error) = written {
            return (number, error);
        }
    }
    unreachable!("the numbers do not end before the server does")
}

/// A way to the server that can be frozen: bytes are then kept, and no end of the connection is told.
async fn freezable(port: u16) -> (u16, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let mut frozen = frozen.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                    () = async { drop(frozen.wait_for(|frozen| *frozen).await) } => std::future::pending().await,
                }
            });
        }
    });
    (own, freeze)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let Some(fixture) = Postgres::new().await else { return };
    let port = shared_url()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let (own, freeze) = freezable(port.parse().unwrap()).await;
    let url = full_url(&fixture).replace(&format!(":{port}/"), &format!(":{own}/"));
    let options = PostgresOptions {
        connect_limit: Duration::from_millis(500),
        statement_limit: Duration::from_millis(500),
        ..PostgresOptions::new(url.parse().unwrap())
    };
    let store = PostgresStore::connect(&options).await.unwrap();
    store
        .commit(vec![], vec![put("a", "1")])
        .await
        .expect("control: nothing is frozen yet");
    store.get(&"a".into()).await.unwrap();
    freeze.send(true).unwrap();
    let clock = Clock::system();
    let begin = clock.monotonic();
    let (commit, get) = futures_util::join!(store.commit(vec![], vec![put("a", "2")]), async {
        store.get(&"a".into()).await
    });
    assert!(matches!(commit, Err(CommitError::Unknown(_))), "{commit:?}");
    assert!(matches!(get, Err(ReadError::Unavailable(_))), "{get:?}");
    assert!(clock.monotonic().since(begin) < Duration::from_secs(5));
    freeze.send(false).unwrap();
    assert!(get_when_back(&store, "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_waits_for_foreign_locks_only_so_long() {
    let Some(fixture) = Postgres::new().await else { return };
    let options = PostgresOptions {
        lock_wait_limit: Duration::from_millis(200),
        ..fixture.options().clone()
    };
    let store = PostgresStore::connect(&options).await.unwrap();
    let client = raw(&shared_url().unwrap()).await;
    let hold = format!("BEGIN; LOCK TABLE {}.entries IN EXCLUSIVE MODE", options.url.schema());
    client.batch_execute(&hold).await.unwrap();
    let refused = store.commit(vec![], vec![put("a", "1")]).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
    assert_eq!(store.get(&"a".into()).await.unwrap(), None);
    client.batch_execute("ROLLBACK").await.unwrap();
    store
        .commit(vec![], vec![put("a", "1")])
        .await
        .expect("control: nobody holds the lock");
}

#[tokio::test]
async fn an_acknowledgement_is_synced_whatever_the_database_says() {
    let Some(server) = private() else { return };
    let client = raw(&server.url()).await;
    client
        .batch_execute("ALTER DATABASE postgres SET synchronous_commit = off")
        .await
        .unwrap();
    client
        .batch_execute("ALTER ROLE bowline SET default_transaction_isolation = 'serializable'")
        .await
        .unwrap();
    let plain = raw(&server.url())
        .await
        .query_one("SHOW synchronous_commit", &[])
        .await
        .unwrap();
    assert_eq!(plain.get::<_, String>(0), "off", "control: others are not synced");
    let store = connect(&server.url().parse().unwrap()).await;
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    let refused = format!("{}?options=-c%20synchronous_commit%3Doff", server.url());
    let store = connect(&refused.parse().unwrap()).await;
    store
        .commit(vec![], vec![put("a", "2")])
        .await
        .expect("ours comes last");
}

#[tokio::test]
async fn the_password_is_in_no_error() {
    let Some(server) = private() else { return };
    let wrong = server.url().replace(PASSWORD, "not-the-password");
    let gone = server.url().replace(&server.port().to_string(), "1");
    let nowhere = server.url().replace("127.0.0.1", "no-such-host.invalid");
    for (url, secret) in [(wrong, "not-the-password"), (gone, PASSWORD), (nowhere, PASSWORD)] {
        let options = PostgresOptions::new(url.parse().unwrap());
        let error = PostgresStore::connect(&options).await.err().unwrap();
        assert!(matches!(
            error,
            OpenPostgresError::Unreachable { .. } | OpenPostgresError::Refused { .. }
        ));
        for shown in [error.to_string(), format!("{error:?}"), format!("{options:?}")] {
            assert!(!shown.contains(secret), "{shown}");
            assert!(shown.contains("bowline@"), "control: the address is there: {shown}");
        }
    }
}
