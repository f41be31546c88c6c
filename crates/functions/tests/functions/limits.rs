//! Settings outside the service's limits are refused, and leave nothing.

use std::collections::BTreeMap;

use bowline_functions::error::Error;
use bowline_functions::model::{CreateFunction, Settings};

use crate::world::{World, caller, creation, target};

fn settings(change: impl FnOnce(&mut Settings)) -> CreateFunction {
    let mut create = creation("f", "one");
    change(&mut create.settings);
    create
}

fn variables(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    Some(
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    )
}

async fn check(create: CreateFunction, expected: Option<&str>) {
    let world = World::durable().await;
    let created = world.handle.create_function(&caller(), create).await;
    match expected {
        None => assert!(created.is_ok(), "{created:?}"),
        Some(expected) => {
            let text = created.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert!(matches!(
                world.handle.get_function(&target("f")),
                Err(Error::NotFound(_))
            ));
            assert_eq!(world.blobs.list().await.unwrap(), []);
        }
    }
}

#[tokio::test]
async fn numbers_have_limits() {
    for (mib, expected) in [
        (128, None),
        (10_240, None),
        (127, Some("'memorySize'")),
        (10_241, Some("to 10240")),
    ] {
        check(settings(|settings| settings.memory_mib = Some(mib)), expected).await;
    }
    for (seconds, expected) in [
        (1, None),
        (900, None),
        (0, Some("'timeout'")),
        (901, Some("to 900")),
        (-1, Some("to 1")),
    ] {
        check(settings(|settings| settings.timeout_seconds = Some(seconds)), expected).await;
    }
    let several = settings(|settings| (settings.timeout_seconds, settings.memory_mib) = (Some(0), Some(1)));
    check(
        several.clone(),
        Some("2 validation errors detected: Value '0' at 'timeout'"),
    )
    .await;
    check(several, Some("; Value '1' at 'memorySize'")).await;
    for (mib, expected) in [
        (512, None),
        (511, Some("'ephemeralStorage.size'")),
        (10_241, Some("to 10240")),
    ] {
        check(
            settings(|settings| settings.ephemeral_storage_mib = Some(mib)),
            expected,
        )
        .await;
    }
}

#[tokio::test]
async fn texts_have_limits() {
    check(settings(|settings| settings.description = Some("x".repeat(256))), None).await;
    check(
        settings(|settings| settings.description = Some("x".repeat(257))),
        Some("'description'"),
    )
    .await;
    let handler = |handler: &str| CreateFunction {
        handler: Some(handler.to_owned()),
        ..creation("f", "one")
    };
    check(handler(&"x".repeat(128)), None).await;
    check(handler(&"x".repeat(129)), Some("'handler'")).await;
    check(handler("a b"), Some("'handler'")).await;
    check(
        CreateFunction {
            handler: None,
            ..creation("f", "one")
        },
        Some("mandatory"),
    )
    .await;
    check(
        CreateFunction {
            role: String::new(),
            ..creation("f", "one")
        },
        Some("'role'"),
    )
    .await;
}

#[tokio::test]
async fn environments_have_limits() {
    let with = |pairs: &[(&str, &str)]| settings(|settings| settings.environment = variables(pairs));
    let exact = "x".repeat(4096 - 4);
    let large = "x".repeat(5 * 1024);
    check(with(&[("NAME", &exact)]), None).await;
    check(with(&[("NAME", &large)]), Some("exceeded the 4KB limit")).await;
    check(
        with(&[("AWS_REGION", "x")]),
        Some("Reserved keys used in this request: AWS_REGION"),
    )
    .await;
    check(with(&[("_HANDLER", "x")]), Some("reserved keys")).await;
    check(with(&[("1A", "x")]), Some("'environment.variables'")).await;
}

#[tokio::test]
async fn tags_have_limits() {
    let tags = |count: usize| CreateFunction {
        tags: (0..count).map(|number| (format!("k{number}"), String::new())).collect(),
        ..creation("f", "one")
    };
    check(tags(50), None).await;
    check(tags(51), Some("tag limit")).await;
}
