//! Uploads that run functions.

use bowline_foundation::id::AccountId;
use bowline_functions::events::Upload;
use bytes::Bytes;
use serde_json::{Value, json};

use super::harness::Events;
use crate::world::{caller, creation, target};

fn upload(number: usize, key: &str) -> Upload {
    Upload {
        source: "bowline.objects",
        account: AccountId::default_account(),
        storage: "a".to_owned(),
        object: format!("v1.a.{number}"),
        identity: format!("v1.a.{number}"),
        version: 1,
        bytes: 7,
        keys: vec![("name".to_owned(), Bytes::from(key.to_owned()))],
    }
}

/// A function that is registered for names in `incoming/`.
async fn registered(events: &Events) {
    let mut creation = creation("f", "one");
    creation.tags = [("bowline:on-upload".to_owned(), "name:incoming/".to_owned())].into();
    let handle = &events.world.handle;
    handle.create_function(&caller(), creation).await.unwrap();
    handle.settled(&target("f")).await.unwrap();
}

/// 05/T-E5, 05/T-E6: each upload has exactly one run, with what was uploaded as its argument, from empty pools too;
/// elsewhere there is none.
#[tokio::test]
async fn e_t5_each_upload_has_one_run() {
    const UPLOADS: usize = 100;
    let events = Events::new().await;
    registered(&events).await;
    events.world.deploy("other").await;
    let handle = &events.world.handle;
    assert_eq!(handle.uploaded(upload(1000, "elsewhere/a.png")).await.unwrap(), 0);
    let mut unkeyed = upload(1001, "incoming/a.png");
    unkeyed.keys[0].0 = "title".to_owned();
    assert_eq!(handle.uploaded(unkeyed).await.unwrap(), 0);
    assert_eq!(events.world.fake.count().created, 0, "no sandbox yet");
    let all: tokio::task::JoinSet<usize> = (0..UPLOADS)
        .map(|number| {
            let (handle, upload) = (handle.clone(), upload(number, &format!("incoming/{number}.png")));
            async move {
                // As a client does that heard no answer.
                let told = handle.uploaded(upload.clone()).await.unwrap();
                handle.uploaded(upload).await.unwrap().min(told)
            }
        })
        .collect();
    assert_eq!(all.join_all().await, vec![1; UPLOADS]);
    events.world.fake.until(|counts| counts.ended >= UPLOADS).await;
    // What was told last has been seen, so that what is told twice would have been seen too.
    handle.uploaded(upload(2000, "incoming/last.png")).await.unwrap();
    events.world.fake.until(|counts| counts.ended > UPLOADS).await;
    let seen = events.world.fake.seen();
    assert_eq!(seen.len(), UPLOADS + 1);
    for number in 0..UPLOADS {
        let expected = json!({
            "source": "bowline.objects", "kind": "created", "storage": "a", "object": format!("v1.a.{number}"),
            "version": 1, "bytes": 7, "index": "name", "key": format!("incoming/{number}.png"),
        });
        let runs = seen.iter().filter(|event: &&Value| **event == expected).count();
        assert_eq!(runs, 1, "{expected}");
    }
    events.stop().await;
}
