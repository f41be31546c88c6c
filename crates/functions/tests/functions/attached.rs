//! What is attached to a function beside its code.

use bowline_functions::error::Error;
use bowline_functions::model::attached::{Cors, PutUrl, UrlAuth};
use bowline_functions::model::{CreateAlias, PublishVersion};
use bowline_functions::name::Version;

use crate::world::{World, caller, target};

fn open_url() -> PutUrl {
    PutUrl {
        auth: Some(UrlAuth::None),
        ..PutUrl::default()
    }
}

/// A function with version 1 and the alias `live`.
async fn published(world: &World) {
    world.deploy("f").await;
    let publish = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
    let alias = CreateAlias {
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: None,
    };
    world.handle.create_alias(&caller(), &target("f"), alias).await.unwrap();
}

#[tokio::test]
async fn a_url_keeps_its_identifier_through_changes_and_restarts() {
    let world = World::durable().await;
    published(&world).await;
    let made = world
        .handle
        .create_url(&caller(), &target("f:live"), open_url())
        .await
        .unwrap();
    let cors = Cors {
        allow_origins: Some(vec!["*".to_owned()]),
        ..Cors::default()
    };
    let change = PutUrl {
        cors: Some(cors.clone()),
        ..PutUrl::default()
    };
    world
        .handle
        .update_url(&caller(), &target("f:live"), change)
        .await
        .unwrap();
    world.redeploy("f", "two").await;
    let mut world = world.restart().await;
    let found = world.handle.url(&made.url.id).unwrap();
    assert_eq!((&found.target, &found.url.cors), (&target("f:live"), &Some(cors)));
    assert_eq!(
        world.handle.audited("000000000000/f:live").await.unwrap(),
        ["CreateAlias", "CreateFunctionUrlConfig", "UpdateFunctionUrlConfig"]
    );
    world.stop().await;
}

#[tokio::test]
async fn a_url_goes_with_what_it_is_attached_to() {
    let mut world = World::new().await;
    published(&world).await;
    let (handle, caller) = (&world.handle, caller());
    let of_alias = handle.create_url(&caller, &target("f:live"), open_url()).await.unwrap();
    let of_function = handle.create_url(&caller, &target("f"), open_url()).await.unwrap();
    assert_ne!(of_alias.url.id, of_function.url.id);
    handle
        .delete_alias(&caller, &target("f"), &"live".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(handle.url(&of_alias.url.id), None);
    assert_eq!(handle.url(&of_function.url.id), Some(of_function.clone()));
    handle.delete_function(&caller, &target("f")).await.unwrap();
    assert_eq!(handle.url(&of_function.url.id), None);
    world.deploy("f").await;
    assert!(
        matches!(handle.get_url(&target("f")), Err(Error::NotFound(_))),
        "a new function has none"
    );
    world.stop().await;
}
