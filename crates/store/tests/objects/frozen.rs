//! i-T8: a writer that is stopped between commit and index copy holds nobody up.

use std::path::Path;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_store::objects::{CrashPoints, EventKind, Expect, NamedStore, ObjectId, Objects, Options};

use crate::process::{self, Worker};
use crate::wire::{Client, StoreProcess};
use crate::world::{create, find, front_end, named, update};

const NAME: &str = "frozen::a_frozen_writer_holds_nobody_up";
/// Far more than a few calls take, far less than any time limit here.
const WITHOUT_DELAY: Duration = Duration::from_secs(2);

fn stores(folders: [&Path; 2]) -> Vec<NamedStore> {
    let store = |name, folder| named(name, std::sync::Arc::new(Client::new(folder)));
    vec![store("a", folders[0]), store("b", folders[1])]
}

fn patient(crash_points: CrashPoints) -> Options {
    Options {
        call_timeout: Duration::from_secs(20),
        deadline: Duration::from_secs(40),
        crash_points,
        ..Options::default()
    }
}

#[test]
fn a_frozen_writer_holds_nobody_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match process::task() {
        Some((folder, other)) => runtime.block_on(write_and_stop([&folder, Path::new(&other)])),
        None => runtime.block_on(read_on()),
    }
}

/// The child: creates an object, and waits between commit and copy.
async fn write_and_stop(folders: [&Path; 2]) {
    let points = CrashPoints::with(|name| async move {
        if name == "create.committed" {
            process::say("committed");
            process::listen();
        }
    });
    let objects = front_end(stores(folders), patient(points), 1);
    let id = objects.create(create("x", "red")).await.unwrap().id;
    process::say(&id.to_string());
}

async fn read_on() {
    let (a, b) = (StoreProcess::start(), StoreProcess::start());
    let folders = [a.folder.path(), b.folder.path()];
    let mut writer = Worker::start(NAME, folders[0], folders[1].to_str().unwrap());
    assert_eq!(writer.next_line().as_deref(), Some("committed"));
    writer.signal("STOP");
    let objects = front_end(stores(folders), patient(CrashPoints::default()), 2);
    let clock = Clock::system();
    let begun = clock.monotonic();

    let found = find(&objects, "red").await;
    let [id] = &found[..] else {
        panic!("the query sees the entry: {found:?}")
    };
    assert_eq!(objects.get(id).await.unwrap().version, 1);
    assert_eq!(
        objects
            .update(update(id, Expect::Version(1), "y", "blue"))
            .await
            .unwrap(),
        2
    );
    assert_eq!(find(&objects, "blue").await, found);
    assert!(find(&objects, "red").await.is_empty());
    assert!(clock.monotonic().since(begun) < WITHOUT_DELAY);

    // Awake again, the writer copies what is stale by now, and no reader is misled.
    writer.signal("CONT");
    writer.tell();
    let told: ObjectId = writer.next_line().unwrap().parse().unwrap();
    assert_eq!(told, *id);
    assert_agrees(&objects, id).await;
}

async fn assert_agrees(objects: &Objects, id: &ObjectId) {
    assert!(find(objects, "red").await.is_empty());
    assert_eq!(find(objects, "blue").await, std::slice::from_ref(id));
    let events = objects.events(id, 0, 10).await.unwrap().events;
    let kinds: Vec<_> = events.iter().map(|event| (event.version, event.kind)).collect();
    assert_eq!(kinds, [(1, EventKind::Create), (2, EventKind::Update)]);
}
