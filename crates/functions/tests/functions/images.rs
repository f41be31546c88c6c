//! Container images: what is kept, for whom, and for how long.

use std::io::Write as _;

use bowline_functions::error::Error;
use bowline_functions::model::image::{PushImage, StoredImage};
use bowline_functions::model::{Architecture, Code, CreateFunction, PublishVersion, UpdateCode};
use bowline_functions::name::image::Tag;
use bowline_oci::sample::{LayerSample, Packing, Sample};
use bowline_sandbox::Runtime;
use serde_json::json;

use crate::fake::PATIENCE;
use crate::world::{World, caller, creation, target, update};

fn image(text: &str) -> Sample {
    let layer = |path: &str, text: &str| LayerSample::default().file(path, 0o644, text.as_bytes());
    let shared = Sample::default().layer(layer("shared", "shared"), Packing::Gzip);
    shared
        .layer(layer("code", text), Packing::Zstd)
        .set("Entrypoint", json!(["/run"]))
}

async fn push(world: &World, name: &str, archive: &[u8]) -> Result<StoredImage, Error> {
    let name = name.parse().unwrap();
    let mut staging = world.handle.stage_image(&caller(), &name).await?;
    staging.archive.write_all(archive).unwrap();
    let push = PushImage {
        name,
        tag: Tag::default(),
        staging,
    };
    world.handle.push_image(&caller(), push).await
}

async fn delete(world: &World, name: &str) {
    let name = name.parse().unwrap();
    world
        .handle
        .delete_image(&caller(), &name, &Tag::default())
        .await
        .unwrap();
}

fn from_image(name: &str, uri: &str) -> CreateFunction {
    CreateFunction {
        runtime: Runtime::ProvidedAl2023,
        handler: None,
        code: Code::Image(uri.to_owned()),
        ..creation(name, "")
    }
}

/// Waits until so many blobs and unpacked folders are there, and no others.
async fn until_kept(world: &World, blobs: usize, folders: usize) {
    let count = async || {
        let kept = world.blobs.list().await.unwrap().len();
        let unpacked = std::fs::read_dir(world.path().join("code")).unwrap();
        let unpacked = unpacked.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != ".boot"));
        (kept, unpacked.count())
    };
    let reached = tokio::time::timeout(PATIENCE, async {
        while count().await != (blobs, folders) {
            tokio::task::yield_now().await;
        }
    });
    assert!(
        reached.await.is_ok(),
        "{:?} are kept, not {:?}",
        count().await,
        (blobs, folders)
    );
}

#[tokio::test]
async fn an_image_is_kept_as_long_as_something_names_it() {
    let world = World::durable().await;
    let first = push(&world, "a", &image("one").archive()).await.unwrap();
    assert_eq!(first.parts.digest, image("one").digest());
    // A manifest, a configuration, two layers.
    until_kept(&world, 4, 1).await;
    push(&world, "b", &image("one").archive()).await.unwrap();
    until_kept(&world, 4, 1).await;
    push(&world, "c", &image("two").archive()).await.unwrap();
    until_kept(&world, 7, 2).await;
    world
        .handle
        .create_function(&caller(), from_image("f", "a"))
        .await
        .unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    let answer = world.answer("f", json!({})).await;
    assert_eq!(answer["code"], "one", "the sandbox sees the image's root: {answer}");
    delete(&world, "a").await;
    delete(&world, "b").await;
    delete(&world, "c").await;
    until_kept(&world, 4, 1).await;
    assert_eq!(
        world.answer("f", json!({})).await["code"],
        "one",
        "the function keeps its own"
    );
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    until_kept(&world, 0, 0).await;
}

/// Archives that are on their way are waited for by nobody whose image is here.
#[tokio::test]
async fn slow_uploads_hold_no_other_up() {
    let world = World::durable().await;
    let name = "slow".parse().unwrap();
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(world.handle.stage_image(&caller(), &name).await.unwrap());
    }
    let archive = image("one").archive();
    let pushed = tokio::time::timeout(PATIENCE, push(&world, "a", &archive));
    pushed.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_image_counts_once_whatever_uses_it() {
    let world = World::durable().await;
    let stored = || world.handle.account_usage(&caller()).code_bytes;
    assert_eq!(stored(), 0);
    let pushed = push(&world, "a", &image("one").archive()).await.unwrap();
    let bytes = pushed.parts.bytes;
    assert!(bytes > 0, "control: it has a size");
    push(&world, "b", &image("one").archive()).await.unwrap();
    assert_eq!(stored(), bytes, "two tags, one image");
    for name in ["f", "g"] {
        let created = world.handle.create_function(&caller(), from_image(name, "a")).await;
        created.unwrap();
        world.handle.settled(&target(name)).await.unwrap();
    }
    assert_eq!(stored(), bytes);
    delete(&world, "a").await;
    delete(&world, "b").await;
    assert_eq!(stored(), bytes, "functions keep it");
    for name in ["f", "g"] {
        world.handle.delete_function(&caller(), &target(name)).await.unwrap();
    }
    assert_eq!(stored(), 0);
}

#[tokio::test]
async fn a_tag_that_moves_takes_no_function_along() {
    let world = World::durable().await;
    push(&world, "a", &image("one").archive()).await.unwrap();
    world
        .handle
        .create_function(&caller(), from_image("f", "a"))
        .await
        .unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    let publish = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
    push(&world, "a", &image("two").archive()).await.unwrap();
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    let update = UpdateCode {
        code: Code::Image("a:latest".to_owned()),
        ..update("")
    };
    let updated = world.handle.update_code(&caller(), &target("f"), update).await.unwrap();
    assert_eq!(updated.code.digest, image("two").digest());
    world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(world.answer("f", json!({})).await["code"], "two");
    assert_eq!(world.answer("f:1", json!({})).await["code"], "one");
    let shown = world.handle.get_function(&target("f:1")).unwrap().configuration;
    let resolved = shown.image.unwrap().resolved_uri;
    assert_eq!(resolved, format!("a@sha256:{}", image("one").digest()));
    let gone = world
        .handle
        .create_function(&caller(), from_image("g", &resolved))
        .await;
    assert!(matches!(gone, Err(Error::InvalidParameter(text)) if text.contains("does not exist")));
}

#[tokio::test]
async fn a_refused_image_leaves_nothing() {
    let world = World::durable().await;
    let escaping = LayerSample::default().file("../x", 0o644, b"x");
    let escaping = Sample::default().layer(escaping, Packing::Gzip).archive();
    let wrong = image("one").wrong_diff_id().archive();
    for (archive, reason) in [
        (escaping, "outside"),
        (wrong, "unpacks to something else"),
        (b"text".to_vec(), "not a tar archive"),
        (image("one").for_architecture("s390x").archive(), "linux/s390x"),
    ] {
        let refused = push(&world, "a", &archive).await.unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidParameter(text) if text.contains(reason)),
            "{refused:?}"
        );
        until_kept(&world, 0, 0).await;
    }
    push(&world, "a", &image("one").archive()).await.unwrap();
    until_kept(&world, 4, 1).await;
}

#[tokio::test]
async fn an_image_is_not_for_another_processor() {
    let world = World::durable().await;
    push(&world, "a", &image("one").archive()).await.unwrap();
    let other = match Architecture::HERE {
        Architecture::X86_64 => Architecture::Arm64,
        Architecture::Arm64 => Architecture::X86_64,
    };
    let create = async |name: &str, architecture| {
        let request = CreateFunction {
            architecture,
            ..from_image(name, "a:latest")
        };
        world.handle.create_function(&caller(), request).await
    };
    let refused = create("f", Some(other)).await.unwrap_err();
    assert!(
        matches!(&refused, Error::InvalidParameter(text) if text.contains("another processor")),
        "{refused:?}"
    );
    let created = create("f", None).await.unwrap();
    assert_eq!(created.architecture, Architecture::HERE);
    create("g", Some(Architecture::HERE)).await.unwrap();
}

#[tokio::test]
async fn an_image_is_unpacked_again_from_what_is_stored() {
    let world = World::durable().await;
    let image = push(&world, "a", &image("one").archive()).await.unwrap();
    let root = world.path().join("code").join(image.parts.digest.to_string());
    std::fs::remove_dir_all(&root).unwrap();
    world
        .handle
        .create_function(&caller(), from_image("f", "a"))
        .await
        .unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(world.answer("f", json!({})).await["code"], "one");
    assert!(root.join("etc/hosts").is_file());
}

#[tokio::test]
async fn another_account_has_images_of_its_own() {
    let world = World::durable().await;
    push(&world, "a", &image("one").archive()).await.unwrap();
    let mut other = caller();
    other.account = "210987654321".parse().unwrap();
    let refused = world.handle.create_function(&other, from_image("f", "a")).await;
    assert!(matches!(refused, Err(Error::InvalidParameter(text)) if text.contains("does not exist")));
    assert!(
        world
            .handle
            .list_images(&other, &Default::default())
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(
        world
            .handle
            .list_images(&caller(), &Default::default())
            .unwrap()
            .items
            .len(),
        1
    );
}
