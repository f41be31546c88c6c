//! Aliases: what they may point at, and how they divide invocations.

use bowline_functions::error::Error;
use bowline_functions::model::{CreateAlias, PageRequest, PublishVersion, UpdateAlias};
use bowline_functions::name::{AliasName, Version};
use serde_json::json;

use crate::world::{World, caller, target};

const ONE: Version = Version::Number(1);
const TWO: Version = Version::Number(2);

/// A function `f` with versions 1 and 2.
async fn two_versions() -> World {
    let world = World::new().await;
    world.deploy("f").await;
    world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    world.redeploy("f", "two").await;
    world
        .handle
        .publish_version(&caller(), &target("f"), PublishVersion::default())
        .await
        .unwrap();
    world
}

fn alias(version: Version, routing: Option<(Version, f64)>) -> CreateAlias {
    CreateAlias {
        name: live(),
        version,
        description: String::new(),
        routing,
    }
}

fn live() -> AliasName {
    "live".parse().unwrap()
}

#[tokio::test]
async fn an_alias_follows_its_version() {
    let world = two_versions().await;
    let made = world
        .handle
        .create_alias(&caller(), &target("f"), alias(ONE, None))
        .await
        .unwrap();
    let answer = world.answer("f:live", json!({})).await;
    assert_eq!(
        (answer["code"].as_str(), answer["version"].as_str()),
        (Some("one"), Some("1"))
    );
    assert!(answer["arn"].as_str().unwrap().ends_with(":function:f:live"));
    let moved = UpdateAlias {
        version: Some(TWO),
        ..UpdateAlias::default()
    };
    let moved = world
        .handle
        .update_alias(&caller(), &target("f"), &live(), moved)
        .await
        .unwrap();
    assert_ne!(moved.revision_id, made.revision_id);
    assert_eq!(world.answer("f:live", json!({})).await["code"], "two");
    let stale = UpdateAlias {
        revision_id: Some(made.revision_id),
        ..UpdateAlias::default()
    };
    let stale = world.handle.update_alias(&caller(), &target("f"), &live(), stale).await;
    assert!(matches!(stale, Err(Error::PreconditionFailed(_))));
    let world = world.restart().await;
    assert_eq!(world.handle.get_alias(&target("f"), &live()).unwrap(), moved);
}

#[tokio::test]
async fn weights_divide_invocations() {
    let world = two_versions().await;
    world
        .handle
        .create_alias(&caller(), &target("f"), alias(ONE, Some((TWO, 0.25))))
        .await
        .unwrap();
    let mut second = 0;
    for _ in 0..400 {
        let response = world.invoke("f:live", json!({})).await.unwrap();
        second += usize::from(response.executed_version == TWO);
    }
    assert!((60..140).contains(&second), "{second} of 400 at a weight of a quarter");
    let whole = UpdateAlias {
        routing: Some(None),
        ..UpdateAlias::default()
    };
    world
        .handle
        .update_alias(&caller(), &target("f"), &live(), whole)
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(world.invoke("f:live", json!({})).await.unwrap().executed_version, ONE);
    }
}

#[tokio::test]
async fn aliases_point_at_what_exists() {
    let world = two_versions().await;
    let missing = Version::Number(9);
    for (version, routing) in [
        (missing, None),
        (ONE, Some((missing, 0.5))),
        (ONE, Some((Version::Latest, 0.5))),
        (Version::Latest, Some((ONE, 0.5))),
        (ONE, Some((ONE, 0.5))),
        (ONE, Some((TWO, 1.5))),
        (ONE, Some((TWO, f64::NAN))),
    ] {
        let refused = world
            .handle
            .create_alias(&caller(), &target("f"), alias(version, routing))
            .await;
        assert!(refused.is_err(), "{version} {routing:?}");
    }
    world
        .handle
        .create_alias(&caller(), &target("f"), alias(Version::Latest, None))
        .await
        .unwrap();
    let twice = world
        .handle
        .create_alias(&caller(), &target("f"), alias(ONE, None))
        .await;
    assert!(matches!(twice, Err(Error::Conflict(_))));
}

#[tokio::test]
async fn a_version_with_an_alias_stays() {
    let world = two_versions().await;
    world
        .handle
        .create_alias(&caller(), &target("f"), alias(ONE, Some((TWO, 0.5))))
        .await
        .unwrap();
    for version in ["f:1", "f:2"] {
        let refused = world.handle.delete_function(&caller(), &target(version)).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{version}");
    }
    let page = PageRequest::default();
    assert_eq!(
        world
            .handle
            .list_aliases(&target("f"), Some(TWO), &page)
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(
        world
            .handle
            .list_aliases(&target("f"), Some(Version::Latest), &page)
            .unwrap()
            .items
            .len(),
        0
    );
    world
        .handle
        .delete_alias(&caller(), &target("f"), &live())
        .await
        .unwrap();
    world
        .handle
        .delete_alias(&caller(), &target("f"), &live())
        .await
        .unwrap();
    world.handle.delete_function(&caller(), &target("f:1")).await.unwrap();
    let gone = world.invoke("f:1", json!({})).await;
    assert!(matches!(gone, Err(Error::NotFound(_))));
    assert!(matches!(
        world.handle.get_alias(&target("f"), &live()),
        Err(Error::NotFound(_))
    ));
}
