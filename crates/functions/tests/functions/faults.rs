//! A store that fails: what is answered is true, and nothing is half done.

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_functions::error::Error;
use bowline_functions::model::{CreateAlias, LastUpdate, PublishVersion};
use bowline_functions::name::Version;
use bowline_store::blob::Blobs;
use bowline_store::{Fault, FaultRates, FaultyStore, MemoryStore};
use serde_json::json;

use crate::world::{World, WorldSettings, caller, creation, target, update};

async fn faulty() -> (World, Arc<FaultyStore>) {
    let memory = Arc::new(MemoryStore::default());
    let store = Arc::new(FaultyStore::new(memory, FaultRates::default(), Entropy::seeded(1)));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let world = World::over(store.clone(), Blobs::in_memory(), folder, WorldSettings::default()).await;
    // What the background reads when it begins is not what the scripts are about.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (world, store)
}

#[tokio::test]
async fn a_commit_that_failed_changes_nothing() {
    let (world, store) = faulty().await;
    // A creation reads the numbering, then commits.
    store.script([Fault::None, Fault::FailBefore]);
    let failed = world.handle.create_function(&caller(), creation("f", "one")).await;
    assert!(matches!(failed, Err(Error::Service(_))));
    assert!(matches!(
        world.handle.get_function(&target("f")),
        Err(Error::NotFound(_))
    ));
    world.deploy("f").await;
    store.script([Fault::FailBefore]);
    let failed = world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await;
    assert!(matches!(failed, Err(Error::Service(_))));
    let published = world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    assert_eq!(published.version, Version::Number(1));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_out() {
    let (world, store) = faulty().await;
    store.script([Fault::None, Fault::LoseReply]);
    world.deploy("f").await;
    store.script([Fault::LoseReply]);
    let published = world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    assert_eq!(published.version, Version::Number(1));
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
    assert_eq!(
        world.handle.audited("000000000000/f:1").await.unwrap(),
        ["PublishVersion"]
    );
    let world = world.restart().await;
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
}

#[tokio::test]
async fn a_commit_that_stays_in_doubt_is_read_anew() {
    let (world, store) = faulty().await;
    let unreadable = std::iter::repeat_n(Fault::FailBefore, 5);
    store.script([Fault::None, Fault::LoseReply].into_iter().chain(unreadable.clone()));
    let doubtful = world.handle.create_function(&caller(), creation("f", "one")).await;
    assert!(matches!(doubtful, Err(Error::Service(_))));
    world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    let alias = CreateAlias {
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: None,
    };
    store.script(std::iter::once(Fault::LoseReply).chain(unreadable));
    let doubtful = world.handle.create_alias(&caller(), &target("f"), alias).await;
    assert!(matches!(doubtful, Err(Error::Service(_))));
    assert_eq!(world.answer("f:live", json!({})).await["code"], "one");
    assert_eq!(
        world.answer("f", json!({})).await["served"],
        2,
        "what was warm stays warm"
    );
}

#[tokio::test]
async fn an_update_settles_once_the_store_is_back() {
    let (world, store) = faulty().await;
    world.deploy("f").await;
    world.fake.hold_prepares(true);
    let tried = world.fake.count().prepared;
    let handle = world.handle.clone();
    let updating = tokio::spawn(async move { handle.update_code(&caller(), &target("f"), update("two")).await });
    world.fake.hold_prepares(false);
    let updated = updating.await.unwrap().unwrap();
    assert_eq!(updated.last_update, LastUpdate::InProgress);
    store.go_away();
    world.fake.until(|counts| counts.prepared > tried).await;
    assert!(
        world.answer("f", json!({})).await["code"].is_string(),
        "invocations need no store"
    );
    store.come_back();
    let settled = world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(settled.last_update, LastUpdate::Successful);
    assert_eq!(world.answer("f", json!({})).await["code"], "two");
}
