//! Files of watched folders that run functions.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bowline_foundation::clock::Clock;
use bowline_foundation::id::AccountId;
use bowline_functions::events::Folder;
use bowline_functions::events::folder::QUIET;
use bowline_store::{Key, Write};
use serde_json::Value;

use super::harness::Events;
use crate::world::{caller, creation, target};

const FILES: usize = 20;

fn watched(root: &Path) -> Vec<Folder> {
    vec![Folder {
        name: "shop".to_owned(),
        path: root.to_owned(),
        account: AccountId::default_account(),
    }]
}

/// A node that watches a folder, and a function that is registered for names in its `incoming/`. One file elsewhere is
/// marked when this returns, so that whatever happens from now on is seen as it happens.
async fn watching(root: &Path) -> Events {
    fs::create_dir(root.join("incoming")).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    put_aged(&root.join("elsewhere/first"), "one");
    let events = Events::watching(watched(root)).await;
    until_marked(&events, 1).await;
    let mut creation = creation("f", "one");
    creation.tags = [("bowline:on-upload".to_owned(), "folder:shop/incoming/".to_owned())].into();
    let handle = &events.world.handle;
    handle.create_function(&caller(), creation).await.unwrap();
    handle.settled(&target("f")).await.unwrap();
    events
}

/// A file that somebody wrote while nobody watched, or that was left alone since.
fn put_aged(path: &Path, content: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let long_ago = Clock::system().now().before(2 * QUIET);
    file.set_modified(UNIX_EPOCH + Duration::from_micros(long_ago.as_micros()))
        .unwrap();
}

/// The keys of the events that ran, each of them once.
fn keys(seen: &[Value]) -> BTreeSet<String> {
    let keys: BTreeSet<String> = seen
        .iter()
        .map(|event| event["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), seen.len(), "no file has two runs: {seen:?}");
    keys
}

async fn marks(events: &Events) -> Vec<Key> {
    let found = events.world.store.scan(&"folders/".into(), None, 100).await.unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

/// Waits until the node has marked so many files: of those no run can come any more.
async fn until_marked(events: &Events, count: usize) {
    let marked = async {
        while marks(events).await.len() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, marked).await.unwrap();
}

/// 05/T-E5, 01/T-A6: each file that is closed or moved into the folder has one run, with what it is as its argument;
/// one that is still written has none.
#[tokio::test]
async fn e_t5_each_file_that_is_complete_has_one_run() {
    let root = tempfile::tempdir().unwrap();
    let events = watching(root.path()).await;
    let mut open = File::create(root.path().join("incoming/half.png")).unwrap();
    open.write_all(b"the first half").unwrap();
    fs::write(root.path().join("elsewhere/a.png"), b"pixels").unwrap();
    fs::write(root.path().join("incoming/b.png.tmp"), b"pixels").unwrap();
    for number in 0..FILES {
        let path = root.path().join(format!("incoming/{number}.png"));
        if number % 2 == 0 {
            fs::write(path, b"pixels").unwrap();
        } else {
            let hidden = root.path().join(format!(".{number}"));
            fs::write(&hidden, b"pixels").unwrap();
            fs::rename(hidden, path).unwrap();
        }
    }
    events.world.fake.until(|counts| counts.ended >= FILES).await;
    until_marked(&events, FILES + 2).await;
    let seen = events.world.fake.seen();
    let expected: BTreeSet<String> = (0..FILES).map(|number| format!("shop/incoming/{number}.png")).collect();
    assert_eq!(keys(&seen), expected, "neither the half one nor what is not registered");
    let one = &seen[0];
    assert_eq!(one["source"], "bowline.folders");
    assert_eq!((&one["storage"], &one["index"]), (&"shop".into(), &"folder".into()));
    assert_eq!(one["bytes"], 6);
    // The control: closed, the half one is whole.
    open.write_all(b" and the other").unwrap();
    drop(open);
    events.world.fake.until(|counts| counts.ended > FILES).await;
    let last = events.world.fake.seen().pop().unwrap();
    assert_eq!(
        (&last["object"], &last["bytes"]),
        (&"incoming/half.png".into(), &28.into())
    );
    events.stop().await;
}

/// A restart tells of what came meanwhile and of what is another file now, and of nothing twice, even without its marks.
#[tokio::test]
async fn a_restart_tells_of_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let events = watching(root.path()).await;
    let put = |name: &str, content: &str| put_aged(&root.path().join("incoming").join(name), content);
    ["kept", "changed", "removed"].iter().for_each(|name| put(name, "one"));
    until_marked(&events, 4).await;
    events.world.fake.until(|counts| counts.ended == 3).await;
    assert_eq!(keys(&events.world.fake.seen()).len(), 3);

    let data = events.stop().await;
    put("changed", "another");
    fs::remove_file(root.path().join("incoming/removed")).unwrap();
    ["new", "newer"].iter().for_each(|name| put(name, "one"));
    let events = Events::over(data, Clock::system(), watched(root.path())).await;
    until_marked(&events, 5).await;
    events.world.fake.until(|counts| counts.ended == 3).await;
    let expected = ["changed", "new", "newer"].map(|name| format!("shop/incoming/{name}"));
    assert_eq!(keys(&events.world.fake.seen()), expected.into());

    // As after a crash between an event and its mark.
    let deleted = marks(&events).await.into_iter().map(Write::Delete).collect();
    events.world.store.commit(Vec::new(), deleted).await.unwrap();
    let events = events.restart().await;
    until_marked(&events, 5).await;
    put("last", "one");
    until_marked(&events, 6).await;
    events.world.fake.until(|counts| counts.ended >= 1).await;
    assert_eq!(
        keys(&events.world.fake.seen()),
        ["shop/incoming/last".to_owned()].into()
    );
    events.stop().await;
}

/// Part of the folder lies too deep to be looked at; the marks of files elsewhere go with their files all the same.
#[tokio::test]
async fn marks_go_with_their_files_where_not_everything_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let deep: std::path::PathBuf = std::iter::repeat_n("d", 20).collect();
    fs::create_dir_all(root.path().join(deep)).unwrap();
    let events = watching(root.path()).await;
    for number in 0..3 {
        put_aged(&root.path().join(format!("incoming/{number}")), "one");
    }
    until_marked(&events, 4).await;
    fs::remove_file(root.path().join("incoming/0")).unwrap();
    until_marked(&events, 3).await;
    // While nobody watches, too, when a walk alone can tell.
    let data = events.stop().await;
    fs::remove_file(root.path().join("incoming/1")).unwrap();
    let events = Events::over(data, Clock::system(), watched(root.path())).await;
    until_marked(&events, 2).await;
    events.stop().await;
}
