//! Creation, updates, versions and deletion, as callers see them.

use bowline_functions::error::Error;
use bowline_functions::model::{
    CreateFunction, LastUpdate, PageRequest, PublishVersion, Settings, State, UpdateCode, UpdateConfiguration,
};
use bowline_functions::name::Version;
use bowline_sandbox::{Runtime, SandboxKind};
use serde_json::json;

use crate::fake::Script;
use crate::world::{World, caller, creation, package, target, update, zip_of};

#[tokio::test]
async fn a_function_is_pending_until_it_is_prepared() {
    let world = World::new().await;
    world.wasm.hold_prepares(true);
    let wasm = CreateFunction {
        runtime: Runtime::ProvidedAl2023,
        code: zip_of(&[("bootstrap.wasm", b"\0asm\x01\0\0\0"), ("code", b"one")]).into(),
        ..creation("f", "one")
    };
    let created = world.handle.create_function(&caller(), wasm).await.unwrap();
    assert_eq!((created.state, created.kind), (State::Pending, SandboxKind::Wasm));
    let refused = world.handle.update_code(&caller(), &target("f"), update("two")).await;
    assert!(matches!(refused, Err(Error::Conflict(_))));
    // An invocation waits for the end of the creation.
    let handle = world.handle.clone();
    let waiting = tokio::spawn(async move { handle.invoke(&target("f"), crate::world::request(json!({}))).await });
    world.wasm.hold_prepares(false);
    assert!(waiting.await.unwrap().unwrap().result.is_ok());
    let shown = world.handle.get_function(&target("f")).unwrap().configuration;
    assert_eq!(
        (shown.state, shown.last_update),
        (State::Active, LastUpdate::Successful)
    );
}

#[tokio::test]
async fn code_that_cannot_be_prepared_leaves_a_failed_function_that_can_be_mended() {
    let world = World::new().await;
    world.fake.prepare_as(Some(Script::Invalid));
    let failed = world.deploy("f").await;
    assert!(
        matches!(failed.state, State::Failed { ref reason, .. } if reason == "bad code"),
        "{failed:?}"
    );
    assert!(matches!(world.invoke("f", json!({})).await, Err(Error::Conflict(_))));
    world.fake.prepare_as(None);
    let mended = world.redeploy("f", "two").await;
    assert_eq!(mended.state, State::Active);
    assert_eq!(world.answer("f", json!({})).await["code"], "two");
}

#[tokio::test]
async fn a_missing_interpreter_refuses_the_creation_and_leaves_nothing() {
    let world = World::durable().await;
    world.fake.prepare_as(Some(Script::Missing));
    let refused = world.handle.create_function(&caller(), creation("f", "one")).await;
    assert!(matches!(refused, Err(Error::InvalidParameter(text)) if text == "no interpreter"));
    assert!(matches!(
        world.handle.get_function(&target("f")),
        Err(Error::NotFound(_))
    ));
    assert_eq!(world.blobs.list().await.unwrap(), []);
}

#[tokio::test]
async fn the_old_code_serves_while_an_update_is_prepared_and_after_it_fails() {
    let world = World::new().await;
    world.deploy("f").await;
    world.fake.prepare_as(Some(Script::Invalid));
    let updated = world
        .handle
        .update_code(&caller(), &target("f"), update("two"))
        .await
        .unwrap();
    assert_eq!(updated.last_update, LastUpdate::InProgress);
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    let settled = world.handle.settled(&target("f")).await.unwrap();
    assert!(matches!(settled.last_update, LastUpdate::Failed { .. }));
    assert_eq!(settled.state, State::Active);
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    // So it is after a restart, and the third code takes over.
    let world = world.restart().await;
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    world.redeploy("f", "three").await;
    assert_eq!(world.answer("f", json!({})).await["code"], "three");
}

#[tokio::test]
async fn a_change_retires_warm_sandboxes() {
    let world = World::new().await;
    world.deploy("f").await;
    let first = world.answer("f", json!({})).await;
    assert_eq!(world.answer("f", json!({})).await["sandbox"], first["sandbox"]);
    let change = UpdateConfiguration {
        settings: Settings {
            environment: Some([("MODE".to_owned(), "new".to_owned())].into()),
            ..Settings::default()
        },
        ..UpdateConfiguration::default()
    };
    world
        .handle
        .update_configuration(&caller(), &target("f"), change)
        .await
        .unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    world.fake.until(|counts| counts.destroyed == 1).await;
    let second = world.answer("f", json!({})).await;
    assert_eq!(second["variables"]["MODE"], "new");
    assert_ne!(second["sandbox"], first["sandbox"]);
}

#[tokio::test]
async fn refusals_have_the_services_words() {
    let world = World::new().await;
    world.deploy("f").await;
    let text = |error: Error| error.to_string();
    let duplicate = world
        .handle
        .create_function(&caller(), creation("f", "one"))
        .await
        .unwrap_err();
    assert_eq!(text(duplicate), "Function already exist: f");
    assert_eq!(
        text(world.handle.get_function(&target("none:3")).unwrap_err()),
        "Function not found: arn:aws:lambda:us-east-1:000000000000:function:none:3"
    );
    let stale = UpdateCode {
        revision_id: Some("old".to_owned()),
        ..update("two")
    };
    let stale = world
        .handle
        .update_code(&caller(), &target("f"), stale)
        .await
        .unwrap_err();
    assert!(matches!(stale, Error::PreconditionFailed(_)));
    let latest = world
        .handle
        .delete_function(&caller(), &target("f:$LATEST"))
        .await
        .unwrap_err();
    assert!(matches!(latest, Error::InvalidParameter(_)));
}

#[tokio::test]
async fn an_unchanged_function_is_published_once() {
    let world = World::new().await;
    world.deploy("f").await;
    let handle = &world.handle;
    let publish = async || {
        handle
            .publish_version(&caller(), &target("f"), PublishVersion::default())
            .await
    };
    let (one, again) = (publish().await.unwrap(), publish().await.unwrap());
    assert_eq!((one.version, &one), (Version::Number(1), &again));
    world.redeploy("f", "two").await;
    assert_eq!(publish().await.unwrap().version, Version::Number(2));
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
    assert_eq!(world.answer("f:2", json!({})).await["code"], "two");
    // Numbers never come again: neither a version's, nor those of a deleted function.
    world.handle.delete_function(&caller(), &target("f:2")).await.unwrap();
    world.redeploy("f", "three").await;
    assert_eq!(publish().await.unwrap().version, Version::Number(3));
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    world.deploy("f").await;
    assert_eq!(publish().await.unwrap().version, Version::Number(4));
}

#[tokio::test]
async fn publishing_with_a_digest_checks_it() {
    let world = World::new().await;
    world.deploy("f").await;
    let wrong = PublishVersion {
        code_sha256: Some("AAAA".to_owned()),
        ..PublishVersion::default()
    };
    let refused = world.handle.publish_version(&caller(), &target("f"), wrong).await;
    assert!(matches!(refused, Err(Error::InvalidParameter(_))));
}

#[tokio::test]
async fn creation_and_update_publish_on_request() {
    let world = World::new().await;
    let create = CreateFunction {
        publish: true,
        ..creation("f", "one")
    };
    assert_eq!(
        world.handle.create_function(&caller(), create).await.unwrap().version,
        Version::Number(1)
    );
    world.handle.settled(&target("f")).await.unwrap();
    let change = UpdateCode {
        publish: true,
        ..update("two")
    };
    let updated = world.handle.update_code(&caller(), &target("f"), change).await.unwrap();
    assert_eq!((updated.version, updated.state), (Version::Number(2), State::Pending));
    world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
    assert_eq!(world.answer("f:2", json!({})).await["code"], "two");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::durable().await;
    let before = world.deploy("f").await;
    let dry = UpdateCode {
        dry_run: true,
        ..update("two")
    };
    let shown = world.handle.update_code(&caller(), &target("f"), dry).await.unwrap();
    assert_ne!(shown.code.digest, before.code.digest);
    assert_eq!(world.handle.get_function(&target("f")).unwrap().configuration, before);
    assert_eq!(world.blobs.list().await.unwrap(), [before.code.digest]);
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let world = World::durable().await;
    let create = CreateFunction {
        tags: [("team".to_owned(), "edge".to_owned())].into(),
        publish: true,
        ..creation("f", "one")
    };
    world.handle.create_function(&caller(), create).await.unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    world.redeploy("f", "two").await;
    world
        .handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(7))
        .await
        .unwrap();
    let before = (
        world.handle.get_function(&target("f")).unwrap(),
        world.handle.get_function(&target("f:1")).unwrap(),
    );
    let world = world.restart().await;
    let after = (
        world.handle.get_function(&target("f")).unwrap(),
        world.handle.get_function(&target("f:1")).unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(after.0.reserved_concurrency, Some(7));
    assert_eq!(world.answer("f", json!({})).await["code"], "two");
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
    assert_eq!(world.handle.read_code(&target("f:1")).await.unwrap(), package("one"));
}

#[tokio::test]
async fn code_of_a_deleted_function_goes_but_shared_code_stays() {
    let world = World::durable().await;
    let one = world.deploy("f").await;
    world.deploy("g").await;
    world.redeploy("g", "two").await;
    world.answer("g", json!({})).await;
    world.handle.delete_function(&caller(), &target("g")).await.unwrap();
    world.fake.until(|counts| counts.destroyed == 1).await;
    let world = world.restart().await;
    assert_eq!(world.blobs.list().await.unwrap(), [one.code.digest]);
    assert!(!world.path().join("logs/000000000000/g.log").exists());
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
}

#[tokio::test]
async fn unpacked_code_is_a_cache() {
    let world = World::durable().await;
    let shown = world.deploy("f").await;
    let mut world = world;
    world.stop().await;
    let unpacked = world.path().join("code").join(shown.code.digest.to_string());
    assert!(unpacked.join("code").is_file());
    std::fs::remove_dir_all(&unpacked).unwrap();
    let world = world.restart().await;
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new().await;
    for name in ["c", "a", "b"] {
        world.deploy(name).await;
    }
    world
        .handle
        .publish_version(&caller(), &target("a"), PublishVersion::default())
        .await
        .unwrap();
    for (all, expected) in [
        (false, "a:$LATEST b:$LATEST c:$LATEST"),
        (true, "a:$LATEST a:1 b:$LATEST c:$LATEST"),
    ] {
        for size in 1..5 {
            let mut page = PageRequest {
                marker: None,
                items_max: Some(size),
            };
            let mut seen = Vec::new();
            loop {
                let found = world.handle.list_functions(&caller(), all, &page).unwrap();
                assert!(found.items.len() <= size as usize);
                seen.extend(found.items.iter().map(|item| format!("{}:{}", item.name, item.version)));
                page.marker = found.next_marker;
                if page.marker.is_none() {
                    break;
                }
            }
            assert_eq!(seen.join(" "), expected);
        }
    }
    let versions = world
        .handle
        .list_versions(&target("a"), &PageRequest::default())
        .unwrap();
    assert_eq!(
        versions.items.iter().map(|item| item.version).collect::<Vec<_>>(),
        [Version::Latest, Version::Number(1)]
    );
    let bad = PageRequest {
        marker: Some("?".to_owned()),
        items_max: None,
    };
    assert!(matches!(
        world.handle.list_functions(&caller(), false, &bad),
        Err(Error::InvalidParameter(_))
    ));
}

#[tokio::test]
async fn every_mutation_leaves_an_audit_row() {
    let world = World::durable().await;
    world.deploy("f").await;
    world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    world
        .handle
        .tag(&caller(), &target("f"), [("a".to_owned(), "b".to_owned())].into())
        .await
        .unwrap();
    world
        .handle
        .untag(&caller(), &target("f"), &["a".to_owned()])
        .await
        .unwrap();
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    let rows = world.handle.audited("000000000000/f").await.unwrap();
    assert_eq!(
        rows,
        [
            "CreateFunction",
            "Settle",
            "TagResource",
            "UntagResource",
            "DeleteFunction"
        ]
    );
    assert_eq!(
        world.handle.audited("000000000000/f:1").await.unwrap(),
        ["PublishVersion"]
    );
}
