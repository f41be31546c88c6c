//! What functions print: for the caller, in the file, for followers.

use bowline_functions::error::Error;
use serde_json::{Value, json};

use crate::fake::PATIENCE;
use crate::world::{World, caller, creation, target};

async fn tail(world: &World, event: Value) -> String {
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

/// The tail of an invocation by a function with this `LoggingConfig`, of each line what it is if it is a record.
async fn records(config: Value, event: Value) -> (Vec<String>, Vec<Value>) {
    let world = World::new().await;
    let mut wanted = creation("f", "one");
    wanted.settings.inert.insert("LoggingConfig".to_owned(), config);
    world.handle.create_function(&caller(), wanted).await.unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    let log = tail(&world, event).await;
    let lines = log.lines().map(serde_json::from_str::<Value>);
    let records: Vec<Value> = lines.flatten().collect();
    let kinds = log.lines().map(|line| {
        let record = serde_json::from_str::<Value>(line).unwrap_or(Value::Null);
        record["type"].as_str().unwrap_or(line).to_owned()
    });
    (kinds.collect(), records)
}

#[tokio::test]
async fn logs_of_json_hold_the_platforms_records() {
    let info = json!({"LogFormat": "JSON"});
    let (kinds, records) = records(info, json!({"print": "no line's end"})).await;
    assert_eq!(kinds, ["init", "platform.start", "no line's end", "platform.report"]);
    let [start, report] = records.as_slice() else {
        panic!("two records: {records:?}");
    };
    assert_eq!(start["record"]["version"], "$LATEST");
    assert_eq!(start["record"]["requestId"], report["record"]["requestId"]);
    let time = start["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert_eq!(report["record"]["status"], "success");
    let metrics = &report["record"]["metrics"];
    assert_eq!(
        (
            &metrics["durationMs"],
            &metrics["billedDurationMs"],
            &metrics["memorySizeMB"],
            &metrics["maxMemoryUsedMB"]
        ),
        (&json!(1.5), &json!(2), &json!(128), &json!(3))
    );
    assert!(metrics["initDurationMs"].is_number(), "{metrics}");
}

#[tokio::test]
async fn the_platforms_records_are_filtered_by_their_level() {
    let at = |level: &str| json!({"LogFormat": "JSON", "SystemLogLevel": level});
    let (kinds, done) = records(at("DEBUG"), json!({"print": "x\n"})).await;
    assert_eq!(
        kinds,
        ["init", "platform.start", "x", "platform.runtimeDone", "platform.report"]
    );
    let done = &done[1]["record"];
    assert_eq!(done["status"], "success");
    assert!(done["metrics"]["producedBytes"].as_u64() > Some(0), "{done}");
    let (kinds, _) = records(at("WARN"), json!({"print": "x\n"})).await;
    assert_eq!(kinds, ["init", "x"]);
    for (event, status, error_type) in [
        (json!({"do": "time-out"}), "timeout", Value::Null),
        (json!({"do": "fail"}), "error", json!("Oops")),
    ] {
        let (kinds, records) = records(at("WARN"), event).await;
        assert_eq!(kinds, ["init", "platform.runtimeDone", "platform.report"]);
        for record in records {
            assert_eq!(record["record"]["status"], status, "{record}");
            assert_eq!(record["record"]["errorType"], error_type, "{record}");
        }
    }
}
