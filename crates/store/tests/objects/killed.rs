//! Store processes that are killed in mid-write, and come back with everything in agreement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_store::Store;
use bowline_store::objects::{Expect, ObjectId, Objects, Options};
use parking_lot::Mutex;

use crate::checker::{Done, Record, faults};
use crate::wire::StoreProcess;
use crate::world::{create, front_end, named, update};

const KILLS: usize = 16;
const CLIENTS: usize = 8;

#[derive(Default)]
struct Log {
    history: Mutex<Vec<Record>>,
    ids: Mutex<BTreeSet<ObjectId>>,
    time: AtomicU64,
}

impl Log {
    fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stores_come_back_in_agreement() {
    let mut stores = [StoreProcess::start(), StoreProcess::start()];
    let log = Arc::new(Log::default());
    let entropy = Entropy::seeded(1);
    for round in 0..KILLS {
        let clients = vec![named("a", stores[0].client()), named("b", stores[1].client())];
        let objects = front_end(clients, Options::default(), round as u64);
        let written = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let name = format!("{round}-{number}");
                tokio::spawn(write(objects.clone(), Arc::clone(&log), Arc::clone(&written), name))
            })
            .collect();
        let enough = 20 + entropy.number() % 100;
        while written.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stores[round % 2].kill();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        stores[round % 2].restart();
    }
    let clients = vec![named("a", stores[0].client()), named("b", stores[1].client())];
    let objects = front_end(clients, Options::default(), 99);
    objects.sweep().await;
    let history = log.history.lock().clone();
    let mut ids = BTreeSet::new();
    for (name, process) in ["a", "b"].into_iter().zip(&stores) {
        let items = process
            .client()
            .scan(&"objects/item/".into(), None, 100_000)
            .await
            .unwrap();
        for (key, _) in items {
            let unique = std::str::from_utf8(&key).unwrap().rsplit('/').next().unwrap();
            ids.insert(format!("v1.{name}.{unique}").parse().unwrap());
        }
    }
    assert!(
        log.ids.lock().iter().all(|id| ids.contains(id)),
        "an object that was told is gone"
    );
    assert!(history.len() > KILLS * 20);
    assert_eq!(faults(&objects, &ids, &history).await, Vec::<String>::new());
    // Control: a change that was never made is missed.
    let mut history = history;
    let id = ids.first().unwrap().clone();
    history.push(Record {
        began: 0,
        ended: 1,
        done: Done::Changed {
            id,
            version: 99,
            body: "none/0".to_owned(),
        },
    });
    let found = faults(&objects, &ids, &history).await.join(
        "
",
    );
    assert!(found.contains("do not bear out"), "{found}");
}

async fn write(objects: Objects, log: Arc<Log>, written: Arc<AtomicU64>, name: String) {
    for number in 0.. {
        let body = |version: u64| format!("{name}-{version}/{number}");
        let key = |version: u64| format!("{name}-{version}");
        let began = log.now();
        let Ok(created) = objects.create(create(&body(1), &key(1))).await else {
            continue;
        };
        let note = |began, done| {
            log.history.lock().push(Record {
                began,
                ended: log.now(),
                done,
            })
        };
        log.ids.lock().insert(created.id.clone());
        note(
            began,
            Done::Created {
                id: created.id.clone(),
                body: body(1),
            },
        );
        written.fetch_add(1, Ordering::Relaxed);
        let began = log.now();
        if let Ok(version) = objects
            .update(update(&created.id, Expect::Version(1), &body(2), &key(2)))
            .await
        {
            note(
                began,
                Done::Changed {
                    id: created.id,
                    version,
                    body: body(2),
                },
            );
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}
