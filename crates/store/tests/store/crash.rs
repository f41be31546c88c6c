//! A process that commits is killed at any moment: what it acknowledged is there, and nothing is half.
//!
//! The child says `opening`, then `ack LANE NUMBER` for every commit that returned. Commits of a lane
//! are numbered and write four keys each, so that a lost one and a torn one both show. Two children that
//! break the rules on purpose show that the checks can fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_store::{Key, PostgresOptions, PostgresStore, SqliteStore, Store, Write};
use bytes::Bytes;

use crate::fixtures::{fresh_url, raw};
use crate::process::{self, Worker};

const LANES: usize = 6;
const ROUNDS: usize = 30;
/// Most acknowledgements that are awaited before a child is killed.
const ACKS_BEFORE_KILL_MAX: u64 = 150;
/// How many commits ahead the early control acknowledges.
const EARLY_BY: u64 = 3;
const PARTS: [&str; 3] = ["a", "b", "c"];

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let name = "crash::a_killed_process_loses_nothing_acknowledged";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::Sound);
    }
    let faults = kill_again_and_again(name, 1);
    assert_eq!(faults, Faults::default());
}

#[test]
fn a_killed_client_of_postgres_loses_nothing_acknowledged() {
    let name = "crash::a_killed_client_of_postgres_loses_nothing_acknowledged";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::Sound);
    }
    if let Some(folder) = postgres_folder() {
        let faults = kill_in(folder.path(), name, 1);
        assert_eq!(faults, Faults::default());
    }
}

#[test]
fn control_an_early_acknowledgement_over_postgres_is_found_out() {
    let name = "crash::control_an_early_acknowledgement_over_postgres_is_found_out";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::AcknowledgesEarly);
    }
    if let Some(folder) = postgres_folder() {
        assert!(kill_in(folder.path(), name, 2).lost > 0);
    }
}

#[test]
fn control_a_commit_in_two_parts_over_postgres_is_found_out() {
    let name = "crash::control_a_commit_in_two_parts_over_postgres_is_found_out";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::InTwoParts);
    }
    if let Some(folder) = postgres_folder() {
        assert!(kill_in(folder.path(), name, 3).torn > 0);
    }
}

#[test]
fn control_an_early_acknowledgement_is_found_out() {
    let name = "crash::control_an_early_acknowledgement_is_found_out";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::AcknowledgesEarly);
    }
    assert!(kill_again_and_again(name, 2).lost > 0);
}

#[test]
fn control_a_commit_in_two_parts_is_found_out() {
    let name = "crash::control_a_commit_in_two_parts_is_found_out";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::InTwoParts);
    }
    assert!(kill_again_and_again(name, 3).torn > 0);
}

#[test]
fn a_process_killed_while_it_makes_the_database_leaves_a_usable_one() {
    let name = "crash::a_process_killed_while_it_makes_the_database_leaves_a_usable_one";
    if let Some((folder, _)) = process::task() {
        return commit_forever(&folder, Manner::Sound);
    }
    let entropy = Entropy::seeded(4);
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = Worker::start(name, folder.path(), "");
        assert_eq!(worker.next_line().as_deref(), Some("opening"));
        // The time that opening takes is some thousand turns of this loop.
        (0..entropy.number() % 2_000_000).for_each(|turn| {
            std::hint::black_box(turn);
        });
        let mut acknowledged = BTreeMap::new();
        note(&mut acknowledged, worker.kill());
        let faults = inspect(folder.path(), &acknowledged);
        assert_eq!(faults, Faults::default(), "round {round}");
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Sound,
    AcknowledgesEarly,
    InTwoParts,
}

/// What an inspection found wrong.
#[derive(Debug, Default, PartialEq)]
struct Faults {
    /// Acknowledged commits that are not there.
    lost: usize,
    /// Commits that are there in part.
    torn: usize,
}

/// The name of the file, in a test's folder, that says that the store is a PostgreSQL schema, and which.
const POSTGRES: &str = "postgres";

/// A folder whose store is a schema of its own; none where there is no PostgreSQL.
fn postgres_folder() -> Option<tempfile::TempDir> {
    let shared = bowline_test_postgres::shared_url()?;
    let schema = fresh_url(&shared).schema().to_owned();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(POSTGRES),
        format!("{shared}?schema={schema}&application_name={schema}"),
    )
    .unwrap();
    Some(folder)
}

async fn open(folder: &Path) -> Arc<dyn Store> {
    let Ok(url) = std::fs::read_to_string(folder.join(POSTGRES)) else {
        return Arc::new(SqliteStore::open(&folder.join("data/bowline.db")).unwrap());
    };
    let options = PostgresOptions::new(url.parse().unwrap());
    wait_for_the_dead(&url, options.url.schema()).await;
    Arc::new(PostgresStore::connect(&options).await.unwrap())
}

/// Waits until the server has noticed that a killed client is gone: until then the client's last commit
/// may still be on its way, and be seen by one read and not by the one before.
async fn wait_for_the_dead(url: &str, name: &str) {
    const THEIRS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let client = raw(url.split('?').next().unwrap()).await;
    while client.query_one(THEIRS, &[&name]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn kill_again_and_again(name: &str, seed: u64) -> Faults {
    let folder = tempfile::tempdir().unwrap();
    kill_in(folder.path(), name, seed)
}

fn kill_in(folder: &Path, name: &str, seed: u64) -> Faults {
    let entropy = Entropy::seeded(seed);
    let mut found = Faults::default();
    let mut acknowledged = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut worker = Worker::start(name, folder, "");
        for _ in 0..entropy.number() % ACKS_BEFORE_KILL_MAX {
            note(&mut acknowledged, worker.next_line());
        }
        note(&mut acknowledged, worker.kill());
        let faults = inspect(folder, &acknowledged);
        found.lost += faults.lost;
        found.torn += faults.torn;
    }
    assert!(acknowledged.len() == LANES, "every lane got on: {acknowledged:?}");
    found
}

/// Takes down the last number that each lane acknowledged.
fn note(acknowledged: &mut BTreeMap<String, u64>, lines: impl IntoIterator<Item = String>) {
    for line in lines {
        if let ["ack", lane, number] = line.split(' ').collect::<Vec<_>>()[..] {
            acknowledged.insert(lane.to_owned(), number.parse().unwrap());
        }
    }
}

/// Opens what the dead left behind, as the next process would.
fn inspect(folder: &Path, acknowledged: &BTreeMap<String, u64>) -> Faults {
    block_on(async {
        let store = open(folder).await;
        let mut faults = Faults::default();
        for lane in 0..LANES {
            let last = last_of(&*store, lane).await;
            let promised = acknowledged.get(&lane.to_string()).copied().unwrap_or(0);
            faults.lost += usize::from(last < promised);
            for number in 1..=last.max(promised) {
                let prefix = Key::from(format!("lane/{lane}/{number}/"));
                let parts = store.scan(&prefix, None, 9).await.unwrap();
                let whole = parts
                    .iter()
                    .filter(|(_, entry)| entry.value == number.to_string())
                    .count();
                faults.lost += usize::from(parts.is_empty() && number <= promised);
                faults.torn += usize::from(!parts.is_empty() && whole < PARTS.len());
                faults.torn += usize::from(parts.is_empty() && number <= last);
            }
            // What is beyond the last number must not be there at all.
            let beyond = Key::from(format!("lane/{lane}/{}/", last + 1));
            faults.torn += usize::from(!store.scan(&beyond, None, 1).await.unwrap().is_empty());
        }
        faults
    })
}

async fn last_of(store: &dyn Store, lane: usize) -> u64 {
    let entry = store.get(&Key::from(format!("last/{lane}"))).await.unwrap();
    entry.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

fn commit_forever(folder: &Path, manner: Manner) {
    process::say("opening");
    block_on(async {
        let store = open(folder).await;
        let lanes = (0..LANES).map(|lane| tokio::spawn(run_lane(Arc::clone(&store), lane, manner)));
        futures_util::future::join_all(lanes).await;
    });
}

async fn run_lane(store: Arc<dyn Store>, lane: usize, manner: Manner) {
    let first = last_of(&*store, lane).await + 1;
    for number in first.. {
        let value = Bytes::from(number.to_string());
        let mut writes: Vec<Write> = PARTS
            .iter()
            .map(|part| Write::Put(format!("lane/{lane}/{number}/{part}").into(), value.clone()))
            .collect();
        writes.push(Write::Put(format!("last/{lane}").into(), value));
        if manner == Manner::AcknowledgesEarly {
            process::say(&format!("ack {lane} {}", number + EARLY_BY));
        }
        if manner == Manner::InTwoParts {
            store.commit(vec![], writes.drain(..2).collect()).await.unwrap();
        }
        store.commit(vec![], writes).await.unwrap();
        if manner != Manner::AcknowledgesEarly {
            process::say(&format!("ack {lane} {number}"));
        }
    }
}
