//! Opening a database: folders, the lock, formats, grouping of commits.

use std::fs;

use bowline_store::conformance::Fixture;
use bowline_store::{CommitError, Key, OpenError, SqliteStore, Store, Write};
use futures_util::future::join_all;

use crate::fixtures::Sqlite;
use crate::process::{self, Worker};

fn put(key: &str) -> Vec<Write> {
    vec![Write::Put(Key::copy_from_slice(key.as_bytes()), "value".into())]
}

#[test]
fn missing_folders_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not/yet/there.db");
    SqliteStore::open(&path).unwrap();
    assert!(path.is_file());
}

#[test]
fn a_second_process_is_refused_with_the_path_and_the_holder() {
    let name = "opening::a_second_process_is_refused_with_the_path_and_the_holder";
    if let Some((folder, _)) = process::task() {
        let _store = SqliteStore::open(&folder.join("bowline.db")).unwrap();
        process::say("open");
        return process::wait_for_parent();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bowline.db");
    let mut worker = Worker::start(name, folder.path(), "");
    assert_eq!(worker.next_line().as_deref(), Some("open"));
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(
        matches!(&error, OpenError::InUse { holder, .. } if *holder == Some(worker.id())),
        "{error}"
    );
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    worker.kill();
    SqliteStore::open(&path).expect("a dead process holds nothing");
}

#[test]
fn a_second_store_of_the_same_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bowline.db");
    let first = SqliteStore::open(&path).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(OpenError::InUse { .. })));
    drop(first);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bowline.db");
    drop(SqliteStore::open(&path).unwrap());
    rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 2)
        .unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    fs::write(
        &text,
        "this is no database, and it is long enough to have a header of its own",
    )
    .unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (id)")
        .unwrap();
    for path in [text, foreign] {
        let before = fs::read(&path).unwrap();
        let error = SqliteStore::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before, "{}", path.display());
    }
}

#[tokio::test]
async fn a_database_of_format_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bowline.db");
    fs::write(&path, include_bytes!("format-1.db")).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let entries = store.scan(&Key::new(), None, 9).await.unwrap();
    let found: Vec<_> = entries
        .iter()
        .map(|(key, entry)| (&key[..], &entry.value[..], entry.version.0))
        .collect();
    assert_eq!(
        found,
        [(&b"a"[..], &b"one"[..], 1), (&b"\xff\x00"[..], &b"\x00\xff"[..], 3)]
    );
    let next = store.commit(vec![], put("b")).await.unwrap();
    assert_eq!(next.0, 5, "the deletion had version 4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_share_a_sync() {
    const COMMITS: u64 = 2000;
    let fixture = Sqlite::new();
    let store = fixture.store();
    for index in 0..10 {
        store.commit(vec![], put(&format!("alone/{index}"))).await.unwrap();
    }
    let alone = fixture.sqlite().writer_stats();
    assert_eq!(
        (alone.commits, alone.groups),
        (10, 10),
        "control: nothing waits, nothing is shared"
    );
    let commits = (0..COMMITS).map(|index| store.commit(vec![], put(&format!("together/{index}"))));
    for done in join_all(commits).await {
        done.unwrap();
    }
    let together = fixture.sqlite().writer_stats();
    assert_eq!(together.commits, 10 + COMMITS);
    assert!(together.groups - alone.groups <= COMMITS / 20, "{together:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn more_than_may_wait_is_refused_not_kept() {
    use bowline_store::limits::{VALUE_BYTES_MAX, WAITING_BYTES_MAX};
    let fixture = Sqlite::new();
    let store = fixture.store();
    let value = bytes::Bytes::from(vec![0; VALUE_BYTES_MAX]);
    let large = |index: usize| vec![Write::Put(Key::from(format!("large/{index}")), value.clone())];
    // All are sent before the first answer can free its place.
    let commits = (0..2 * WAITING_BYTES_MAX / VALUE_BYTES_MAX).map(|index| store.commit(vec![], large(index)));
    let (taken, refused): (Vec<_>, Vec<_>) = join_all(commits).await.into_iter().partition(Result::is_ok);
    assert!(
        refused
            .iter()
            .all(|error| matches!(error, Err(CommitError::Unavailable(_))))
    );
    assert!(!refused.is_empty());
    let kept = store.scan(&Key::from("large/"), None, usize::MAX).await.unwrap().len();
    assert_eq!(kept, taken.len());
    store.commit(vec![], large(0)).await.expect("there is room again");
}

#[tokio::test]
async fn dropping_the_store_finishes_what_waits() {
    let mut fixture = Sqlite::new();
    let store = fixture.store();
    let mut waiting: Vec<_> = (0..50)
        .map(|index| store.commit(vec![], put(&format!("{index:02}"))))
        .collect();
    for commit in &mut waiting {
        // The first poll hands the commit over.
        let _ = futures_util::poll!(commit);
    }
    drop(waiting);
    drop(store);
    fixture.open_again();
    assert_eq!(fixture.store().scan(&Key::new(), None, 99).await.unwrap().len(), 50);
}
