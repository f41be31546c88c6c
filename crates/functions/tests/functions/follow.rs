//! Several nodes on one store: what one changes the others see.

use std::sync::Arc;
use std::time::Duration;

use bowline_functions::model::PublishVersion;
use bowline_functions::model::attached::{PutUrl, UrlAuth};
use bowline_functions::policy::Grant;
use bowline_functions::state::{Attach, NewState, StateError, StateName, Writers};
use bowline_store::blob::Blobs;
use bowline_store::{MemoryStore, Sharing, Store};
use serde_json::json;

use crate::world::{World, WorldSettings, caller, target};

/// Far longer than a node takes to look again.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// Two nodes on one store and one set of blobs, each with a folder of its own.
async fn two(sharing: Sharing) -> [World; 2] {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let blobs = Blobs::in_memory();
    let settings = WorldSettings {
        sharing,
        ..WorldSettings::default()
    };
    let node = || {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        World::over(store.clone(), blobs.clone(), folder, settings)
    };
    [node().await, node().await]
}

/// What the node answers, or the code of its error.
async fn says(world: &World, name: &str) -> String {
    match world.invoke(name, json!({})).await {
        Ok(response) => {
            let answer = response.result.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            answer["code"].as_str().unwrap().to_owned()
        }
        Err(error) => error.to_string(),
    }
}

async fn until(world: &World, name: &str, wanted: impl Fn(&str) -> bool) {
    let seen = tokio::time::timeout(SEEN_MAX, async {
        while !wanted(&says(world, name).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(seen.await.is_ok(), "the other node says `{}`", says(world, name).await);
}

#[tokio::test]
async fn a_change_on_one_node_is_seen_on_the_other() {
    let [first, second] = two(Sharing::Shared).await;
    first.deploy("f").await;
    until(&second, "f", |said| said == "one").await;
    first.redeploy("f", "two").await;
    until(&second, "f", |said| said == "two").await;
    let publish = PublishVersion::default();
    second
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
    until(&first, "f:1", |said| said == "two").await;
    let grant = Grant {
        statement_id: "s".to_owned(),
        action: "lambda:InvokeFunction".to_owned(),
        principal: "*".to_owned(),
        ..Grant::default()
    };
    first
        .handle
        .add_permission(&caller(), &target("f"), grant, None)
        .await
        .unwrap();
    let seen = tokio::time::timeout(SEEN_MAX, async {
        while second.handle.get_policy(&target("f")).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(seen.await.is_ok(), "the other node does not see the policy");
    first.handle.delete_function(&caller(), &target("f")).await.unwrap();
    until(&second, "f", |said| said.contains("not found")).await;
}

#[tokio::test]
async fn what_is_attached_on_one_node_is_seen_on_the_other() {
    let [first, second] = two(Sharing::Shared).await;
    first.deploy("f").await;
    until(&second, "f", |said| said == "one").await;
    let open = PutUrl {
        auth: Some(UrlAuth::None),
        ..PutUrl::default()
    };
    let made = first.handle.create_url(&caller(), &target("f"), open).await.unwrap();
    let seen = async |wanted: bool| {
        let seen = tokio::time::timeout(SEEN_MAX, async {
            while second.handle.url(&made.url.id).is_some() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        seen.await.is_ok()
    };
    assert!(seen(true).await, "the other node does not know the URL");
    first.handle.delete_url(&caller(), &target("f")).await.unwrap();
    assert!(seen(false).await, "the other node still knows the URL");
}

#[tokio::test]
async fn state_that_one_node_has_just_attached_is_not_removed_by_the_other() {
    let [first, second] = two(Sharing::Shared).await;
    first.deploy("f").await;
    let name = || -> StateName { "counter".parse().unwrap() };
    let caller = caller();
    let new = NewState {
        name: name(),
        writers: Writers::One,
        folder: None,
        token: None,
    };
    second.handle.create_state(&caller, new).await.unwrap();
    let function = target("f");
    let attached = first.handle.attach_state(&caller, name(), &function, Attach::default());
    attached.await.unwrap();
    let refused = second.handle.delete_state(&caller, name()).await;
    assert!(matches!(refused, Err(StateError::InUse { .. })), "{refused:?}");
    first.handle.detach_state(&caller, name(), &function).await.unwrap();
    second.handle.delete_state(&caller, name()).await.unwrap();
}

#[tokio::test]
async fn control_a_node_alone_does_not_look_again() {
    let [first, second] = two(Sharing::Exclusive).await;
    first.deploy("f").await;
    assert_eq!(says(&first, "f").await, "one");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(says(&second, "f").await.contains("not found"));
}
