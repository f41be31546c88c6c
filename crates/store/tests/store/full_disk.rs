//! A full disk: commits and blobs are refused whole, and go on once there is room.
//!
//! The test runs itself again in a mount namespace of its own, on a file system of a few mebibytes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use bowline_store::blob::{BlobError, Blobs};
use bowline_store::{CommitError, Key, ReadError, SqliteStore, Store, Write};
use bytes::Bytes;

use crate::process;

const BALLAST_BYTES: usize = 6 * 1024 * 1024;
const VALUE_BYTES: usize = 50_000;

#[test]
fn a_full_disk_refuses_and_recovers_needs_root() {
    let name = "full_disk::a_full_disk_refuses_and_recovers_needs_root";
    if let Some((folder, _)) = process::task() {
        return on_a_small_disk(&folder);
    }
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("SKIPPED: `{name}` mounts a file system, which needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let child = process::command(name, folder.path(), "");
    let mount = "mount -t tmpfs -o size=12m tmpfs \"$0\" && exec \"$@\"";
    let mut inside = Command::new("unshare");
    inside
        .args(["--mount", "sh", "-c", mount])
        .arg(folder.path())
        .arg(child.get_program())
        .args(child.get_args());
    inside.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = inside.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("child: recovered"), "{said}");
}

#[tokio::main(flavor = "current_thread")]
async fn on_a_small_disk(folder: &Path) {
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let store = SqliteStore::open(&folder.join("data/bowline.db")).unwrap();
    let blobs = Blobs::open_dir(&folder.join("data/blobs")).unwrap();
    let kept = fill(&store).await;
    check_kept(&store, kept).await;
    let bytes = Bytes::from(vec![3; 1_000_000]);
    assert!(matches!(blobs.put(bytes.clone()).await, Err(BlobError::Unavailable(_))));
    assert_eq!(blobs.list().await.unwrap(), []);

    fs::remove_file(&ballast).unwrap();
    store.commit(vec![], pair(kept)).await.expect("there is room again");
    check_kept(&store, kept + 1).await;
    blobs.put(bytes).await.expect("there is room again");
    drop(store);
    let store = SqliteStore::open(&folder.join("data/bowline.db")).unwrap();
    check_kept(&store, kept + 1).await;
    process::say("recovered");
}

fn pair(index: usize) -> Vec<Write> {
    let value = Bytes::from(vec![u8::try_from(index % 256).unwrap(); VALUE_BYTES]);
    ["a", "b"]
        .map(|half| Write::Put(Key::from(format!("{index:05}/{half}")), value.clone()))
        .to_vec()
}

/// Commits pairs until the disk is full; returns how many were taken.
async fn fill(store: &SqliteStore) -> usize {
    for index in 0.. {
        match store.commit(vec![], pair(index)).await {
            Ok(_) => {}
            Err(CommitError::Unavailable(_)) if index > 10 => return index,
            Err(error) => panic!("commit {index}: {error}"),
        }
    }
    unreachable!("the disk is never full")
}

/// The first `count` pairs are there, and nothing else.
async fn check_kept(store: &SqliteStore, count: usize) {
    let entries = store.scan(&Key::new(), None, usize::MAX).await.unwrap();
    let expected = (0..count).flat_map(pair);
    let found = entries.into_iter().map(|(key, entry)| Write::Put(key, entry.value));
    assert!(found.eq(expected), "not the {count} pairs that were acknowledged");
}

/// A limit on the size of files stands for a device that fails to write: unlike a full disk it leaves
/// open what a restart will find, so the store stops, and only a restart tells.
#[test]
fn a_device_error_stops_the_store_until_it_is_opened_again() {
    let name = "full_disk::a_device_error_stops_the_store_until_it_is_opened_again";
    if let Some((folder, _)) = process::task() {
        return on_a_failing_device(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let child = process::command(name, folder.path(), "");
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ && ulimit -f 4000 && exec \"$0\" \"$@\""]);
    limited.arg(child.get_program()).args(child.get_args());
    limited.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let kept: usize = said
        .lines()
        .find_map(|line| line.strip_prefix("child: kept "))
        .unwrap()
        .parse()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("bowline.db")).unwrap();
    runtime.block_on(async {
        // The commit whose fate was unknown is there wholly or not at all.
        let found = store.scan(&Key::new(), None, usize::MAX).await.unwrap().len() / 2;
        assert!(found == kept || found == kept + 1, "{found} of {kept}");
        check_kept(&store, found).await;
        store.commit(vec![], pair(found)).await.expect("the device works again");
    });
}

#[tokio::main(flavor = "current_thread")]
async fn on_a_failing_device(folder: &Path) {
    let store = SqliteStore::open(&folder.join("bowline.db")).unwrap();
    let mut kept = 0;
    let error = loop {
        match store.commit(vec![], pair(kept)).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::Unknown(_)), "after {kept}: {error}");
    let refused = store.commit(vec![], vec![Write::Delete(Key::from("a"))]).await;
    assert!(
        matches!(&refused, Err(CommitError::Unavailable(why)) if why.contains("restart")),
        "{refused:?}"
    );
    let unread = store.get(&Key::from("a")).await;
    assert!(matches!(unread, Err(ReadError::Unavailable(_))), "{unread:?}");
    process::say(&format!("kept {kept}"));
}
