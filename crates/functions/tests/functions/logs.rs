//! What functions print: for the caller, in the file, for followers.

use bowline_functions::error::Error;
use serde_json::json;

use crate::fake::PATIENCE;
use crate::world::{World, caller, target};

async fn tail(world: &World, event: serde_json::Value) -> String {
    let response = world.invoke("f", event).await.unwrap();
    String::from_utf8(response.log_tail.unwrap()).unwrap()
}

#[tokio::test]
async fn the_tail_holds_one_invocation() {
    let world = World::new().await;
    world.deploy("f").await;
    let first = tail(&world, json!({"print": "first"})).await;
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!(lines.len(), 5, "{first}");
    assert_eq!(lines[0], "init");
    let id = lines[1]
        .strip_prefix("START RequestId: ")
        .unwrap()
        .strip_suffix(" Version: $LATEST")
        .unwrap();
    assert_eq!(lines[2], "first");
    assert_eq!(lines[3], format!("END RequestId: {id}"));
    let report = format!(
        "REPORT RequestId: {id}\tDuration: 1.50 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 3 MB\t\
         Init Duration: "
    );
    assert!(lines[4].starts_with(&report), "{first}");
    let second = tail(&world, json!({"print": "second\n"})).await;
    assert!(second.starts_with("START "), "{second}");
    assert!(
        second.contains("\nsecond\nEND ") && !second.contains("Init Duration"),
        "{second}"
    );
}

#[tokio::test]
async fn the_tail_is_the_last_four_kibibytes() {
    let world = World::new().await;
    world.deploy("f").await;
    let text = format!("{}the end\n", "0123456789\n".repeat(1000));
    let response = world.invoke("f", json!({"print": text})).await.unwrap();
    let tail = response.log_tail.unwrap();
    assert_eq!(tail.len(), 4096);
    assert!(String::from_utf8(tail).unwrap().contains("the end\nEND "));
}

#[tokio::test]
async fn timeouts_say_so_in_the_log() {
    let world = World::new().await;
    world.deploy("f").await;
    let log = tail(&world, json!({"do": "time-out"})).await;
    assert!(log.contains("Error: Task timed out after 3.00 seconds\nEND "), "{log}");
    assert!(log.trim_end().ends_with("Status: timeout"), "{log}");
}

#[tokio::test]
async fn the_file_holds_everything_and_survives() {
    let world = World::new().await;
    world.deploy("f").await;
    for number in 0..50 {
        world
            .invoke("f", json!({"print": format!("line {number}\n")}))
            .await
            .unwrap();
    }
    let log = String::from_utf8(world.handle.log_tail(&target("f"), 1 << 20).unwrap()).unwrap();
    for number in 0..50 {
        assert!(log.contains(&format!("\nline {number}\n")), "{number}");
    }
    assert_eq!(log.matches("REPORT RequestId: ").count(), 50);
    let short = world.handle.log_tail(&target("f"), 1000).unwrap();
    assert!(short.len() <= 1000 && log.as_bytes().ends_with(&short) && short.len() > 500);
    let world = world.restart().await;
    assert_eq!(world.handle.log_tail(&target("f"), 1 << 20).unwrap(), log.as_bytes());
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    assert!(matches!(
        world.handle.log_tail(&target("f"), 10),
        Err(Error::NotFound(_))
    ));
    assert!(!world.path().join("logs/000000000000/f.log").exists());
}

#[tokio::test]
async fn followers_see_what_comes() {
    let world = World::new().await;
    world.deploy("f").await;
    world.invoke("f", json!({"print": "before\n"})).await.unwrap();
    world.handle.log_tail(&target("f"), 10).unwrap();
    let mut follower = world.handle.log_follow(&target("f")).unwrap();
    world.invoke("f", json!({"print": "after\n"})).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("REPORT ") {
        let piece = tokio::time::timeout(PATIENCE, follower.recv()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(seen.contains("\nafter\n") && !seen.contains("before"), "{seen}");
}

#[tokio::test]
async fn what_the_writer_cannot_take_is_dropped_and_counted() {
    let world = World::new().await;
    world.deploy("f").await;
    let text = "x".repeat(1 << 20);
    let response = world.invoke("f", json!({"print": text})).await.unwrap();
    assert!(response.result.is_ok());
    assert!(world.metric("log_dropped_bytes_total") > 700_000.0);
}
