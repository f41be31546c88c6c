//! Layers: published, used, permitted, deleted.

use std::sync::Arc;
use std::time::Duration;

use bowline_functions::error::Error;
use bowline_functions::model::layers::{
    LayerFilter, LayerPrincipal, LayerStatement, LayerVersion, PolicyTarget, PublishLayer,
};
use bowline_functions::model::{
    Architecture, Caller, Configuration, CreateFunction, PageRequest, Settings, UpdateConfiguration,
};
use bowline_functions::name::layer::LayerRef;
use bowline_sandbox::{Runtime, SandboxKind};
use bowline_store::blob::Blobs;
use bowline_store::{MemoryStore, Sharing, Store};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::world::{World, WorldSettings, caller, creation, target, update, zip_of};

fn layer(name: &str) -> LayerRef {
    LayerRef::parse(name, &caller().account).unwrap()
}

fn other() -> Caller {
    Caller {
        account: "123456789012".parse().unwrap(),
        request_id: "other".to_owned(),
    }
}

fn content(files: &[(&str, &str)]) -> PublishLayer {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    archive(zip_of(&files))
}

fn archive(content: Bytes) -> PublishLayer {
    PublishLayer {
        description: String::new(),
        license: None,
        runtimes: Vec::new(),
        architectures: Vec::new(),
        content,
    }
}

async fn publish(world: &World, name: &str, files: &[(&str, &str)]) -> LayerVersion {
    let (caller, layer) = (caller(), layer(name));
    let published = world.handle.publish_layer(&caller, &layer, content(files));
    published.await.unwrap()
}

fn arn(name: &str, number: u64) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:layer:{name}:{number}")
}

fn with_layers(arns: &[String]) -> Settings {
    Settings {
        layers: Some(arns.to_vec()),
        ..Settings::default()
    }
}

async fn configure(world: &World, name: &str, arns: &[String]) -> Result<Configuration, Error> {
    let change = UpdateConfiguration {
        settings: with_layers(arns),
        ..UpdateConfiguration::default()
    };
    world
        .handle
        .update_configuration(&caller(), &target(name), change)
        .await?;
    world.handle.settled(&target(name)).await
}

async fn opt(world: &World, name: &str) -> Value {
    world.answer(name, json!({})).await["opt"].clone()
}

#[tokio::test]
async fn a_function_sees_its_layers_in_order() {
    let world = World::durable().await;
    publish(&world, "low", &[("both", "low"), ("low", "low")]).await;
    publish(&world, "high", &[("both", "high"), ("high", "high")]).await;
    let create = CreateFunction {
        settings: with_layers(&[arn("low", 1), arn("high", 1)]),
        ..creation("f", "one")
    };
    let created = world.handle.create_function(&caller(), create).await.unwrap();
    assert_eq!(created.layers.len(), 2);
    world.handle.settled(&target("f")).await.unwrap();
    let both = json!({ "both": "high", "low": "low", "high": "high" });
    assert_eq!(opt(&world, "f").await, both);
    configure(&world, "f", &[arn("high", 1), arn("low", 1)]).await.unwrap();
    assert_eq!(opt(&world, "f").await["both"], "low");
    configure(&world, "f", &[arn("low", 1)]).await.unwrap();
    assert_eq!(opt(&world, "f").await, json!({ "both": "low", "low": "low" }));
    // A start finds them again, and a cache that was lost is filled.
    let mut world = world;
    world.stop().await;
    std::fs::remove_dir_all(world.path().join("code")).unwrap();
    let world = world.restart().await;
    assert_eq!(opt(&world, "f").await, json!({ "both": "low", "low": "low" }));
    configure(&world, "f", &[]).await.unwrap();
    assert_eq!(opt(&world, "f").await, Value::Null);
}

#[tokio::test]
async fn a_deleted_layer_stays_with_the_functions_that_use_it() {
    let world = World::durable().await;
    let version = publish(&world, "knots", &[("a", "1")]).await;
    world.deploy("f").await;
    configure(&world, "f", &[arn("knots", 1)]).await.unwrap();
    world
        .handle
        .delete_layer_version(&caller(), &layer("knots"), 1)
        .await
        .unwrap();
    world
        .handle
        .delete_layer_version(&caller(), &layer("knots"), 1)
        .await
        .unwrap();
    let gone = world.handle.get_layer_version(&caller(), &layer("knots"), 1).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    assert_eq!(opt(&world, "f").await, json!({ "a": "1" }));
    let world = world.restart().await;
    assert_eq!(opt(&world, "f").await, json!({ "a": "1" }));
    // Nobody else can take it up, and its number is not given again.
    world.deploy("g").await;
    let refused = configure(&world, "g", &[arn("knots", 1)]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("Layer version {} does not exist.", arn("knots", 1))
    );
    assert_eq!(publish(&world, "knots", &[("a", "2")]).await.number, 2);
    // Once nobody uses it, it is collected.
    configure(&world, "f", &[]).await.unwrap();
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    let collected = async {
        while world.blobs.list().await.unwrap().contains(&version.code.digest) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, collected).await.unwrap();
    assert!(!world.path().join("code").join(version.code.digest.to_string()).exists());
    let kept = world.handle.read_layer(&caller(), &layer("knots"), 2).await.unwrap();
    assert_eq!(kept, zip_of(&[("a", b"2")]));
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let world = World::new().await;
    for (runtime, architecture) in [
        ("python3.11", Architecture::X86_64),
        ("nodejs20.x", Architecture::Arm64),
    ] {
        let request = PublishLayer {
            runtimes: vec![runtime.to_owned()],
            architectures: vec![architecture],
            ..content(&[("a", runtime)])
        };
        world
            .handle
            .publish_layer(&caller(), &layer("knots"), request)
            .await
            .unwrap();
    }
    publish(&world, "bends", &[("a", "x")]).await;
    let all = LayerFilter::default();
    let numbers = |filter: &LayerFilter| {
        let page = PageRequest::default();
        let found = world
            .handle
            .list_layer_versions(&caller(), &layer("knots"), filter, &page);
        found
            .unwrap()
            .items
            .iter()
            .map(|version| version.number)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&all), [2, 1]);
    let python = LayerFilter {
        runtime: Some("python3.11".to_owned()),
        ..LayerFilter::default()
    };
    assert_eq!(numbers(&python), [1]);
    let arm = LayerFilter {
        architecture: Some(Architecture::Arm64),
        ..LayerFilter::default()
    };
    assert_eq!(numbers(&arm), [2]);
    let layers = |filter: &LayerFilter| {
        let found = world
            .handle
            .list_layers(&caller(), filter, &PageRequest::default())
            .unwrap();
        let names = found
            .items
            .iter()
            .map(|version| (version.name.to_string(), version.number));
        names.collect::<Vec<_>>()
    };
    assert_eq!(layers(&all), [("bends".to_owned(), 1), ("knots".to_owned(), 2)]);
    assert_eq!(layers(&python), [("knots".to_owned(), 1)], "the newest that matches");
    let page = PageRequest {
        items_max: Some(1),
        ..PageRequest::default()
    };
    let first = world.handle.list_layers(&caller(), &all, &page).unwrap();
    let second = PageRequest {
        marker: first.next_marker,
        items_max: Some(1),
    };
    let second = world.handle.list_layers(&caller(), &all, &second).unwrap();
    assert_eq!(second.items[0].name.as_str(), "knots");
    let theirs = world
        .handle
        .list_layers(&other(), &all, &PageRequest::default())
        .unwrap();
    assert_eq!(theirs.items, []);
}

#[tokio::test]
async fn limits_hold() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut arns = Vec::new();
    for number in 1..=6 {
        let name = format!("l{number}");
        publish(&world, &name, &[(&name, "x")]).await;
        arns.push(arn(&name, 1));
    }
    let refused = async |arns: &[String]| configure(&world, "f", arns).await.unwrap_err();
    let too_many = refused(&arns).await;
    assert_eq!(too_many.to_string(), "Cannot reference more than 5 layers.");
    configure(&world, "f", &arns[..5]).await.unwrap();
    publish(&world, "l1", &[("l1", "y")]).await;
    let twice = refused(&[arn("l1", 1), arn("l1", 2)]).await;
    assert!(
        twice
            .to_string()
            .starts_with("Two different versions of the same layer"),
        "{twice}"
    );
    assert!(matches!(refused(&["l1".to_owned()]).await, Error::Validation(_)));
    let elsewhere = arn("l1", 1).replace("us-east-1", "eu-central-1");
    assert!(refused(&[elsewhere]).await.to_string().contains("region us-east-1"));

    // Each half of the limit, and one byte more.
    let half = vec![b' '; 131_072_000];
    let big = archive(zip_of(&[("half", &half)]));
    world
        .handle
        .publish_layer(&caller(), &layer("half"), big)
        .await
        .unwrap();
    let code = [("code", b"one".as_slice()), ("rest", &half[3..])];
    let exact = CreateFunction {
        code: zip_of(&code).into(),
        settings: with_layers(&[arn("half", 1)]),
        ..creation("exact", "one")
    };
    world.handle.create_function(&caller(), exact).await.unwrap();
    world.handle.settled(&target("exact")).await.unwrap();
    let over = |mut update: bowline_functions::model::UpdateCode| {
        update.code = zip_of(&[("code", b"four"), ("rest", &half[3..])]).into();
        update
    };
    let over = world
        .handle
        .update_code(&caller(), &target("exact"), over(update("")))
        .await;
    let over = over.unwrap_err().to_string();
    assert!(over.contains("262144000 bytes. The actual size is 262144001"), "{over}");
    let over = configure(&world, "exact", &[arn("half", 1), arn("l1", 1)])
        .await
        .unwrap_err();
    assert!(over.to_string().contains("The actual size is 262144001"), "{over}");
}

#[tokio::test]
async fn what_is_no_layer_is_refused() {
    let world = World::new().await;
    for content in [
        Bytes::new(),
        Bytes::from_static(b"PK no zip"),
        Bytes::from_static(b"\0asm\x01\0\0\0"),
    ] {
        let refused = world
            .handle
            .publish_layer(&caller(), &layer("bad"), archive(content))
            .await;
        assert!(matches!(refused, Err(Error::InvalidParameter(_))), "{refused:?}");
    }
    publish(&world, "good", &[("a", "x")]).await;
    let wasm = CreateFunction {
        runtime: Runtime::ProvidedAl2023,
        code: Bytes::from_static(b"\0asm\x01\0\0\0").into(),
        settings: with_layers(&[arn("good", 1)]),
        ..creation("w", "one")
    };
    let refused = world.handle.create_function(&caller(), wasm.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("WebAssembly"), "{refused}");
    let without = CreateFunction {
        settings: Settings::default(),
        ..wasm
    };
    let created = world.handle.create_function(&caller(), without).await.unwrap();
    assert_eq!(created.kind, SandboxKind::Wasm);
}

fn statement(id: &str, principal: LayerPrincipal) -> LayerStatement {
    LayerStatement {
        id: id.to_owned(),
        principal,
        organization: None,
    }
}

fn policy_target(revision_id: Option<&str>) -> PolicyTarget {
    PolicyTarget {
        layer: layer("knots"),
        number: 1,
        revision_id: revision_id.map(str::to_owned),
    }
}

#[tokio::test]
async fn another_account_needs_permission() {
    let world = World::new().await;
    publish(&world, "knots", &[("a", "x")]).await;
    let theirs = async || {
        let create = CreateFunction {
            settings: with_layers(&[arn("knots", 1)]),
            ..creation("f", "one")
        };
        world.handle.create_function(&other(), create).await
    };
    let (handle, knots) = (&world.handle, layer("knots"));
    let denied = theirs().await.unwrap_err();
    assert!(matches!(denied, Error::AccessDenied(_)), "{denied:?}");
    let denied = handle.get_layer_version(&other(), &knots, 1).await.unwrap_err();
    assert!(denied.to_string().contains("lambda:GetLayerVersion"), "{denied}");
    // Whether a version exists is nobody else's business.
    let absent = handle.get_layer_version(&other(), &knots, 9).await.unwrap_err();
    assert!(matches!(absent, Error::AccessDenied(_)));

    // An organization has no members here.
    let mut members = statement("members", LayerPrincipal::Everybody);
    members.organization = Some("o-t194hfs8cz".to_owned());
    handle
        .add_layer_permission(&caller(), policy_target(None), members)
        .await
        .unwrap();
    assert!(theirs().await.is_err());
    let one = statement("one", LayerPrincipal::Account(other().account));
    let added = handle
        .add_layer_permission(&caller(), policy_target(None), one.clone())
        .await
        .unwrap();
    theirs().await.unwrap();
    let again = handle
        .add_layer_permission(&caller(), policy_target(None), one)
        .await
        .unwrap_err();
    assert!(matches!(again, Error::Conflict(_)));

    let stale = handle
        .remove_layer_permission(&caller(), policy_target(Some("stale")), "one")
        .await;
    assert!(matches!(stale, Err(Error::PreconditionFailed(_))), "{stale:?}");
    let shown = handle.get_layer_policy(&caller(), &knots, 1).await.unwrap();
    assert_eq!(shown.revision_id, added.revision_id);
    let document: Value = serde_json::from_str(&shown.document).unwrap();
    assert_eq!(
        document["Statement"][1]["Principal"]["AWS"],
        "arn:aws:iam::123456789012:root"
    );
    assert_eq!(
        document["Statement"][0]["Condition"]["StringEquals"]["aws:PrincipalOrgID"],
        "o-t194hfs8cz"
    );
    let current = policy_target(Some(&shown.revision_id));
    handle.remove_layer_permission(&caller(), current, "one").await.unwrap();
    assert!(handle.get_layer_version(&other(), &knots, 1).await.is_err());
    let unknown = handle
        .remove_layer_permission(&caller(), policy_target(None), "one")
        .await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    handle
        .remove_layer_permission(&caller(), policy_target(None), "members")
        .await
        .unwrap();
    let none = handle.get_layer_policy(&caller(), &knots, 1).await.unwrap_err();
    assert_eq!(none.to_string(), "No policy is associated with the given resource.");
}

#[tokio::test]
async fn only_the_owner_changes_a_layer() {
    let world = World::new().await;
    publish(&world, "knots", &[("a", "x")]).await;
    let (handle, knots) = (&world.handle, layer("knots"));
    for refused in [
        handle.delete_layer_version(&other(), &knots, 1).await.err(),
        handle
            .publish_layer(&other(), &knots, content(&[("a", "y")]))
            .await
            .err(),
        handle.get_layer_policy(&other(), &knots, 1).await.err(),
    ] {
        assert!(matches!(refused, Some(Error::AccessDenied(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_policy_has_a_limit() {
    let world = World::new().await;
    publish(&world, "knots", &[("a", "x")]).await;
    let mut added = 0;
    let refused = loop {
        let one = statement(&format!("{added:0100}"), LayerPrincipal::Everybody);
        match world
            .handle
            .add_layer_permission(&caller(), policy_target(None), one)
            .await
        {
            Ok(_) => added += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::PolicyLengthExceeded(_)), "{refused:?}");
    let shown = world
        .handle
        .get_layer_policy(&caller(), &layer("knots"), 1)
        .await
        .unwrap();
    assert!(
        (20_000..=20_480).contains(&shown.document.len()),
        "{} of {added}",
        shown.document.len()
    );
}

#[tokio::test]
async fn layers_outlive_a_restart_with_their_audit_rows() {
    let world = World::durable().await;
    let before = publish(&world, "knots", &[("a", "x")]).await;
    let one = statement("one", LayerPrincipal::Account(other().account));
    world
        .handle
        .add_layer_permission(&caller(), policy_target(None), one)
        .await
        .unwrap();
    let world = world.restart().await;
    let after = world
        .handle
        .get_layer_version(&other(), &layer("knots"), 1)
        .await
        .unwrap();
    assert_eq!((after.code, after.created), (before.code, before.created));
    world
        .handle
        .remove_layer_permission(&caller(), policy_target(None), "one")
        .await
        .unwrap();
    world
        .handle
        .delete_layer_version(&caller(), &layer("knots"), 1)
        .await
        .unwrap();
    let world = world.restart().await;
    assert_eq!(publish(&world, "knots", &[("a", "x")]).await.number, 2);
    let rows = world.handle.audited("000000000000/layer:knots:1").await.unwrap();
    let expected = [
        "PublishLayerVersion",
        "AddLayerVersionPermission",
        "RemoveLayerVersionPermission",
        "DeleteLayerVersion",
    ];
    assert_eq!(rows, expected);
    assert_eq!(world.handle.account_usage(&caller()).code_bytes, before.code.bytes);
}

#[tokio::test]
async fn nodes_of_a_cluster_share_layers() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let blobs = Blobs::in_memory();
    let settings = WorldSettings {
        sharing: Sharing::Shared,
        ..WorldSettings::default()
    };
    let node = || {
        World::over(
            store.clone(),
            blobs.clone(),
            Arc::new(tempfile::tempdir().unwrap()),
            settings,
        )
    };
    let (first, second) = (node().await, node().await);
    publish(&first, "knots", &[("a", "x")]).await;
    // At once, though the second node has not looked again yet.
    second.deploy("f").await;
    configure(&second, "f", &[arn("knots", 1)]).await.unwrap();
    assert_eq!(opt(&second, "f").await, json!({ "a": "x" }));
    assert_eq!(publish(&second, "knots", &[("a", "y")]).await.number, 2);
    // The first node still believes that 2 comes next.
    assert_eq!(publish(&first, "knots", &[("a", "z")]).await.number, 3);
    first
        .handle
        .delete_layer_version(&caller(), &layer("knots"), 1)
        .await
        .unwrap();
    let seen = async {
        while second
            .handle
            .get_layer_version(&caller(), &layer("knots"), 1)
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, seen).await.unwrap();
    assert_eq!(opt(&second, "f").await, json!({ "a": "x" }));
}
